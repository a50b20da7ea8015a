"""How far this machine's clock is from the store's: what keeps heads from going back rests on it.

A follower whose clock is off serves no head; a bridge whose clock is off does not lead, and stamps nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from blockstore.errors import StoreError


class ClockOff(StoreError):
    """This machine's clock is certainly further from the store's than it may be."""


def wall_ms() -> int:
    """Milliseconds since 1970, by this machine."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Offset:
    """How far this clock may be from the store's: `low` to `high` milliseconds, the store's minus ours."""

    low: int
    high: int

    def beyond(self, epsilon_ms: int) -> bool:
        """Whether it is certainly more than epsilon. A slow round trip proves nothing."""
        return self.low > epsilon_ms or self.high < -epsilon_ms

    @property
    def text(self) -> str:
        """In a few words."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return f"the store's clock is {middle:+.0f} ms from ours, give or take {half:.0f} ms"


class StoreClock:
    """Measures, and remembers what it found. `read` is the store's clock, milliseconds since 1970."""

    def __init__(self, read: Callable[[], Awaitable[int]], epsilon_ms: int, wall: Callable[[], int] = wall_ms) -> None:
        self.epsilon_ms = epsilon_ms
        #: what was last measured; None before the first time
        self.offset: Offset | None = None
        self._read = read
        self._wall = wall

    @property
    def is_off(self) -> bool:
        """Whether it was found to be beyond epsilon, and not within it since."""
        return self.offset is not None and self.offset.beyond(self.epsilon_ms)

    @property
    def text(self) -> str:
        """What was measured, in a few words."""
        found = "not measured yet" if self.offset is None else self.offset.text
        return f"{found}; epsilon is {self.epsilon_ms} ms"

    async def measure(self) -> Offset:
        """Read the store's clock between two of ours. Errors: StoreError."""
        before = self._wall()
        store = await self._read()
        after = self._wall()
        # each is cut to whole milliseconds
        offset = Offset(store - after - 1, store - before + 1)
        slow = offset.high - offset.low > 2 * self.epsilon_ms
        if not (self.is_off and slow and not offset.beyond(self.epsilon_ms)):  # else: too slow to tell
            self.offset = offset
        return offset

    async def demand(self) -> None:
        """Measure now. Errors: ClockOff, StoreError."""
        await self.measure()
        if self.is_off:
            raise ClockOff(f"this machine's clock is off: {self.text}")
