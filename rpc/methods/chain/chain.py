"""Blocks, tipsets, messages, receipts, events and plain objects: the `Chain*` methods that only read.

What each answers, `null` against `[]` and the texts of errors follow Lotus `node/impl/full/chain.go` and
`chain/store`. Where Lotus would find its own store complete and this one is not (below an import, receipts
that a snapshot lacks) the answer is an error that says what is not held, never an empty list.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from blockstore.cid import Cid
from blockstore.errors import Missing
from chain.errors import BadObject, NotFound, NotHeld
from chain.ipld.amt import Amt
from chain.ipld.dag_cbor import encode
from chain.ipld.dag_stat import stat_dag
from chain.message import SignedMessage, decode_any_message, event_from_fields, receipt_from_fields
from chain.state.tipset_events import EVENTS_BIT_WIDTH
from chain.tipset import Tipset, TipsetKey
from chain.tipset_messages import load_block_messages
from rpc import lotus_json
from rpc.context import Context
from rpc.errors import LimitExceeded, MethodError, limit_data
from rpc.lookup.long_answers import PacedReader
from rpc.lookup.tipset_inclusion import included_in
from rpc.lookup.tipsets import load_tipset, read_block, read_tipset, tipset_at
from rpc.lotus_json import APPLY, REVERT, json_cache
from rpc.registry import Cache, Cost, method

#: tipsets that a path may name: more than three days
MAX_PATH: Final = 10_000
#: receipts or events between two checkpoints
_RUN: Final = 16


# --- reading -------------------------------------------------------------------------------------------


async def messages_of(ctx: Context, tipset: Tipset) -> list[dict[str, Any]] | None:
    """The messages of a tipset in the order of execution, with their CIDs; null for none."""
    cache = json_cache(ctx)
    key = b"e" + tipset.key
    found = cache.get(key)
    if found is None:
        included = await included_in(ctx, tipset)
        found = cache.keep(key, lotus_json.messages(included))
    return found  # type: ignore[return-value]


# --- blocks and tipsets --------------------------------------------------------------------------------


@method("Filecoin.ChainHead", cost=Cost.FREE, cache=Cache.HEAD)
async def chain_head(ctx: Context) -> dict[str, Any]:
    """The tipset at the head of the chain."""
    head = await ctx.head()
    return json_cache(ctx).tipset(head.tipset)  # type: ignore[return-value]


@method("Filecoin.ChainGetGenesis", cache=Cache.IMMUTABLE)
async def chain_get_genesis(ctx: Context) -> dict[str, Any]:
    """The genesis tipset. Errors: NotHeld."""
    return json_cache(ctx).tipset(await ctx.index.genesis())  # type: ignore[return-value]


@method("Filecoin.ChainGetBlock", cache=Cache.IMMUTABLE)
async def chain_get_block(ctx: Context, block: Cid) -> dict[str, Any]:
    """The block header with this CID. Errors: Missing, BadObject."""
    cache = json_cache(ctx)
    found = cache.get(b"h" + block)
    if found is None:
        found = cache.header(await read_block(ctx, block))
    return found  # type: ignore[return-value]


@method("Filecoin.ChainGetTipSet", cache=Cache.TIPSET)
async def chain_get_tipset(ctx: Context, key: TipsetKey) -> dict[str, Any]:
    """The tipset of these blocks. Errors: NotFound, BadObject (blocks that make no tipset, or none)."""
    cache = json_cache(ctx)
    found = cache.tipset_by_key(key)
    if found is None:
        found = cache.tipset(await load_tipset(ctx, key))
    return found  # type: ignore[return-value]


async def _by_height(ctx: Context, epoch: int, key: TipsetKey, previous: bool) -> orjson.Fragment:
    try:
        anchor = await read_tipset(ctx, key)
    except NotFound as error:
        raise NotFound(f"loading tipset {key}: {error}") from None
    cache = json_cache(ctx)
    found = cache.ancestor(anchor, epoch, previous)
    if found is None:
        found = cache.keep_ancestor(anchor, epoch, previous, await tipset_at(ctx, epoch, anchor, previous))
    return found


@method("Filecoin.ChainGetTipSetByHeight", cache=Cache.TIPSET)
async def chain_get_tipset_by_height(ctx: Context, epoch: int, key: TipsetKey) -> dict[str, Any]:
    """The tipset at an epoch on the chain of `key`; in a null round, the one before it.

    Errors: BadRequest (negative or above the chain's end), NotFound, NotHeld.
    """
    return await _by_height(ctx, epoch, key, True)  # type: ignore[return-value]


@method("Filecoin.ChainGetTipSetAfterHeight", cache=Cache.TIPSET)
async def chain_get_tipset_after_height(ctx: Context, epoch: int, key: TipsetKey) -> dict[str, Any]:
    """The tipset at an epoch on the chain of `key`; in a null round, the one after it. Errors: as above."""
    return await _by_height(ctx, epoch, key, False)  # type: ignore[return-value]


@method("Filecoin.ChainGetPath", cost=Cost.SCAN, cache=Cache.TIPSET)
async def chain_get_path(ctx: Context, start: TipsetKey, end: TipsetKey) -> list[dict[str, Any]]:
    """The reverts and applies that lead from one tipset to another.

    Errors: NotFound, NotHeld, LimitExceeded (over 10,000 tipsets).
    """
    ends = []
    for name, key in (("from", start), ("to", end)):
        try:
            ends.append(await load_tipset(ctx, key))
        except (NotFound, BadObject) as error:
            raise NotFound(f"loading {name} tipset {key}: {error}") from None
    left, right = ends
    cache = json_cache(ctx)
    reverts: list[dict[str, Any]] = []
    applies: list[dict[str, Any]] = []
    while left.key != right.key:
        if not (len(reverts) + len(applies)) % 16:
            await ctx.checkpoint()
        if len(reverts) + len(applies) >= MAX_PATH:
            raise LimitExceeded(f"the path is longer than {MAX_PATH} tipsets", limit_data("path_tipsets", MAX_PATH))
        if left.height > right.height:
            reverts.append(cache.head_change(REVERT, left))
            left = await ctx.index.parent(left)
        else:
            applies.append(cache.head_change(APPLY, right))
            right = await ctx.index.parent(right)
    return reverts + applies[::-1]


# --- messages, receipts, events ------------------------------------------------------------------------


@method("Filecoin.ChainGetBlockMessages", cache=Cache.IMMUTABLE)
async def chain_get_block_messages(ctx: Context, block: Cid) -> dict[str, Any]:
    """The messages of a block, and their CIDs in the same order. Errors: Missing, NotHeld."""
    cache = json_cache(ctx)
    found = cache.get(b"m" + block)
    if found is None:
        bls, signed = await load_block_messages(ctx.objects, await read_block(ctx, block), ctx.checkpoint)
        found = cache.keep(
            b"m" + block,
            {
                "BlsMessages": [lotus_json.message(one.message, one.cid) for one in bls],
                "SecpkMessages": [
                    lotus_json.signed_message(one.signed, one.cid, one.raw) for one in signed if one.signed
                ],
                "Cids": [one.cid for one in (*bls, *signed)],
            },
        )
    return found  # type: ignore[return-value]


@method("Filecoin.ChainGetParentMessages", cache=Cache.IMMUTABLE, proves_empty=True)
async def chain_get_parent_messages(ctx: Context, block: Cid) -> list[dict[str, Any]] | None:
    """The messages of a block's parent tipset, each once, in the order of their receipts.

    null for the genesis and for a tipset without messages. Errors: Missing, NotHeld.
    """
    cache = json_cache(ctx)
    found = cache.get(b"p" + block)
    if found is None:
        head = await read_block(ctx, block)
        if head.height == 0:
            return None
        parent = await ctx.index.parent(Tipset(TipsetKey.of([block]), (head,)))
        found = cache.keep(b"p" + block, await messages_of(ctx, parent))
    return found  # type: ignore[return-value]


@method("Filecoin.ChainGetMessagesInTipset", cache=Cache.TIPSET, proves_empty=True)
async def chain_get_messages_in_tipset(ctx: Context, key: TipsetKey) -> list[dict[str, Any]] | None:
    """The messages of a tipset, each once, in the order of execution.

    null for the genesis and for a tipset without messages. Errors: NotFound, NotHeld.
    """
    tipset = await read_tipset(ctx, key)
    return None if tipset.height == 0 else await messages_of(ctx, tipset)


@method("Filecoin.ChainGetParentReceipts", cache=Cache.IMMUTABLE, proves_empty=True)
async def chain_get_parent_receipts(ctx: Context, block: Cid) -> list[dict[str, Any]] | None:
    """The receipts of the messages of a block's parent tipset; null for the genesis.

    Errors: Missing, NotHeld (a snapshot carries no receipts).
    """
    cache = json_cache(ctx)
    found = cache.get(b"r" + block)
    if found is None:
        head = await read_block(ctx, block)
        if head.height == 0:
            return None
        try:
            tree = await Amt.load(ctx.objects, head.parent_message_receipts, version=0)
            receipts = []
            async for part in tree.parts():
                for at, value in part:
                    if not at % _RUN:
                        await ctx.checkpoint()
                    receipts.append(lotus_json.receipt(receipt_from_fields(value)))
        except Missing as error:
            what = f"the receipts of the parents of block {block} (epoch {head.height})"
            raise NotHeld(f"{what}: {error}") from None
        found = cache.keep(b"r" + block, receipts)
    return found  # type: ignore[return-value]


@method("Filecoin.ChainGetMessage", cache=Cache.IMMUTABLE)
async def chain_get_message(ctx: Context, message: Cid) -> dict[str, Any]:
    """The message with this CID, without its signature. Errors: Missing, BadObject."""
    cache = json_cache(ctx)
    found = cache.get(b"u" + message)
    if found is None:
        raw = await ctx.objects.get(message)
        value = decode_any_message(raw)
        if isinstance(value, SignedMessage):
            answer = lotus_json.message(value.message, lotus_json.inner_message_cid(raw, value))
        else:
            answer = lotus_json.message(value, message)
        found = cache.keep(b"u" + message, answer)
    return found  # type: ignore[return-value]


@method("Filecoin.ChainGetEvents", cache=Cache.IMMUTABLE)
async def chain_get_events(ctx: Context, root: Cid) -> list[dict[str, Any]]:
    """The events under the root that a receipt names. Errors: NotFound."""
    cache = json_cache(ctx)
    found = cache.get(b"v" + root)
    if found is None:
        try:
            tree = await Amt.load(ctx.objects, root, version=3, bit_width=EVENTS_BIT_WIDTH)
        except Missing as error:
            raise NotFound(f"load events amt: ipld: could not find {Cid(error.key)}") from None
        except BadObject as error:
            raise BadObject(f"load events amt: {error}") from None
        events = []
        async for part in tree.parts():
            for at, value in part:
                if not at % _RUN:
                    await ctx.checkpoint()
                events.append(lotus_json.event(event_from_fields(value)))
        found = cache.keep(b"v" + root, events)
    return found  # type: ignore[return-value]


# --- plain objects -------------------------------------------------------------------------------------


@method("Filecoin.ChainReadObj", cache=Cache.IMMUTABLE)
async def chain_read_obj(ctx: Context, obj: Cid) -> bytes:
    """The bytes of an object. Errors: NotFound."""
    if not obj:
        raise MethodError("blockstore get: error decoding identity cid b: multihash too short. must be >= 2 bytes")
    try:
        return await _read_object(ctx, obj)
    except Missing:
        raise NotFound(f"blockstore get: ipld: could not find {obj}") from None


async def _read_object(ctx: Context, obj: Cid) -> bytes:
    """An object. Tipset keys are objects too, as Lotus stores them: here they are made of rows. Errors: Missing."""
    try:
        return await ctx.objects.get(obj)
    except Missing:
        key = await ctx.index.key_of(obj)
        if key is None:
            raise
        return encode(bytes(key))


@method("Filecoin.ChainHasObj", cache=Cache.IMMUTABLE)
async def chain_has_obj(ctx: Context, obj: Cid) -> bool:
    """Whether `ChainReadObj` gives an object: one that a lazy store would fetch, too."""
    if not obj:
        return True  # to a node's store the undefined CID is an identity CID, and these are always there
    try:
        await _read_object(ctx, obj)
    except Missing:
        return False  # an absence, so it is never kept: objects come without a head too
    return True


@method("Filecoin.ChainStatObj", cost=Cost.HEAVY, cache=Cache.IMMUTABLE)
async def chain_stat_obj(ctx: Context, obj: Cid, base: Cid) -> dict[str, int]:
    """How many objects are under one, itself counted, and their bytes; without those under `base`.

    Errors: Missing, LimitExceeded.
    """
    links, size = await stat_dag(PacedReader(ctx), obj, base or None, checkpoint=ctx.checkpoint)
    return {"Size": size, "Links": links}


@method("Filecoin.ChainBlockstoreInfo", cost=Cost.FREE, answered="local", cache=Cache.NEVER)
async def chain_blockstore_info(ctx: Context) -> dict[str, Any]:
    """Figures of the store; which ones there are depends on its kind."""
    return dict(await ctx.store.stats())
