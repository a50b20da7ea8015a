"""How long calls usually take: by method over all nodes, and how a node compares with that."""

from __future__ import annotations

from typing import Final

#: methods that are remembered
_METHODS: Final = 512
#: weights of a new measurement
_OF_METHOD: Final = 0.05
_OF_DEVIATION: Final = 0.1
_OF_NODE: Final = 0.2
#: deviations above the mean behind which an answer is late, as TCP's time-out has it (RFC 6298)
_DEVIATIONS: Final = 4


class ResponseTimes:
    """Mean and deviation of each method's response time, seconds."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, float]] = {}

    def add(self, method: str, seconds: float) -> float:
        """Count a call; how many times the usual it took."""
        known = self._known.get(method)
        if known is None:
            if len(self._known) >= _METHODS:
                self._known.clear()
            self._known[method] = seconds, seconds / 2
            return 1.0
        mean, deviation = known
        self._known[method] = (
            mean + _OF_METHOD * (seconds - mean),
            deviation + _OF_DEVIATION * (abs(seconds - mean) - deviation),
        )
        return seconds / max(mean, 1e-6)

    def late_after(self, method: str) -> float:
        """Seconds after which an answer to this method is later than usual; 0 where nothing is known."""
        mean, deviation = self._known.get(method, (0.0, 0.0))
        return mean + _DEVIATIONS * deviation


def blend(old: float | None, new: float) -> float:
    """A node's slowness (1: as usual) after one more call."""
    # one call that took very long says no more than that
    new = min(new, 100.0)
    return new if old is None else old + _OF_NODE * (new - old)
