"""How many sources are in use, how many are looked for, and which wait in reserve. After Harmony's stream manager."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: seconds between two searches for sources
DISCOVERY_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Caps:
    """Below `hard` sources more are looked for, up to `soft`, `batch` at a time. Above `high` they are reserved."""

    hard: int = 16
    soft: int = 32
    high: int = 64
    reserve: int = 100
    batch: int = 16


class KnownSource(Exception):
    """The source is in use already."""


class TooManySources(Exception):
    """The reserve is full."""


class SourceSet:
    """Names of sources: in use, and in reserve."""

    def __init__(self, caps: Caps | None = None) -> None:
        self.caps = caps or Caps()
        self._used: OrderedDict[str, None] = OrderedDict()
        self._reserved: OrderedDict[str, None] = OrderedDict()
        self._searched_at: float | None = None

    @property
    def used(self) -> Sequence[str]:
        """The sources in use, the oldest first."""
        return tuple(self._used)

    @property
    def reserved(self) -> Sequence[str]:
        """Those in reserve, the oldest first."""
        return tuple(self._reserved)

    def add(self, name: str) -> bool:
        """Take a source into use (True) or into the reserve (False). Errors: KnownSource, TooManySources."""
        if name in self._used or name in self._reserved:
            raise KnownSource(f"{name} is a source already")
        if len(self._used) < self.caps.high:
            self._used[name] = None
            return True
        if len(self._used) + len(self._reserved) >= self.caps.reserve:
            raise TooManySources(f"{name} is not taken: {len(self._used)} sources are in use")
        self._reserved[name] = None
        return False

    def remove(self, name: str) -> str | None:
        """Give up a source; the name of the one that takes its place from the reserve, if any."""
        self._reserved.pop(name, None)
        if name not in self._used:
            return None
        del self._used[name]
        if not self._reserved:
            return None
        next_name, _ = self._reserved.popitem(last=False)
        self._used[next_name] = None
        return next_name

    def wanted(self, now: float) -> int:
        """How many sources to look for now; 0 for none. A search counts from this call on, and the next one waits."""
        if len(self._used) >= self.caps.hard:
            return 0
        if self._searched_at is not None and now - self._searched_at < DISCOVERY_SECONDS:
            return 0
        self._searched_at = now
        return min(self.caps.batch, self.caps.soft - len(self._used))
