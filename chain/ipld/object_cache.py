"""Objects in memory, in so many parts that none grows large."""

from __future__ import annotations

from typing import Final

from cachetools import LRUCache

#: bytes of memory that an entry takes besides its content
_OVERHEAD: Final = 150
#: a dictionary of 700,000 entries keeps the event loop for 160 ms when it grows, and those of a part for 2 or 3. An
#: object of 2 MiB, the largest that a chain's state has, fits
_LEAST_PART: Final = 4 << 20
_MOST_PARTS: Final = 1 << 16


class ObjectCache:
    """Bytes by multihash, about `max_bytes` of them; the least recently used of a part go when it is full."""

    __slots__ = ("_largest", "_mask", "_parts", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        count = 1
        while count < _MOST_PARTS and max_bytes >= 2 * count * _LEAST_PART:
            count *= 2
        self._mask = count - 1
        # no object takes much of the whole, nor more than half of its part
        self._largest = min(max_bytes // 16, max_bytes // count // 2)
        self._parts = self._empty()

    def _empty(self) -> list[LRUCache[bytes, bytes]]:
        count = self._mask + 1
        return [LRUCache(self.max_bytes // count, getsizeof=lambda v: len(v) + _OVERHEAD) for _ in range(count)]

    def _part(self, multihash: bytes) -> LRUCache[bytes, bytes]:
        return self._parts[int.from_bytes(multihash[-2:], "big") & self._mask]

    def get(self, multihash: bytes) -> bytes | None:
        """An object, or None."""
        return self._part(multihash).get(multihash)

    def put(self, multihash: bytes, data: bytes) -> None:
        """Keep an object, unless it is too large."""
        if len(data) < self._largest:
            self._part(multihash)[multihash] = data

    def __contains__(self, multihash: bytes) -> bool:
        return multihash in self._part(multihash)

    @property
    def used_bytes(self) -> int:
        """About what the objects take now."""
        return int(sum(part.currsize for part in self._parts))

    def clear(self) -> None:
        """Drop everything."""
        self._parts = self._empty()
