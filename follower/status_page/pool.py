"""The pool of workers as the status page shows it, by the rows that workers keep in the store."""

from __future__ import annotations

import time
from typing import Any, Final

from blockstore.pool_rows import RENEW_SECONDS, read_workers
from blockstore.store import Store
from follower.status_page.fleet import Renewals

#: renewals that a worker may miss until it counts as gone
_SILENT: Final = 5
#: a row that is so much older than our clock is of a worker that was killed long ago
_OLD_MS: Final = 120_000
_MOST: Final = 50


class PoolView:
    """Looks at the workers' rows. Seconds without a renewal are counted by our own clock."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows = Renewals()

    async def workers(self) -> list[dict[str, Any]]:
        """Each worker, those that give a sign first. Errors: StoreError."""
        rows = await read_workers(self._store)
        unchanged = self._rows.unchanged({row.name: row.renewals for row in rows})
        now_ms = time.time() * 1000
        found: list[dict[str, Any]] = []
        for row in rows:
            is_silent = unchanged[row.name] > _SILENT * RENEW_SECONDS or abs(now_ms - row.written_ms) > _OLD_MS
            found.append(
                {
                    "name": row.name,
                    "state": "no sign" if is_silent else "works",
                    "slots": row.slots,
                    "done": row.done,
                    "deferred": row.deferred,
                    "failed": row.failed,
                    "waiting": row.waiting,
                }
            )
        return sorted(found, key=lambda one: (one["state"] == "no sign", one["name"]))[:_MOST]
