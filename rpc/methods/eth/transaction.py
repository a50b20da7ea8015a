"""Transactions by every route, their receipts, and what a hash is of a message and back.

The hash of a transaction that was signed as one leads to its message by an index row; that of a native message
is the digest of its CID. Source: Lotus `node/impl/eth/transaction.go`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from blockstore.cid import Cid
from blockstore.errors import BadCid, Missing
from chain.errors import ActorNotFound, BadObject, BadRequest, NotFound, NotHeld
from chain.eth.transaction import NotEthTx, eth_tx, is_eth
from chain.eth.types import EthAddressError, NotEthHash, hash_of
from chain.index.coverage import MESSAGES_INDEX, contains, covered, ranges_text
from chain.message import SignedMessage, decode_any_message
from chain.tipset import Tipset, TipsetKey
from rpc import eth_json
from rpc.context import WHOLE_HEAD, Context
from rpc.errors import MethodError
from rpc.lookup.ancestors import ancestry_of
from rpc.lookup.decoded_cache import decoded_cache, keep
from rpc.lookup.eth.block_parameter import block_hash, select_hash, select_text
from rpc.lookup.eth.executed_tipset import Executed, PostRoots, find_post_roots, load_executed
from rpc.lookup.eth.tipset_logs import load_logs_by_message
from rpc.lookup.eth.transactions import find_message, find_message_cid, load_tree_after, receipt_json, to_transaction
from rpc.lookup.forward import forward
from rpc.lookup.message_search import NO_LIMIT, Epochs, Found, Miss, NotAMessage, Replaced, search
from rpc.lookup.tipset_inclusion import included_in
from rpc.lotus_json import json_cache
from rpc.params import EthHash, EthUint64
from rpc.registry import EVERY_VERSION, Cache, Cost, method

#: why a message on chain has no Ethereum form
_NO_TRANSACTION: Final = (NotEthTx, EthAddressError, NotEthHash, ActorNotFound)
#: the cache of where transactions were executed, and the memory of an entry
_PLACES: Final = "eth_places"
_PLACE_BYTES: Final = 600


# --- hashes and CIDs -----------------------------------------------------------------------------------


@method("Filecoin.EthGetMessageCidByTransactionHash", versions=EVERY_VERSION, answered="indexed", cache=Cache.HEAD)
async def eth_get_message_cid_by_transaction_hash(ctx: Context, tx_hash: EthHash | None) -> Cid | None:
    """The CID of the message behind a transaction hash; null where none is known."""
    if tx_hash is None:
        return None
    cid = await find_message_cid(ctx, tx_hash)
    return None if await _message(ctx, cid) is None else cid


@method("Filecoin.EthGetTransactionHashByCid", versions=EVERY_VERSION, cache=Cache.IMMUTABLE)
async def eth_get_transaction_hash_by_cid(ctx: Context, cid: Cid) -> str | None:
    """The transaction hash of a message; null where no message has this CID. Errors: NotEthTx."""
    found = await _message(ctx, cid)
    if found is None:
        return None
    if isinstance(found, SignedMessage) and is_eth(found):
        return eth_json.data(eth_tx(found, ctx.network.eth_chain_id).hash)
    return eth_json.data(hash_of(cid))


async def _message(ctx: Context, cid: Cid) -> object | None:
    try:
        return decode_any_message(await ctx.objects.get(cid))
    except (Missing, BadObject, BadCid):
        return None


# --- by hash -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a transaction was executed: the tipset's key, its index there, and a child of that tipset."""

    tipset: TipsetKey
    index: int
    child: TipsetKey
    child_height: int


async def _known_place(ctx: Context, tx_hash: bytes, limit: int) -> _Place | None:
    """Where a transaction that was found before was executed, if that is on the chain of the request's head: there is
    no other such place then. Errors: NotHeld."""
    kept = decoded_cache(ctx, _PLACES).get(tx_hash) if limit == NO_LIMIT else None
    if kept is None:
        return None
    place: _Place = kept[0]
    if not await ancestry_of(ctx).is_ancestor(place.child, place.child_height, (await ctx.pin_head()).tipset):
        return None
    ctx.note_chain(place.child_height)
    return place


