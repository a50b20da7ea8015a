"""Which objects make room for others: LRU, LRU-SP and GDSF, over keys and sizes, in memory.

`python -m benches.stores.eviction` compares them on one trace. Sources: LRU-SP, Cheng and Kambayashi, "LRU-SP: a
size-adjusted and popularity-aware LRU replacement algorithm for web caching" (2000), here with the exact time of the
last use. GDSF at a cost of 1, Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching
policy" (1998).
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Final

#: groups of LRU-SP
GROUPS: Final = 24


def group_of(size: int, popularity: int) -> int:
    """The group of an object of `size` bytes that was used `popularity` times: log2(size / popularity), rounded up."""
    # the least n with size <= popularity * 2**n
    return min(GROUPS - 1, (-(-size // popularity) - 1).bit_length()) if size > popularity else 0


class Policy(ABC):
    """Keys with sizes in bytes, `capacity` bytes at most. `now`: a number that never goes back."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0

    @abstractmethod
    def use(self, key: bytes, now: int) -> bool:
        """Count a use; whether the key is there."""

    def add(self, key: bytes, size: int, now: int) -> list[bytes]:
        """Add a key that is not there. Returns the keys that made room: it alone, when it is larger than all."""
        if size > self.capacity:
            return [key]
        gone: list[bytes] = []
        while self.used + size > self.capacity:
            victim, freed = self._drop_one(now)
            self.used -= freed
            gone.append(victim)
        self._insert(key, size, now)
        self.used += size
        return gone

    @abstractmethod
    def _drop_one(self, now: int) -> tuple[bytes, int]:
        """Forget the key that goes first; it and its size."""

    @abstractmethod
    def _insert(self, key: bytes, size: int, now: int) -> None:
        """Take a key in, used once."""


class Lru(Policy):
    """The object that was not used for the longest time goes."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._sizes: OrderedDict[bytes, int] = OrderedDict()

    def use(self, key: bytes, now: int) -> bool:
        """See Policy."""
        if key not in self._sizes:
            return False
        self._sizes.move_to_end(key)
        return True

    def _drop_one(self, now: int) -> tuple[bytes, int]:
        return self._sizes.popitem(last=False)

    def _insert(self, key: bytes, size: int, now: int) -> None:
        self._sizes[key] = size


class LruSp(Policy):
    """The highest age x size / popularity among the oldest of each group goes; of equals the one in the later group."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        #: [size, popularity, last use, group]
        self._entries: dict[bytes, list[int]] = {}
        self._groups: list[OrderedDict[bytes, None]] = [OrderedDict() for _ in range(GROUPS)]

    def use(self, key: bytes, now: int) -> bool:
        """See Policy."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        entry[1] += 1
        entry[2] = now
        group = group_of(entry[0], entry[1])
        if group == entry[3]:
            self._groups[group].move_to_end(key)
        else:
            del self._groups[entry[3]][key]
            self._groups[group][key] = None
            entry[3] = group
        return True

    def _drop_one(self, now: int) -> tuple[bytes, int]:
        victim, most = b"", -1.0
        for group in self._groups:
            if group:
                key = next(iter(group))
                size, popularity, last, _ = self._entries[key]
                value = (now - last) * size / popularity
                if value >= most:
                    victim, most = key, value
        size, _, _, at = self._entries.pop(victim)
        del self._groups[at][victim]
        return victim, size

    def _insert(self, key: bytes, size: int, now: int) -> None:
        group = group_of(size, 1)
        self._entries[key] = [size, 1, now, group]
        self._groups[group][key] = None


class Gdsf(Policy):
    """The lowest (uses / size, on top of the value of what went last) goes."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._floor = 0.0
        self._count = 0
        #: [size, uses, the number of its one valid place in the heap]
        self._entries: dict[bytes, list[int]] = {}
        self._heap: list[tuple[float, int, bytes]] = []

    def use(self, key: bytes, now: int) -> bool:
        """See Policy."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        entry[1] += 1
        self._place(key, entry)
        return True

    def _drop_one(self, now: int) -> tuple[bytes, int]:
        while True:
            value, number, victim = heapq.heappop(self._heap)
            entry = self._entries.get(victim)
            if entry is not None and entry[2] == number:
                self._floor = value
                del self._entries[victim]
                return victim, entry[0]

    def _insert(self, key: bytes, size: int, now: int) -> None:
        entry = self._entries[key] = [size, 1, 0]
        self._place(key, entry)

    def _place(self, key: bytes, entry: list[int]) -> None:
        self._count += 1
        entry[2] = self._count
        heapq.heappush(self._heap, (self._floor + entry[1] / entry[0], self._count, key))
        if len(self._heap) > 4 * len(self._entries) + 64:
            self._heap = [one for one in self._heap if self._entries.get(one[2], (0, 0, 0))[2] == one[1]]
            heapq.heapify(self._heap)
