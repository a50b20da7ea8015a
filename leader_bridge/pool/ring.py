"""A ring of the newest tipsets: a tipset leaves it, and is worked on, when enough others stand on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from blockstore.store import TipsetRef


class RingError(Exception):
    """The ring cannot follow a head change. The watcher goes on: it starts the ring again from the store."""


class AddedBelowHead(RingError):
    """A tipset was added that is lower than the newest in the ring."""


class RevertedNotHead(RingError):
    """A tipset was reverted that is not the newest in the ring."""


class RevertedOnEmpty(RingError):
    """A tipset was reverted while the ring is empty."""


class EmptyRing(RingError):
    """The ring has neither newest nor oldest tipset."""


class ConfidenceRing:
    """The newest `size` tipsets. Size 0: each tipset leaves at once."""

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError("a ring has no negative size")
        self._size = size
        self._tipsets: deque[TipsetRef] = deque()

    def __len__(self) -> int:
        return len(self._tipsets)

    @property
    def head(self) -> TipsetRef:
        """The newest tipset. Errors: EmptyRing."""
        if not self._tipsets:
            raise EmptyRing("cache empty")
        return self._tipsets[-1]

    @property
    def tail(self) -> TipsetRef:
        """The oldest tipset. Errors: EmptyRing."""
        if not self._tipsets:
            raise EmptyRing("cache empty")
        return self._tipsets[0]

    def add(self, tipset: TipsetRef) -> TipsetRef | None:
        """Add a new head; the tipset that leaves the ring for it, if one does. Errors: AddedBelowHead."""
        if self._size == 0:
            return tipset
        if self._tipsets and tipset.height < self._tipsets[-1].height:
            raise AddedBelowHead("added tipset height lower than current head")
        self._tipsets.append(tipset)
        return self._tipsets.popleft() if len(self._tipsets) > self._size else None

    def revert(self, tipset: TipsetRef) -> None:
        """Take the head away. Errors: RevertedOnEmpty, RevertedNotHead."""
        if self._size == 0:
            return
        if not self._tipsets:
            raise RevertedOnEmpty("reverted received on empty cache")
        if self._tipsets[-1] != tipset:
            raise RevertedNotHead("reverted tipset does not match current head")
        self._tipsets.pop()

    def set_current(self, tipset: TipsetRef) -> TipsetRef | None:
        """Make a tipset the head, whatever was: others of its height and above are reverted. What leaves the ring."""
        if self._size and self._tipsets and self._tipsets[-1] == tipset:
            return None
        while self._tipsets and self._tipsets[-1].height >= tipset.height:
            self._tipsets.pop()
        return self.add(tipset)

    def warm(self, tipsets: Iterable[TipsetRef]) -> None:
        """Begin again with the newest of these, oldest first; nothing leaves for it."""
        self._tipsets = deque(tipsets, maxlen=None)
        while len(self._tipsets) > self._size:
            self._tipsets.popleft()
