"""The tipset that a transaction was executed in."""

from __future__ import annotations

from chain.errors import NotFound
from chain.index.coverage import covered
from chain.index.eth_rows import ETH_TXS_INDEX
from chain.tipset import Tipset
from rpc.context import Context
from rpc.lookup.eth.transactions import find_message_cid
from rpc.lookup.message_search import NO_LIMIT, Found, Miss, NotAMessage, Replaced, load_message, search


async def transaction_tipset(ctx: Context, digest: bytes) -> Tipset | Miss:
    """The tipset that a transaction was executed in, as seen from the head, or why there is none."""
    cid = await find_message_cid(ctx, digest)
    try:
        await load_message(ctx, cid)
        _, found = await search(ctx, (await ctx.head()).tipset, cid, NO_LIMIT, False)
    except NotFound:
        return Miss.NOT_ON_CHAIN if await _is_chain_indexed(ctx) else Miss.BEYOND_HELD
    except Replaced:
        return Miss.REPLACED
    except NotAMessage:
        return Miss.NOT_ON_CHAIN
    if not isinstance(found, Found):
        return found
    return await ctx.index.parent(found.tipset) if found.cid == cid else Miss.REPLACED


async def _is_chain_indexed(ctx: Context) -> bool:
    """Whether the transactions of all epochs below the head have rows: what is not found is not on chain then."""
    head = (await ctx.head()).tipset
    return any(low <= 1 and high >= head.height - 1 for low, high in await covered(ctx.store, ETH_TXS_INDEX))
