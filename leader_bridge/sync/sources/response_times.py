"""How long answers take, by kind of work: after how long a request goes to one more source."""

from __future__ import annotations

from collections import deque
from typing import Final

from leader_bridge.sync.sources.source import RangeWork, Work

#: answers of one kind that are remembered
_REMEMBERED: Final = 64
#: a request is slow after so many times what nine of ten answers took, and not before so many seconds
_SLOW_TIMES: Final = 3.0
_LEAST_SECONDS: Final = 0.5
#: while no source has answered a request of the kind
_UNKNOWN_SECONDS: Final = 1.0


def kind_of(work: Work) -> str:
    """Work whose answers take about as long: objects, shards, or the parts of a range."""
    return ",".join(sorted(work.parts)) if isinstance(work, RangeWork) else type(work).__name__


class ResponseTimes:
    """The last answers of all sources. A slow source gives few of them, so they tell what the others need."""

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {}

    def add(self, kind: str, seconds: float) -> None:
        """An answer took so long."""
        self._times.setdefault(kind, deque(maxlen=_REMEMBERED)).append(seconds)

    def knows(self, kind: str) -> bool:
        """Whether an answer of the kind has come."""
        return kind in self._times

    def slow_seconds(self, kind: str) -> float:
        """After how many seconds a request of the kind counts as slow."""
        times = sorted(self._times.get(kind, ()))
        if not times:
            return _UNKNOWN_SECONDS
        return max(_LEAST_SECONDS, _SLOW_TIMES * times[len(times) * 9 // 10])
