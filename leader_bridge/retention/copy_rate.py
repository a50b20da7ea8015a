"""The rate of a pass: a limit of objects a second, and less while the store's reads are slow."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from leader_bridge.clock import monotonic

#: reads over which a percentile is taken, and those of them that are the measure of what is usual
_WINDOW: Final = 128
_FEWEST: Final = 32
#: reads so much slower than usual halve the rate
_TOO_SLOW: Final = 2.0
#: seconds below which a slow read is nobody's trouble
_NOISE_SECONDS: Final = 0.002
_LEAST_RATE: Final = 50.0


class CopyRate:
    """`most`: objects a second. `take` before objects are copied, `note` how long a read by the way took."""

    def __init__(
        self,
        most: float,
        *,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], object] = asyncio.sleep,
    ) -> None:
        self.most = most
        self.rate = most
        self._clock = clock
        self._sleep = sleep
        self._next = 0.0
        self._seconds: deque[float] = deque(maxlen=_WINDOW)
        #: the 99th percentile of reads in the best window so far, which drifts up slowly: machines change
        self._usual = float("inf")

    async def take(self, objects: int) -> None:
        """Wait until so many objects may be copied."""
        now = self._clock()
        wait = self._next - now
        self._next = max(self._next, now) + objects / self.rate
        # even without a wait, others go on
        result = self._sleep(max(0.0, wait))
        if asyncio.iscoroutine(result):
            await result

    def note(self, seconds: float) -> None:
        """A read took so long."""
        self._seconds.append(seconds)
        if len(self._seconds) < _FEWEST:
            return
        p99 = sorted(self._seconds)[int(len(self._seconds) * 0.99)]
        if p99 > max(_NOISE_SECONDS, _TOO_SLOW * self._usual):
            self.rate = max(_LEAST_RATE, self.rate / 2)
            self._seconds.clear()
        else:
            self.rate = min(self.most, self.rate * 1.05)
            self._usual = min(self._usual * 1.001, max(p99, 1e-6))
