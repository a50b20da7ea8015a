"""The lowest epoch from which on a store holds something of a chain's tipsets."""

from __future__ import annotations

from blockstore.lookup import Lookup
from chain.errors import NotHeld
from chain.index.chain_index import ChainIndex
from chain.tipset import Tipset


async def oldest_held(index: ChainIndex, lookup: Lookup, head: Tipset, flag: int, low: int = 0) -> int | None:
    """The lowest epoch, `low` or above, from which on the rows of the tipsets up to `head` have a HELD_ flag.

    None where `head` itself lacks it. Where it is missing in between, the lower end of one of the ranges that are held:
    a search asks about a dozen epochs, not all. COVERAGE rows tell of every hole, for the indices that have one.
    """
    if not await index.held(head.key) & flag:
        return None

    async def is_held(epoch: int) -> bool:
        try:
            tipset = await index.at_height(head, epoch)
        except NotHeld:
            return False
        return bool(await index.held(tipset.key) & flag)

    return await lookup.first(low, head.height, is_held)
