"""Tipsets as Ethereum blocks: by number and by hash, how many transactions they hold, their receipts.

Source: Lotus `node/impl/eth/transaction.go`, `utils.go`.
"""

from __future__ import annotations

from typing import Any, Final

from chain.errors import BadRequest
from chain.tipset import Tipset
from rpc.context import Context
from rpc.json_wire import ArrayBuilder, encoder
from rpc.lookup.ahead.recent_questions import Question, note_question
from rpc.lookup.eth.block_parameter import (
    BlockParam,
    is_canonical,
    node_block_parameter,
    select,
    select_hash,
    select_latest,
    select_text,
)
from rpc.lookup.eth.blocks import load_block_json
from rpc.lookup.eth.executed_tipset import find_post_roots, load_executed
from rpc.lookup.eth.tipset_logs import load_logs_by_message
from rpc.lookup.eth.transactions import receipt_json, to_transactions
from rpc.lookup.forward import forward
from rpc.lookup.message_search import NO_LIMIT, Epochs
from rpc.lookup.tipset_inclusion import included_in
from rpc.lotus_json import json_cache
from rpc.params import EthHash
from rpc.registry import EVERY_VERSION, Cache, Cost, method

#: who asks for a block so near to the head follows the head
_NEW_EPOCHS: Final = 2


@method(
    "Filecoin.EthBlockNumber", aliases=("eth_blockNumber",), versions=EVERY_VERSION, cost=Cost.FREE, cache=Cache.HEAD
)
async def eth_block_number(ctx: Context) -> str:
    """The epoch of the newest block whose transactions are executed: the head's parent."""
    head = (await ctx.head()).tipset
    return hex(head.height if head.height == 0 else (await select_latest(ctx)).height)


# --- blocks --------------------------------------------------------------------------------------------


@method("Filecoin.EthGetBlockByNumber", aliases=("eth_getBlockByNumber",), versions=EVERY_VERSION, cache=Cache.CHAIN)
async def eth_get_block_by_number(ctx: Context, block: str, full: bool) -> Any:
    """The block at an epoch or tag, with whole transactions or their hashes.

    Errors: NullRound, BadRequest (a future epoch, `earliest`), NotHeld; `pending` needs a full node.
    """
    tipset = await select_text(ctx, block, strict=True)
    # the answer does not depend on this
    if tipset.height >= (await ctx.pin_head()).tipset.height - _NEW_EPOCHS:
        note_question(ctx, Question.FULL_BLOCK if full else Question.BLOCK)
    return await load_block_json(ctx, tipset, full)


@method(
    "Filecoin.EthGetBlockByHash",
    aliases=("eth_getBlockByHash",),
    versions=EVERY_VERSION,
    answered="indexed",
    cache=Cache.IMMUTABLE,
)
async def eth_get_block_by_hash(ctx: Context, block_hash: EthHash, full: bool) -> Any:
    """The block with a hash, on whatever fork. Errors: NotFound, NotHeld; the head itself needs a full node."""
    return await load_block_json(ctx, await select_hash(ctx, block_hash), full)


async def _count(ctx: Context, tipset: Tipset) -> str:
    return hex(len(await included_in(ctx, tipset)))


@method(
    "Filecoin.EthGetBlockTransactionCountByNumber",
    aliases=("eth_getBlockTransactionCountByNumber",),
    versions=EVERY_VERSION,
    cache=Cache.CHAIN,
)
async def eth_get_block_transaction_count_by_number(ctx: Context, block: str) -> str:
    """The number of transactions in the block at an epoch or tag. Errors: NullRound, BadRequest, NotHeld."""
    return await _count(ctx, await select_text(ctx, block, strict=True))


@method(
    "Filecoin.EthGetBlockTransactionCountByHash",
    aliases=("eth_getBlockTransactionCountByHash",),
    versions=EVERY_VERSION,
    answered="indexed",
    cache=Cache.IMMUTABLE,
)
async def eth_get_block_transaction_count_by_hash(ctx: Context, block_hash: EthHash) -> str:
    """The number of transactions in the block with a hash. Errors: NotFound, NotHeld."""
    return await _count(ctx, await select_hash(ctx, block_hash))


# --- receipts ------------------------------------------------------------------------------------------


async def _receipts(ctx: Context, block: BlockParam, limit: int) -> Any:
    tipset = await select(ctx, block, strict=True)
    if limit > NO_LIMIT and tipset.height < (await ctx.head()).tipset.height - limit:
        raise BadRequest(f"tipset {tipset.key} is older than the allowed lookback limit")
    post = await find_post_roots(ctx, tipset)
    if post is None:
        return await forward(
            ctx, "Filecoin.EthGetBlockReceiptsLimited", [node_block_parameter(tipset), limit], at=tipset
        )
    cache = json_cache(ctx)
    # logs of a block that was reverted say so
    key = (b"ER" if await is_canonical(ctx, tipset) else b"Er") + tipset.key
    kept = cache.get(key)
    if kept is not None:
        return kept
    found = await load_executed(ctx, tipset, post)
    transactions = await to_transactions(ctx, found)
    logs = await load_logs_by_message(ctx, found, {at: tx.hash for at, tx in enumerate(transactions)})
    encode = encoder(ctx.network.address_prefix)
    receipts = ArrayBuilder()
    for at, tx in enumerate(transactions):
        await ctx.checkpoint()
        # written and freed one by one: all at once, those of a large block would keep the loop
        receipts.add((encode(receipt_json(found, at, tx, logs.pop(at, ()))),))
    text = receipts.text()
    return cache.keep(key, text) if len(text) <= cache.most else text


@method(
    "Filecoin.EthGetBlockReceipts",
    aliases=("eth_getBlockReceipts",),
    versions=EVERY_VERSION,
    cost=Cost.SCAN,
    cache=Cache.CHAIN,
)
async def eth_get_block_receipts(ctx: Context, block: BlockParam) -> Any:
    """The receipts of all transactions of a block. Errors: NullRound, BadRequest, NotFound, NotHeld (also for
    events that are not held); the head itself needs a full node."""
    return await _receipts(ctx, block, NO_LIMIT)


@method("Filecoin.EthGetBlockReceiptsLimited", versions=EVERY_VERSION, cost=Cost.SCAN, cache=Cache.HEAD)
async def eth_get_block_receipts_limited(ctx: Context, block: BlockParam, limit: Epochs) -> Any:
    """As `EthGetBlockReceipts`, of a block at most `limit` epochs below the head (-1: any)."""
    return await _receipts(ctx, block, limit)
