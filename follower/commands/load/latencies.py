"""Latencies in bounded memory: a histogram with buckets of 1 %."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from math import log
from typing import Final

#: each bucket is so many times the one before; bucket 0 begins at 1 µs
_STEP: Final = 1.01
_SCALE: Final = 1 / log(_STEP)
#: the last bucket begins at 1,000 s
_BUCKETS: Final = int(log(1e9) * _SCALE) + 1


class Latencies:
    """Counts of times, from 1 µs to 1,000 s; what is outside counts as the nearest."""

    __slots__ = ("_counts", "count")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0

    def add(self, seconds: float) -> None:
        """Count one time."""
        bucket = int(log(seconds * 1e6) * _SCALE) if seconds > 1e-6 else 0
        self._counts[bucket if bucket < _BUCKETS else -1] += 1
        self.count += 1

    def merge(self, other: Latencies) -> None:
        """Count all of `other` too."""
        self._counts = [mine + theirs for mine, theirs in zip(self._counts, other._counts, strict=True)]
        self.count += other.count

    def percentile(self, percent: float) -> float | None:
        """The time in seconds that `percent` of 100 do not exceed, to 1 %; None where nothing was counted."""
        if not self.count:
            return None
        # the smallest rank that covers the share, as in the nearest-rank method
        rank = max(1, -int(-self.count * percent // 100))
        bucket = bisect_left(list(accumulate(self._counts)), rank)
        # the middle of the bucket
        return float(_STEP ** (bucket + 0.5) / 1e6)
