"""A rate: so many tokens a second, and some saved up."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """`rate` tokens a second, at most `burst` saved up. `clock`: seconds, monotonic."""

    __slots__ = ("_at", "_clock", "_left", "burst", "rate")

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._left = burst
        self._at = clock()

    def wait_seconds(self, amount: float) -> float:
        """How long until `amount` tokens are there; 0: now. More than can be saved up count as all that can be."""
        now = self._clock()
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        lacking = min(amount, self.burst) - self._left
        return max(0.0, lacking / self.rate)

    def take(self, amount: float) -> None:
        """Use tokens, whether or not they are there: see `wait_seconds`."""
        self._left -= amount

    @property
    def is_idle(self) -> bool:
        """Whether nothing has been taken for so long that it is full."""
        return not self.wait_seconds(self.burst)
