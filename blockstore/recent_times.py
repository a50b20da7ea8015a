"""The last response times of one thing, and their quantiles."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

#: times that may be added before the quantiles are computed anew
_EVERY: Final = 16


class RecentTimes:
    """The last `window` response times, seconds. Quantiles lag behind by less than 16 of them."""

    def __init__(self, window: int) -> None:
        self._times: deque[float] = deque(maxlen=window)
        self._sorted: list[float] = []
        self._unsorted = 0

    def __len__(self) -> int:
        return len(self._times)

    def add(self, seconds: float) -> None:
        """Note one."""
        self._times.append(seconds)
        self._unsorted += 1

    def quantile(self, share: float) -> float:
        """The time under or at which `share` of them are (0 < share <= 1). Errors: IndexError, when there are none."""
        if self._unsorted >= _EVERY or (self._unsorted and len(self._times) < _EVERY):
            self._sorted, self._unsorted = sorted(self._times), 0
        return self._sorted[math.ceil(len(self._sorted) * share) - 1]
