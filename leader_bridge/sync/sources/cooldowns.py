"""How long a source is left alone after it was removed: a ladder of 0, 5, 10 … 60 minutes. After Harmony.

A source that merely cannot be reached, or says that it is busy, is not on the ladder: it waits for seconds (`Pauses`).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

STEP_SECONDS: Final = 300.0
LONGEST_SECONDS: Final = 3600.0
#: a source that was not removed for so long begins at the bottom again
FORGIVEN_SECONDS: Final = 4 * LONGEST_SECONDS
_REMEMBERED: Final = 1024


class Cooldowns:
    """The ladder of each source that was removed. Remembers the last 1,024 of them."""

    def __init__(self) -> None:
        #: source -> (rungs climbed, seconds until which it is left alone)
        self._removed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._removed)

    def removed(self, source: str, now: float, *, is_critical: bool = False) -> float:
        """A source was removed; the seconds for which it is left alone. `is_critical`: it gave wrong data."""
        rungs, until = self._removed.pop(source, (0, now))
        if now - until > FORGIVEN_SECONDS:
            rungs = 0
        seconds = LONGEST_SECONDS if is_critical else min(LONGEST_SECONDS, rungs * STEP_SECONDS)
        self._removed[source] = (rungs + 1, now + seconds)
        while len(self._removed) > _REMEMBERED:
            self._removed.popitem(last=False)
        return seconds

    def wait_seconds(self, source: str, now: float) -> float:
        """For how long a source is still left alone; 0: it may be used."""
        return max(0.0, self._removed.get(source, (0, now))[1] - now)


class Pauses:
    """Short waits after a failure that is nobody's fault: 0.5 s, twice as long each time in a row, 60 s at most."""

    FIRST: Final = 0.5
    LONGEST: Final = 60.0

    def __init__(self) -> None:
        self._in_a_row = 0
        self.until = 0.0

    def failed(self, now: float) -> float:
        """One more failure; the seconds to wait."""
        seconds: float = min(self.LONGEST, self.FIRST * 2 ** min(self._in_a_row, 10))
        self._in_a_row += 1
        self.until = max(self.until, now + seconds)
        return seconds

    def told_to_wait(self, now: float, seconds: float) -> float:
        """The source says when it may be asked again (429, `Retry-After`): no failure. When that is."""
        until = now + min(seconds, self.LONGEST)
        self.until = max(self.until, until)
        return until

    def answered(self) -> None:
        """A good answer came."""
        self._in_a_row = 0
