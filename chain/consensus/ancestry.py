"""The chain of a head as a list: which tipset stands at each epoch of a range.

The newest part of the chain (the *trunk*) is kept, so that a range costs no walk: a new head adds its tipsets, a
reorg takes some off first. A head that is not on the trunk (an older request's, on the losing fork) is walked
down to where it meets it. What lies deeper than the trunk is walked from its top each time, by rows.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from typing import Final, NamedTuple

from chain.errors import NotHeld
from chain.eth.types import hash_of
from chain.index.chain_index import ChainIndex
from chain.tipset import Tipset, TipsetKey

#: epochs that the trunk reaches down at most
DEPTH: Final = 8192
#: epochs by which it grows beyond what is asked for
_AHEAD: Final = 128
#: steps of a walk from which on its rows are read together, and after which others may run
_BURST: Final = 256


class Place(NamedTuple):
    """A tipset of a chain. `block_hash` is the digest of its key's CID."""

    height: int
    block_hash: bytes
    key: TipsetKey


class Ancestry:
    """Ranges of chains. One a process: it is shared by all requests."""

    def __init__(self, index: ChainIndex, *, depth: int = DEPTH) -> None:
        self._index = index
        self._depth = depth
        self._heights: list[int] = []
        self._places: list[Place] = []
        self._lock = asyncio.Lock()

    async def between(self, head: Tipset, low: int, high: int) -> list[Place]:
        """The tipsets from epoch `low` to `high` (both included) of the chain that ends in `head`, rising.

        Errors: NotHeld, when the chain is not held so far down.
        """
        low, high = max(low, 0), min(high, head.height)
        if low > high:
            return []
        if head.height - low >= self._depth:
            top = place_of(await self._index.at_height(head, high))
            return [] if top.height < low else [*reversed(await self._below(top, low, low)), top]
        if not self._on_trunk(head.height, head.key) or self._heights[0] > low:
            async with self._lock:
                await self._reach(head, low)
        return self._places[bisect_left(self._heights, low) : bisect_right(self._heights, high)]

    async def at_height(self, head: Tipset, height: int, *, previous: bool = True) -> Tipset:
        """The ancestor of `head` (or itself) at an epoch; in a null round the one before it, or after it where
        `previous` is False. From the trunk where that reaches so far or nearly, else by skip pointers.

        `height` is 0 or more and not above the head's. Errors: NotHeld.
        """
        if height >= head.height:
            return head
        if not self._on_trunk(head.height, head.key) or self._heights[0] > height:
            if head.height - height > _AHEAD:
                return await self._index.at_height(head, height, previous=previous)
            async with self._lock:
                await self._reach(head, height)
        at = (bisect_right(self._heights, height) - 1) if previous else bisect_left(self._heights, height)
        if at < 0:
            # a null round at the trunk's bottom: what is before it is not on the trunk
            return await self._index.at_height(head, height, previous=previous)
        return await self._index.tipset(self._places[at].key)

    async def is_ancestor(self, older: TipsetKey, height: int, head: Tipset) -> bool:
        """Whether the tipset `older` of epoch `height` is `head` or among its ancestors. Errors: NotHeld."""
        return height <= head.height and (await self.at_height(head, height)).key == older

    def _on_trunk(self, height: int, key: TipsetKey) -> bool:
        at = bisect_left(self._heights, height)
        return at < len(self._heights) and self._places[at].key == key

    async def _reach(self, head: Tipset, low: int) -> None:
        """Have the trunk hold `head` and all that is below it down to `low`."""
        if not self._on_trunk(head.height, head.key):
            fork: list[Place] = []
            place = place_of(head)
            keep = 0
            while len(fork) < self._depth and self._heights and place.height >= self._heights[0]:
                if self._on_trunk(place.height, place.key):
                    keep = bisect_left(self._heights, place.height) + 1
                    break
                fork.append(place)
                place = await self._parent(place)
            self._set([*self._places[:keep], *reversed(fork)] if keep else [place_of(head)])
        if self._heights[0] > low:
            below = await self._below(self._places[0], low, max(0, low - _AHEAD))
            self._set([*reversed(below), *self._places])

    async def _below(self, place: Place, low: int, wish: int) -> list[Place]:
        """The ancestors of a tipset down to epoch `low`, and where they are held to `wish`, falling.

        Errors: NotHeld.
        """
        found: list[Place] = []
        if place.height - wish > _BURST:
            await self._index.read_rows(wish, place.height)
        while place.height > wish:
            try:
                place = await self._parent(place)
            except NotHeld:
                if place.height > low:
                    raise
                break
            if place.height < wish:
                break
            found.append(place)
            if len(found) % _BURST == 0:
                await asyncio.sleep(0)
        return found

    async def _parent(self, place: Place) -> Place:
        row = await self._index.row(place.key)
        if row is not None and row.parent_height >= 0:
            return Place(row.parent_height, hash_of(row.parent.cid), row.parent)
        return place_of(await self._index.parent(await self._index.tipset(place.key)))

    def _set(self, places: list[Place]) -> None:
        self._places = places[-self._depth :]
        self._heights = [place.height for place in self._places]


def place_of(tipset: Tipset) -> Place:
    """A tipset as a place."""
    return Place(tipset.height, hash_of(tipset.key.cid), tipset.key)
