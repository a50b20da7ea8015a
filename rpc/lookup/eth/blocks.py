"""A tipset as an Ethereum block. Source: Lotus `node/impl/eth/utils.go`."""

from __future__ import annotations

from typing import Any

from chain.errors import NotHeld
from chain.eth.types import FULL_BLOOM
from chain.tipset import Tipset
from rpc import eth_json
from rpc.context import Context
from rpc.lookup.eth.block_parameter import (
    block_hash,
)
from rpc.lookup.eth.executed_tipset import PostRoots, find_post_roots, load_executed
from rpc.lookup.eth.tipset_logs import load_events, tipset_bloom
from rpc.lookup.eth.transactions import to_transactions, tx_hashes
from rpc.lookup.forward import forward
from rpc.lookup.tipset_inclusion import included_in
from rpc.lotus_json import json_cache


async def load_block_json(ctx: Context, tipset: Tipset, full: bool) -> Any:
    """A tipset as a block, with whole transactions or their hashes; what needs the head executed is asked of a
    full node. Errors: NotHeld, NeedsNode."""
    cache = json_cache(ctx)
    key = (b"EF" if full else b"EH") + tipset.key
    kept = cache.get(key)
    if kept is not None:
        return kept
    post = await find_post_roots(ctx, tipset)
    if post is None:
        return await forward(ctx, "Filecoin.EthGetBlockByHash", [eth_json.data(block_hash(tipset)), full], at=tipset)
    found = await load_executed(ctx, tipset, post)
    shown: list[Any] = []
    if full:
        transactions = await to_transactions(ctx, found)
        for at, tx in enumerate(transactions):
            await ctx.checkpoint()
            shown.append(eth_json.transaction(tx, found.place(at)))
    else:
        shown += await tx_hashes(ctx, found.messages)
    bloom = await _find_bloom(ctx, tipset, post)
    gas_used = sum(receipt.gas_used for receipt in found.receipts)
    value = eth_json.block(
        tipset, shown, gas_used, FULL_BLOOM if bloom is None else bloom, tipset.parents.block_hash, block_hash(tipset)
    )
    if bloom is None:
        await ctx.head()  # events that are not held now may come
        return value
    return cache.keep(key, value)


async def decode_ahead(ctx: Context, tipset: Tipset) -> None:
    """Have the messages and hashes of a tipset in memory, for the time when it is executed and asked for as a block.

    Errors: NotHeld, BadObject, NotEthTx, EthAddressError, NotEthHash.
    """
    await tx_hashes(ctx, await included_in(ctx, tipset))


async def _find_bloom(ctx: Context, tipset: Tipset, post: PostRoots) -> bytes | None:
    """The bloom filter of a tipset's events; None where they are not held."""
    try:
        return await tipset_bloom(ctx, await load_events(ctx, tipset, post))
    except NotHeld:
        return None
