"""A circuit breaker: a node that fails again and again is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: failures in a row that open the breaker
_FAILURES: Final = 3
#: how long it stays open the first time, and at most, in seconds; it doubles with each trial that fails
_FIRST_SECONDS: Final = 0.5
_MOST_SECONDS: Final = 30.0


class CircuitBreaker:
    """Closed, or open until a point of time; then one call at a time is a trial. `clock`: seconds, monotonic."""

    __slots__ = ("_clock", "_failures", "_open_seconds", "_open_until", "_trial")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._open_seconds = 0.0
        self._open_until = 0.0
        self._trial = False

    @property
    def is_closed(self) -> bool:
        """Whether calls pass as usual."""
        return not self._open_seconds

    @property
    def passes(self) -> bool:
        """Whether a call may be made now, if only as a trial."""
        return self.is_closed or (not self._trial and self._clock() >= self._open_until)

    def enter(self) -> bool:
        """Begin a call. False: it must not be made. Each True is followed by `succeeded`, `failed` or `left`."""
        if self.is_closed:
            return True
        if not self.passes:
            return False
        self._trial = True
        return True

    def succeeded(self) -> None:
        """The node answered, whatever it answered."""
        self._trial = False
        self._failures = 0
        self._open_seconds = 0.0

    def failed(self) -> None:
        """The node did not answer."""
        self._trial = False
        self._failures += 1
        if self._failures >= _FAILURES and (self.is_closed or self._clock() >= self._open_until):
            self._open(min(2 * self._open_seconds or _FIRST_SECONDS, _MOST_SECONDS))

    def left(self) -> None:
        """The call was given up before the node had answered or failed."""
        self._trial = False

    def pause(self, seconds: float) -> None:
        """Open it: the node has asked for a pause."""
        self._trial = False
        self._open(min(max(seconds, _FIRST_SECONDS), 10 * _MOST_SECONDS))

    def revive(self) -> None:
        """The node is seen alive: a trial may begin at once."""
        self._open_until = min(self._open_until, self._clock())

    def _open(self, seconds: float) -> None:
        self._open_seconds = seconds
        self._open_until = self._clock() + seconds
