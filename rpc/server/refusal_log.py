"""What was refused to clients: counted by reason, and logged at a bounded rate."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

log = logging.getLogger("follower.rpc")

#: seconds between two lines of one reason
_INTERVAL_SECONDS: Final = 10.0


class RefusalLog:
    """Refusals of one process. A reason is a name of ours, never a client's text: there are few of them."""

    def __init__(self) -> None:
        #: refusals by reason, since the start
        self.counts: dict[str, int] = {}
        self._logged: dict[str, tuple[float, int]] = {}

    def count(self, reason: str, client: str) -> None:
        """Count one. The first is logged at once; those that follow together, every ten seconds at most."""
        total = self.counts[reason] = self.counts.get(reason, 0) + 1
        now = monotonic()
        logged_at, logged_total = self._logged.get(reason, (now - _INTERVAL_SECONDS, 0))
        if now - logged_at >= _INTERVAL_SECONDS:
            self._logged[reason] = now, total
            log.warning(
                "clients were refused or closed (%s): %d times since the last such line, lately %s",
                reason,
                total - logged_total,
                client or "one whose address is not known",
            )
