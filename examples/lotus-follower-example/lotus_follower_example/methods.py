"""Adds `Example.BlocksOf`: how many of the last blocks a miner has made."""

from __future__ import annotations

from chain.address import Address
from rpc.context import Context
from rpc.registry import Cost, method

#: the most epochs that one call reads
MOST_EPOCHS = 2880


@method("Example.BlocksOf", cost=Cost.SCAN)
async def blocks_of(ctx: Context, miner: Address, epochs: int) -> int:
    """The number of blocks that a miner made in the last `epochs` epochs, counted from the head."""
    if not 0 < epochs <= MOST_EPOCHS:
        raise ValueError(f"epochs must be from 1 to {MOST_EPOCHS}")
    at = (await ctx.head()).tipset
    lowest = at.height - epochs
    found = 0
    while at.height > max(lowest, 0):
        # lets other requests go on: a walk calls it once for each item
        await ctx.checkpoint()
        found += sum(block.miner == miner for block in at.blocks)
        at = await ctx.index.parent(at)
    return found