async def _find(ctx: Context, tx_hash: bytes, cid: Cid, limit: int) -> tuple[Executed, int] | None:
    """The tipset that a message was executed in and its index there, as seen from the head; None where it is
    not on chain, with a note of the reason. Errors: NotHeld, NotFound."""
    found: Found | Miss
    try:
        _, found = await search(ctx, (await ctx.pin_head()).tipset, cid, limit, False)
    except Replaced:
        found = Miss.REPLACED
    # it cannot be found elsewhere while the tipset that executed it is on the chain
    ctx.note_chain(found.tipset.height if isinstance(found, Found) and limit == NO_LIMIT else WHOLE_HEAD)
    if not isinstance(found, Found):
        ctx.add_header("X-Filecoin-Not-Found", str(found))
        return None
    if found.cid != cid:
        return None
    child = found.tipset
    tipset = await ctx.index.parent(child)
    done = await load_executed(ctx, tipset, PostRoots(child.parent_state_root, child.parent_message_receipts))
    for index, one in enumerate(done.messages):
        if one.cid == cid:
            place = _Place(tipset.key, index, child.key, child.height)
            keep(decoded_cache(ctx, _PLACES), bytes(tx_hash), place, _PLACE_BYTES)
            return done, index
    raise NotFound("cannot find the msg in the tipset")


def _transaction_key(index: int, tipset: TipsetKey) -> bytes:
    return b"ET%d," % index + tipset


def _receipt_key(index: int, tipset: TipsetKey) -> bytes:
    return b"EX%d," % index + tipset


async def _transaction_json(ctx: Context, found: Executed, index: int) -> orjson.Fragment:
    cache = json_cache(ctx)
    key = _transaction_key(index, found.tipset.key)
    kept = cache.get(key)
    if kept is not None:
        return kept
    tx = await to_transaction(ctx, await load_tree_after(ctx, found.tipset, found.post), found.messages[index])
    return cache.keep(key, eth_json.transaction(tx, found.place(index)))


async def _transaction(ctx: Context, tx_hash: bytes | None, limit: int) -> Any:
    if tx_hash is None:
        return None
    place = await _known_place(ctx, tx_hash, limit)
    if place is not None and (kept := json_cache(ctx).get(_transaction_key(place.index, place.tipset))) is not None:
        return kept
    try:
        cid, _ = await find_message(ctx, tx_hash)
        found = await _find(ctx, tx_hash, cid, limit)
        if found is not None:
            return await _transaction_json(ctx, *found)
    except (NotFound, NotAMessage, Replaced, *_NO_TRANSACTION):
        # as at the node: it is not on chain
        ctx.add_header("X-Filecoin-Not-Found", str(Miss.NOT_ON_CHAIN))
    return await _pending(ctx, tx_hash, limit)


async def _pending(ctx: Context, tx_hash: bytes, limit: int) -> Any:
    """A transaction of the full node's mempool; null without a node.

    The node may have a newer head: a transaction in one of its blocks that this head does not see is still
    pending here. Errors: NotHeld (it is on the node's chain at an epoch that is not indexed here).
    """
    if ctx.node is None:
        return None
    found = await forward(ctx, "Filecoin.EthGetTransactionByHashLimited", [eth_json.data(tx_hash), limit])
    if isinstance(found, dict):
        if isinstance(found.get("blockNumber"), str):
            await _check_indexed(ctx, int(found["blockNumber"], 16))
        return {**found, "blockHash": None, "blockNumber": None, "transactionIndex": None}
    return found


async def _check_indexed(ctx: Context, epoch: int) -> None:
    """Errors: NotHeld, for an epoch below the head whose messages are not indexed: what is not found may be there."""
    if epoch < (await ctx.pin_head()).tipset.height:
        ranges = await covered(ctx.store, MESSAGES_INDEX)
        if not contains(ranges, epoch):
            raise NotHeld(f"messages of epoch {epoch} (indexed: {ranges_text(ranges)})")


@method(
    "Filecoin.EthGetTransactionByHash",
    aliases=("eth_getTransactionByHash",),
    versions=EVERY_VERSION,
    cost=Cost.STATE,
    answered="indexed",
    cache=Cache.CHAIN,
)
async def eth_get_transaction_by_hash(ctx: Context, tx_hash: EthHash | None) -> Any:
    """The transaction with a hash, on chain or (with a full node behind) pending; null where there is none."""
    return await _transaction(ctx, tx_hash, NO_LIMIT)


@method(
    "Filecoin.EthGetTransactionByHashLimited",
    versions=EVERY_VERSION,
    cost=Cost.STATE,
    answered="indexed",
    cache=Cache.HEAD,
)
async def eth_get_transaction_by_hash_limited(ctx: Context, tx_hash: EthHash | None, limit: Epochs) -> Any:
    """As `EthGetTransactionByHash`, at most `limit` epochs below the head (-1: any)."""
    return await _transaction(ctx, tx_hash, limit)


