"""The offset between this machine's clock and the store's. That heads never go back rests on it.

A follower serves no head, and a bridge neither leads nor stamps, unless the offset is known to be within epsilon. What
is not known does not count as fine: a slow round trip widens the offset, an old measurement ends.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from blockstore.errors import StoreError

#: milliseconds for which a measurement counts
MAX_AGE_MS: Final = 15_000
#: how fast two clocks may drift apart: the most that time services slew one by (500 ppm)
_DRIFT: Final = 5e-4
#: measurements that are remembered
_SAMPLES: Final = 64
#: how often `require_accurate` measures where the round trip was too slow to tell
_TRIES: Final = 5
#: a clock that goes on while the machine is suspended
_BOOTTIME: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class ClockOff(StoreError):
    """This machine's clock may be further from the store's than epsilon."""


def wall_ms() -> int:
    """Milliseconds since 1970, by this machine."""
    return time.time_ns() // 1_000_000


def boottime_ms() -> int:
    """Milliseconds of a clock that only goes forward and counts suspended time."""
    return time.clock_gettime_ns(_BOOTTIME) // 1_000_000


@dataclass(frozen=True, slots=True)
class Offset:
    """Bounds of the store's clock minus ours: `low` to `high` milliseconds."""

    low: float
    high: float

    def is_within(self, epsilon_ms: int) -> bool:
        """Whether the offset is at most epsilon for certain."""
        return -epsilon_ms <= self.low and self.high <= epsilon_ms

    def is_beyond(self, epsilon_ms: int) -> bool:
        """Whether the offset is more than epsilon for certain. A slow round trip proves neither."""
        return self.low > epsilon_ms or self.high < -epsilon_ms

    @property
    def text(self) -> str:
        """E.g. "the store's clock is +3 ms from ours, give or take 2 ms"."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        return f"the store's clock is {middle:+.0f} ms from ours, give or take {half:.0f} ms"


@dataclass(frozen=True, slots=True)
class _Sample:
    """One reading of the store's clock: bounds of it minus `now`, which was read at `at`. Milliseconds."""

    at: int
    low: float
    high: float

    def widened(self, now: int) -> tuple[float, float]:
        """The bounds at a later moment: each clock may have drifted."""
        drift = (now - self.at) * _DRIFT
        return self.low - drift, self.high + drift


class StoreClock:
    """Measures the offset and remembers it.

    `read` is the store's clock and `wall` ours, both in milliseconds since 1970; `now` only goes forward. Measurements
    are kept against `now`, so that a step of our own clock shows at once.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[int]],
        epsilon_ms: int,
        wall: Callable[[], int] = wall_ms,
        now: Callable[[], int] = boottime_ms,
    ) -> None:
        self.epsilon_ms = epsilon_ms
        self._read = read
        self._wall = wall
        self._now = now
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        #: what all samples that count say together
        self._best: _Sample | None = None
        self._measured_at = 0

    @property
    def offset(self) -> Offset | None:
        """What is known now; None before the first measurement, and where the last one is too old."""
        now = self._now()
        if self._best is None or now - self._measured_at > MAX_AGE_MS:
            return None
        low, high = self._best.widened(now)
        ahead = self._wall() - now
        return Offset(low - ahead, high - ahead)

    @property
    def is_accurate(self) -> bool:
        """Whether our clock is within epsilon of the store's for certain."""
        return self.is_accurate_at(self._now(), self._wall())

    def is_accurate_at(self, now: int, wall: int) -> bool:
        """`is_accurate` where both clocks have just been read. Many requests ask, so this makes no `Offset`."""
        bounds = self.accurate_until(now)
        return bounds is not None and bounds[0] <= wall - now <= bounds[1]

    def accurate_until(self, now: int) -> tuple[float, float] | None:
        """Between which bounds `wall` less `now` is accurate at each moment from the last measurement until `now`, as
        long as nothing is measured; None where no measurement counts as long."""
        best = self._best
        if best is None or now - self._measured_at > MAX_AGE_MS:
            return None
        drift = (now - best.at) * _DRIFT
        return best.high + drift - self.epsilon_ms, best.low - drift + self.epsilon_ms

    @property
    def text(self) -> str:
        """What is known, for people."""
        offset = self.offset
        if offset is None:
            seconds = MAX_AGE_MS // 1000
            known = "not measured yet" if self._best is None else f"the store's clock was not read for {seconds} s"
        else:
            known = offset.text
        return f"{known}; epsilon is {self.epsilon_ms} ms"

    async def measure(self) -> None:
        """Read the store's clock between two of ours. Errors: StoreError."""
        before = self._now()
        try:
            store = await self._read()
        except StoreError:
            self._combine(self._now())
            raise
        after = self._now()
        # each clock is cut to whole milliseconds
        self._samples.appendleft(_Sample(after, store - after - 1, store - before + 1))
        self._combine(after)

    def _combine(self, now: int) -> None:
        """Intersect the samples that count, newest first.

        One that contradicts newer ones is from before a step of a clock: it counts no more, nor do those before it.
        """
        low, high = float("-inf"), float("inf")
        for number, sample in enumerate(self._samples):
            bounds = sample.widened(now)
            if now - sample.at > MAX_AGE_MS or max(low, bounds[0]) > min(high, bounds[1]):
                while len(self._samples) > number:
                    self._samples.pop()
                break
            low, high = max(low, bounds[0]), min(high, bounds[1])
        if self._samples:
            self._best = _Sample(now, low, high)
            self._measured_at = self._samples[0].at

    async def require_accurate(self) -> None:
        """Measure now, again where the round trip was too slow to tell. Errors: ClockOff, StoreError."""
        for _ in range(_TRIES):
            await self.measure()
            if self.is_accurate:
                return
            offset = self.offset
            if offset is not None and offset.is_beyond(self.epsilon_ms):
                break
        raise ClockOff(f"this machine's clock is off: {self.text}")
