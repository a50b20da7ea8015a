"""Keeps in memory what an import has just stored, so that its last pass need not read it back.

A store on other machines needs three round trips for each object: one to look, one to read, one to look again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from blockstore.car.closed_order import Pairs
from blockstore.store import Held

#: bytes that an entry takes beside the object's own, about: keys, their objects, the dictionary's slot
_ENTRY: Final = 200
_CLOSED: Final = 120


class Recent:
    """The first objects of one import, up to about `limit` bytes.

    Only for a store that pays for each object and holds no chain yet: of another's objects some may be closed already,
    and a walk should stop there.
    """

    def __init__(self, limit: int = 256 << 20) -> None:
        self._left = limit
        #: multihashes of what was stored closed
        self._closed: set[bytes] = set()
        self._loose: dict[bytes, bytes] = {}

    def add(self, closed: Iterable[Pairs], loose: Pairs) -> None:
        """Remember (multihash, bytes) of objects that are durable."""
        for multihash, data in loose:
            if self._left <= 0:
                return
            self._loose[multihash] = data
            self._left -= len(data) + _ENTRY
        for level in closed:
            if self._left <= 0:
                return
            self._closed.update([multihash for multihash, _ in level])
            self._left -= len(level) * _CLOSED

    def held(self, multihash: bytes) -> Held:
        """How an object is held. ABSENT: it is not known here."""
        if multihash in self._closed:
            return Held.CLOSED
        return Held.LOOSE if multihash in self._loose else Held.ABSENT

    def get(self, multihash: bytes) -> bytes | None:
        """The bytes of an object that was stored loose."""
        return self._loose.get(multihash)

    def closes(self, multihash: bytes) -> bool:
        """Forget an object that is about to be closed. Whether it was stored loose here."""
        data = self._loose.pop(multihash, None)
        if data is None:
            return False
        self._left += len(data) + _ENTRY
        return True
