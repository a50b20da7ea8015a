"""Which actors requests asked for under the newest heads, and those that were read ahead for the head that has come."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from chain.address import Address
from chain.state.state_tree import Actor

#: heads after which an address that nobody asks for is forgotten
_HEADS: Final = 3


class RecentActors:
    """Addresses asked for in the state of the newest head, at most `most` of them; one for all trees of a process.

    What was read ahead lies here until it is asked for: so that only what requests ask for is read at the next head.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._asked: OrderedDict[Address, int] = OrderedDict()
        self._ahead: dict[Address, Actor] = {}
        self._heads = 0
        self._root = b""
        #: the state before the newest one
        self.before = b""
        #: actors that were read ahead, and those of them that were asked for
        self.read = 0
        self.used = 0

    def take(self, root: bytes, address: Address) -> Actor | None:
        """Note that an actor is asked for under a state root; the actor, if it was read ahead."""
        if root != self._root:
            return None
        self._asked[address] = self._heads
        self._asked.move_to_end(address)
        if len(self._asked) > self._most:
            self._asked.popitem(last=False)
        found = self._ahead.pop(address, None)
        if found is not None:
            self.used += 1
        return found

    def begin(self, root: bytes) -> list[Address]:
        """From now on this is the newest state. The addresses to be read ahead in it; none if it was the newest."""
        if root == self._root:
            return []
        self.before, self._root = self._root, root
        self._heads += 1
        self._ahead = {}
        while self._asked and next(iter(self._asked.values())) < self._heads - _HEADS:
            self._asked.popitem(last=False)
        return list(self._asked)

    def put(self, root: bytes, found: Mapping[Address, Actor]) -> None:
        """What was read ahead in this state."""
        if root == self._root:
            self._ahead.update(found)
            self.read += len(found)
