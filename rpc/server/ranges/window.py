"""A limit that holds for every second, not only on average: no more than so many starts within any window.

A token bucket lets a burst and the rate pass in one second; a source that says "10 a second" means ten.
"""

from __future__ import annotations

from collections import deque


class Window:
    """At most `limit` starts in any `seconds` (1 by default). Times are the caller's, and do not go back."""

    __slots__ = ("_starts", "limit", "seconds")

    def __init__(self, limit: int, seconds: float = 1.0) -> None:
        if limit < 1:
            raise ValueError("a limit is at least 1")
        self.limit = limit
        self.seconds = seconds
        self._starts: deque[float] = deque(maxlen=limit)

    def wait_seconds(self, now: float) -> float:
        """Seconds until one more may start; 0: now."""
        if len(self._starts) < self.limit:
            return 0.0
        return max(0.0, self._starts[0] + self.seconds - now)

    def start(self, now: float) -> None:
        """One starts; see `wait_seconds`."""
        self._starts.append(now)

    def ended(self, now: float) -> None:
        """The last one to start was on its way until now. Whoever got it may have seen it as late as this."""
        if self._starts:
            self._starts[-1] = now
