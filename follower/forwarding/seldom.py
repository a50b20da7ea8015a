"""What is done now and then, however often there is a reason for it."""

from __future__ import annotations

import time
from typing import Final

_SECONDS: Final = 10.0


class Seldom:
    """Tells whether a line of the log is due: the first at once, then one in ten seconds at most."""

    def __init__(self) -> None:
        self._next = 0.0

    def is_due(self) -> bool:
        """Whether it is; then the next one is due ten seconds later."""
        now = time.monotonic()
        is_due = now >= self._next
        if is_due:
            self._next = now + _SECONDS
        return is_due
