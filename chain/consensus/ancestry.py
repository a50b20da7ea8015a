"""The ancestors of a head as a list: which tipset is at each epoch of a range.

`Ancestry` keeps the newest part of the chain, the *trunk*, in memory. A range inside the trunk needs no walk. A new
head appends its tipsets to the trunk; a reorg removes some tipsets first. When a request's head is on another fork,
the walk goes down from that head to the trunk. A range below the trunk is walked each time, from its top, by index
rows.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from typing import Final, NamedTuple

from chain.errors import NotHeld
from chain.index.chain_index import ChainIndex
from chain.tipset import Tipset, TipsetKey

#: the most epochs that the trunk covers
DEPTH: Final = 8192
#: the trunk grows by this many epochs more than a request needs
_READ_AHEAD: Final = 128
#: a walk of more epochs reads its rows in one batch, and yields to the event loop after this many steps
_WALK_BATCH: Final = 256


class Ancestor(NamedTuple):
    """A tipset of a chain. `block_hash`: 32 bytes, see `TipsetKey.block_hash`."""

    height: int
    block_hash: bytes
    key: TipsetKey

    @classmethod
    def of(cls, tipset: Tipset) -> Ancestor:
        """The entry of this tipset."""
        return cls(tipset.height, tipset.key.block_hash, tipset.key)


class Ancestry:
    """Ancestors of heads, by range of epochs. All requests of a process share one instance."""

    def __init__(self, index: ChainIndex, *, depth: int = DEPTH) -> None:
        self._index = index
        self._depth = depth
        self._heights: list[int] = []
        self._trunk: list[Ancestor] = []
        self._lock = asyncio.Lock()

    async def tipsets_between(self, head: Tipset, low: int, high: int) -> list[Ancestor]:
        """The tipsets from epoch `low` to `high`, both included, of the chain that ends in `head`. Ascending.

        Errors: NotHeld, when the store does not hold the chain down to `low`.
        """
        low, high = max(low, 0), min(high, head.height)
        if low > high:
            return []
        if head.height - low >= self._depth:
            top = Ancestor.of(await self._index.at_height(head, high))
            return [] if top.height < low else [*reversed(await self._walk_down(top, low, low)), top]
        if not self._on_trunk(head.height, head.key) or self._heights[0] > low:
            async with self._lock:
                await self._extend_trunk(head, low)
        return self._trunk[bisect_left(self._heights, low) : bisect_right(self._heights, high)]

    async def at_height(self, head: Tipset, height: int, *, previous: bool = True) -> Tipset:
        """The ancestor of `head` at an epoch, or `head` itself.

        In a null round: the tipset before it, or the tipset after it when `previous` is False. Read from the trunk when
        the epoch is in it or near it, else by skip pointers. `height`: 0 or more; from the head's height on, the answer
        is `head`. Errors: NotHeld.
        """
        if height >= head.height:
            return head
        if not self._on_trunk(head.height, head.key) or self._heights[0] > height:
            if head.height - height > _READ_AHEAD:
                return await self._index.at_height(head, height, previous=previous)
            async with self._lock:
                await self._extend_trunk(head, height)
        at = (bisect_right(self._heights, height) - 1) if previous else bisect_left(self._heights, height)
        if at < 0:
            # a null round at the bottom of the trunk: the tipset before it is not in the trunk
            return await self._index.at_height(head, height, previous=previous)
        return await self._index.tipset(self._trunk[at].key)

    async def is_ancestor(self, older: TipsetKey, height: int, head: Tipset) -> bool:
        """Whether the tipset `older` of epoch `height` is `head` or an ancestor of it. Errors: NotHeld."""
        return height <= head.height and (await self.at_height(head, height)).key == older

    def _on_trunk(self, height: int, key: TipsetKey) -> bool:
        at = bisect_left(self._heights, height)
        return at < len(self._heights) and self._trunk[at].key == key

    async def _extend_trunk(self, head: Tipset, low: int) -> None:
        """Extend the trunk so that it holds `head` and its ancestors down to epoch `low`."""
        if not self._on_trunk(head.height, head.key):
            fork: list[Ancestor] = []
            ancestor = Ancestor.of(head)
            keep = 0
            while len(fork) < self._depth and self._heights and ancestor.height >= self._heights[0]:
                if self._on_trunk(ancestor.height, ancestor.key):
                    keep = bisect_left(self._heights, ancestor.height) + 1
                    break
                fork.append(ancestor)
                ancestor = await self._parent(ancestor)
            self._set_trunk([*self._trunk[:keep], *reversed(fork)] if keep else [Ancestor.of(head)])
        if self._heights[0] > low:
            below = await self._walk_down(self._trunk[0], low, max(0, low - _READ_AHEAD))
            self._set_trunk([*reversed(below), *self._trunk])

    async def _walk_down(self, ancestor: Ancestor, low: int, stop: int) -> list[Ancestor]:
        """The ancestors of a tipset down to epoch `low`, and further down to `stop` if they are held. Descending.

        Errors: NotHeld.
        """
        found: list[Ancestor] = []
        if ancestor.height - stop > _WALK_BATCH:
            await self._index.read_rows(stop, ancestor.height)
        while ancestor.height > stop:
            try:
                ancestor = await self._parent(ancestor)
            except NotHeld:
                if ancestor.height > low:
                    raise
                break
            if ancestor.height < stop:
                break
            found.append(ancestor)
            if len(found) % _WALK_BATCH == 0:
                await asyncio.sleep(0)
        return found

    async def _parent(self, ancestor: Ancestor) -> Ancestor:
        row = await self._index.row(ancestor.key)
        if row is not None and row.parent_height >= 0:
            return Ancestor(row.parent_height, row.parent.block_hash, row.parent)
        return Ancestor.of(await self._index.parent(await self._index.tipset(ancestor.key)))

    def _set_trunk(self, ancestors: list[Ancestor]) -> None:
        self._trunk = ancestors[-self._depth :]
        self._heights = [ancestor.height for ancestor in self._trunk]
