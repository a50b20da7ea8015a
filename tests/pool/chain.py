"""Chains for tests of the pool: published, with events that nobody has indexed, in any store."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from blockstore.store import Store
from chain.tipset import Tipset
from tests.support.event_chain import TOKEN, EventChain


class PoolChain(EventChain):
    """As EventChain, but a head change writes no rows of events: they are the pool's work."""

    async def index(self, applies: Sequence[Tipset]) -> None:
        return None

    async def line(self, top: int, nulls: Collection[int] = ()) -> list[Tipset]:
        """The chain from epoch 0 to `top` without the null rounds, in one head change; each tipset emits a log."""
        made: list[Tipset] = []
        at = self.head
        height = 0 if at is None else at.height + 1
        while height <= top:
            skipped = 0
            while height + skipped in nulls:
                skipped += 1
            at = await self.tipset(at, [(TOKEN, height, b"data")], nulls=skipped)
            made.append(at)
            height = at.height + 1
        await self.publish([], made)
        return made


async def pool_chain(store: Store, top: int, nulls: Collection[int] = ()) -> PoolChain:
    """A chain from epoch 0 to `top` in a store."""
    chain = PoolChain(store)
    await chain.line(top, nulls)
    return chain