async def _receipt(ctx: Context, tx_hash: bytes, limit: int) -> orjson.Fragment | None:
    cache = json_cache(ctx)
    known = await _known_place(ctx, tx_hash, limit)
    if known is not None and (kept := cache.get(_receipt_key(known.index, known.tipset))) is not None:
        return kept
    try:
        cid, _ = await find_message(ctx, tx_hash)
    except NotFound:
        ctx.add_header("X-Filecoin-Not-Found", str(Miss.NOT_ON_CHAIN))
        return None
    except NotAMessage as error:
        raise MethodError(f"could not find transaction {eth_json.data(tx_hash)}: {error}") from error
    try:
        place = await _find(ctx, tx_hash, cid, limit)
    except NotFound as error:
        raise MethodError(f"could not find transaction {eth_json.data(tx_hash)}: {error}") from error
    if place is None:
        return None
    found, index = place
    # it stands on the chain of the request's head: its logs are not removed
    key = _receipt_key(index, found.tipset.key)
    kept = cache.get(key)
    if kept is not None:
        return kept
    try:
        tx = await to_transaction(ctx, await load_tree_after(ctx, found.tipset, found.post), found.messages[index])
    except _NO_TRANSACTION as error:
        raise MethodError(f"failed to convert {eth_json.data(tx_hash)} into an Eth Txn: {error}") from error
    logs = await load_logs_by_message(ctx, found, {index: tx.hash})
    return cache.keep(key, receipt_json(found, index, tx, logs.get(index, [])))


@method(
    "Filecoin.EthGetTransactionReceipt",
    aliases=("eth_getTransactionReceipt",),
    versions=EVERY_VERSION,
    cost=Cost.STATE,
    answered="indexed",
    cache=Cache.CHAIN,
)
async def eth_get_transaction_receipt(ctx: Context, tx_hash: EthHash) -> Any:
    """The receipt of a transaction; null where it is not on chain. Errors: NotHeld (its receipt or events)."""
    return await _receipt(ctx, tx_hash, NO_LIMIT)


@method(
    "Filecoin.EthGetTransactionReceiptLimited",
    versions=EVERY_VERSION,
    cost=Cost.STATE,
    answered="indexed",
    cache=Cache.HEAD,
)
async def eth_get_transaction_receipt_limited(ctx: Context, tx_hash: EthHash, limit: Epochs) -> Any:
    """As `EthGetTransactionReceipt`, at most `limit` epochs below the head (-1: any)."""
    return await _receipt(ctx, tx_hash, limit)


# --- by block and index --------------------------------------------------------------------------------


async def _at_index(ctx: Context, tipset: Tipset, index: int) -> Any:
    post = await find_post_roots(ctx, tipset)
    if post is not None:
        found = await load_executed(ctx, tipset, post)
        _in_range(index, len(found.messages))
        return await _transaction_json(ctx, found, index)
    _in_range(index, len(await included_in(ctx, tipset)))
    params = [eth_json.data(block_hash(tipset)), hex(index)]
    return await forward(ctx, "Filecoin.EthGetTransactionByBlockHashAndIndex", params, at=tipset)


def _in_range(index: int, count: int) -> None:
    if index >= count:
        raise BadRequest(f"index {index} out of range: tipset contains {count} messages")


@method(
    "Filecoin.EthGetTransactionByBlockHashAndIndex",
    aliases=("eth_getTransactionByBlockHashAndIndex",),
    versions=EVERY_VERSION,
    cost=Cost.STATE,
    answered="indexed",
    cache=Cache.IMMUTABLE,
)
async def eth_get_transaction_by_block_hash_and_index(ctx: Context, block_hash: EthHash, index: EthUint64) -> Any:
    """One transaction of the block with a hash. Errors: NotFound, BadRequest (no such index), NotHeld."""
    return await _at_index(ctx, await select_hash(ctx, block_hash), index)


@method(
    "Filecoin.EthGetTransactionByBlockNumberAndIndex",
    aliases=("eth_getTransactionByBlockNumberAndIndex",),
    versions=EVERY_VERSION,
    cost=Cost.STATE,
    cache=Cache.CHAIN,
)
async def eth_get_transaction_by_block_number_and_index(ctx: Context, block: str, index: EthUint64) -> Any:
    """One transaction of the block at an epoch or tag. Errors: NullRound, BadRequest, NotHeld."""
    return await _at_index(ctx, await select_text(ctx, block, strict=True), index)
