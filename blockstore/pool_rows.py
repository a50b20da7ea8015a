"""Rows of the FLEET table in which each worker of the pool tells what it does. The status page reads them.

Nothing is decided by them. A row is renewed every few seconds: a reader counts by its own clock for how long a row has
stayed the same.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import Final

import orjson

from blockstore.store import FLEET, Batch, Store

log = logging.getLogger(__name__)

#: seconds between two renewals, and from a worker's last one until its row is removed by another
RENEW_SECONDS: Final = 3.0
GONE_SECONDS: Final = 3600.0
#: partition of the FLEET table; row key: the worker's name
_WORKERS: Final = b"workers"
MOST_WORKERS: Final = 1000


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """What a worker tells. `slots`: by class; `done`, `deferred`, `failed`: jobs since it began; `tasks`: reports by
    status; `waiting`: jobs that wait in the queue, by class, as it last saw; `renewals` makes each renewal another
    row."""

    name: str
    slots: dict[str, int] = field(default_factory=dict)
    done: int = 0
    deferred: int = 0
    failed: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    renewals: int = 0
    written_ms: int = 0


def put_worker(batch: Batch, row: WorkerRow) -> None:
    """Write a worker's row with a batch."""
    batch.put(FLEET, _WORKERS, row.name.encode(), orjson.dumps(asdict(row)))


def delete_worker(batch: Batch, name: str) -> None:
    """Remove a worker's row with a batch."""
    batch.delete(FLEET, _WORKERS, name.encode())


async def read_workers(store: Store) -> list[WorkerRow]:
    """The valid rows, by name. Errors: StoreError."""
    found: list[WorkerRow] = []
    for key, value in await store.scan(FLEET, _WORKERS, limit=MOST_WORKERS):
        try:
            row = WorkerRow(**orjson.loads(value))
            if row.name.encode() != key:
                raise ValueError("another name than its key")
        except (ValueError, TypeError, AttributeError) as error:
            log.debug("a row of a worker is left out: %s", error)
        else:
            found.append(row)
    return found
