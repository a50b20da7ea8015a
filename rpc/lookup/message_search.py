"""Finds where a message was executed, by its index rows or by its sender's nonce."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Final

from blockstore.cid import Cid
from blockstore.errors import Missing
from blockstore.store import MESSAGES, TIPSETS
from chain.address import Address
from chain.errors import ActorNotFound, BadObject, ChainError, Dropped, NotFound, NotHeld
from chain.ipld.amt import Amt
from chain.ipld.dag_cbor import decode
from chain.message import Message, Receipt, SignedMessage, decode_any_message, receipt_from_fields
from chain.tipset import Tipset
from rpc.context import Context
from rpc.lookup.actor_states import load_tree
from rpc.lookup.ancestors import ancestry_of
from rpc.lookup.decoded_cache import decoded_cache, keep
from rpc.lookup.tipset_inclusion import included_in
from rpc.missing_objects import not_held
from rpc.params import Integer

#: no limit
NO_LIMIT: Final = -1
#: bytes of memory that the cached place of a message takes
_PLACE_BYTES: Final = 500


Epochs = Annotated[int, Integer("abi.ChainEpoch", -(1 << 63), (1 << 63) - 1)]


@dataclass(frozen=True, slots=True)
class Found:
    """A message's execution: `tipset` is the one whose parents include it, `cid` the message executed."""

    tipset: Tipset
    cid: Cid
    receipt: Receipt


class Miss(StrEnum):
    """Why a look-up found nothing, as the header `X-Filecoin-Not-Found` says it."""

    NOT_ON_CHAIN = "not on chain"
    BEYOND_HELD = "beyond what is held"
    LIMIT = "look-back limit"
    REPLACED = "replaced by another message"


class Replaced(ChainError):
    """Another message took the nonce."""

    def __init__(self, text: str, way: str = "") -> None:
        # Lotus' format string has the reason twice
        super().__init__(f"{way}message was replaced: {text}: message was replaced")
        self.text = text


class NotAMessage(BadObject):
    """The object of a CID is not a message."""


#: Lotus' text, with the verb that its format string leaves in
_LOST: Final = "%!w(*errors.errorString=&{failed to load message})"


async def load_message(ctx: Context, cid: Cid, *, at_once: bool = False) -> Message:
    """The unsigned message behind a CID. `at_once`: for one that is likely absent. Errors: NotFound, NotAMessage."""
    # a node stores tipset keys as objects
    raw: bytes | BaseException
    tipset: bytes | BaseException | None
    if at_once:
        raw, tipset = await asyncio.gather(
            ctx.objects.get(cid), ctx.store.row(TIPSETS, cid, b""), return_exceptions=True
        )
    else:
        try:
            raw = await ctx.objects.get(cid)
        except Missing as error:
            raw, tipset = error, await ctx.store.row(TIPSETS, cid, b"")
    if isinstance(raw, BaseException):
        if not isinstance(raw, Missing):
            raise raw
        if isinstance(tipset, BaseException):
            raise tipset
        if tipset is not None:
            raise NotAMessage(f"{_LOST}: {_NO_ARRAY}")
        raise NotFound(f"{_LOST}: ipld: could not find {cid}")
    try:
        value = decode_any_message(raw)
    except BadObject:
        raise NotAMessage(f"{_LOST}: {_undecoded(raw)}") from None
    return value.message if isinstance(value, SignedMessage) else value


_NO_ARRAY: Final = "cbor input should be of type array"


def _undecoded(raw: bytes) -> str:
    """The error text of Go's decoder of a signed message."""
    try:
        value = decode(raw)
    except BadObject as error:
        return str(error)
    if not isinstance(value, list):
        return _NO_ARRAY
    fields = "cbor input had wrong number of fields"
    if len(value) != 2:
        return fields
    return f"unmarshaling t.Message: {fields if isinstance(value[0], list) else _NO_ARRAY}"


def _same_call(left: Message, right: Message) -> bool:
    return replace(left, gas_limit=0, gas_fee_cap=0, gas_premium=0) == replace(
        right, gas_limit=0, gas_fee_cap=0, gas_premium=0
    )


async def executed_in(ctx: Context, tipset: Tipset, cid: Cid, message: Message, allow_replaced: bool) -> Found | None:
    """The execution of a message by `tipset` (which executes what its parents include), or None.

    Errors: Replaced; NotHeld (the parents, their messages or receipts).
    """
    if tipset.height == 0:
        return None
    parent = await ctx.index.parent(tipset)
    included = await included_in(ctx, parent)
    for place in range(len(included) - 1, -1, -1):
        one = included[place]
        if one.message.from_ != message.from_:
            continue
        if one.message.nonce < message.nonce:
            return None
        if one.message.nonce > message.nonce:
            continue
        there = f"(F:{cid} n {message.nonce}, TS: {one.cid} n{one.message.nonce})"
        what = "found message with equal nonce as the one we are looking for"
        if not _same_call(one.message, message):
            raise Replaced(f"{what} that is NOT a valid replacement message {there}")
        if one.cid != cid and not allow_replaced:
            raise Replaced(f"{what} {there}")
        return Found(tipset, one.cid, await _receipt(ctx, tipset, place))
    return None


async def _receipt(ctx: Context, tipset: Tipset, place: int) -> Receipt:
    try:
        value = await Amt(ctx.objects, tipset.parent_message_receipts, 0).get(place)
    except Missing as error:
        what = f"the receipts of the parents of the tipset at epoch {tipset.height}"
        raise not_held(ctx.objects, error, what, ctx.index.known_kept.text()) from None
    if value is None:
        raise NotFound(f"failed to find receipt {place}")
    return receipt_from_fields(value)


async def _indexed(ctx: Context, head: Tipset, cid: Cid, message: Message) -> Found | None:
    """The execution that the message's index rows lead to on the chain of `head`.

    The place of a message that was found before is tried first, without a row: that it is in a tipset stays true, and
    whether the tipset is on this chain is looked up. A message that was moved by a reorg is looked for anew.
    """
    cache = decoded_cache(ctx, "message_places")
    kept = cache.get(cid)
    tipset = None if kept is None else await _executing(ctx, head, *kept[0])
    if tipset is None:
        for key, _ in await ctx.store.scan(MESSAGES, bytes(cid), reverse=True):
            epoch, included = int.from_bytes(key[:8], "big"), key[8:]
            tipset = await _executing(ctx, head, epoch, included)
            if tipset is not None:
                keep(cache, bytes(cid), (epoch, included), _PLACE_BYTES)
                break
        else:
            return None
    try:
        return await executed_in(ctx, tipset, cid, message, False)
    except Replaced:
        return None


def is_place_known(ctx: Context, cid: Cid) -> bool:
    """Whether the message was found on a chain before, so that it is certainly one."""
    return cid in decoded_cache(ctx, "message_places")


async def _executing(ctx: Context, head: Tipset, epoch: int, included: bytes) -> Tipset | None:
    """The tipset on the chain of `head` that executes those of its parents `included`, at `epoch`; None without one."""
    if head.height <= epoch + 1:
        return None
    tipset = await ancestry_of(ctx).at_height(head, epoch + 1, previous=False)
    return tipset if tipset.parents.cid == included else None


async def _nonce(ctx: Context, tipset: Tipset, sender: Address) -> int | None:
    """The sender's nonce before a tipset; None where there is no such actor. Errors: Missing."""
    try:
        tree = await load_tree(ctx, tipset.parent_state_root, tipset.height)
        return (await tree.get(sender)).nonce
    except ActorNotFound:
        return None


async def _by_nonce(
    ctx: Context, start: Tipset, cid: Cid, message: Message, limit: int, allow_replaced: bool
) -> Found | Miss:
    """The execution in the one tipset of `start`'s chain that took the nonce. Errors: NotHeld, Replaced."""
    try:
        tree = await load_tree(ctx, start.parent_state_root, start.height)
        sender = await tree.lookup_id(Address(message.from_))
        if (await tree.get(sender)).nonce <= message.nonce:
            return Miss.NOT_ON_CHAIN
    except ActorNotFound:
        raise NotFound("failed to load initial tipset") from None
    except (Missing, Dropped):
        return Miss.BEYOND_HELD
    low = 0 if limit == NO_LIMIT else max(0, start.height - limit)
    if low >= start.height:
        return Miss.LIMIT
    known: dict[int, bool | None] = {}

    async def is_passed(epoch: int) -> bool:
        known[epoch] = await _passed(ctx, start, epoch, sender, message.nonce)
        return known[epoch] is True

    taken = await ctx.services.lookup.first(low, start.height, is_passed)
    if taken == low:
        # it was passed at `low` or below
        return Miss.LIMIT if low else Miss.NOT_ON_CHAIN
    if known.get(taken - 1) is None:
        return Miss.BEYOND_HELD
    top = await ctx.index.at_height(start, taken)
    try:
        return await executed_in(ctx, top, cid, message, allow_replaced) or Miss.NOT_ON_CHAIN
    except Replaced as error:
        raise Replaced(error.text, "checking for message execution during lookback: ") from None


async def _passed(ctx: Context, start: Tipset, epoch: int, sender: Address, nonce: int) -> bool | None:
    """As `is_nonce_passed`, at an epoch on the chain of `start`."""
    try:
        tipset = await ctx.index.at_height(start, epoch)
    except (Missing, NotHeld):
        return None
    return await is_nonce_passed(ctx, tipset, sender, nonce)


async def is_nonce_passed(ctx: Context, tipset: Tipset, sender: Address, nonce: int) -> bool | None:
    """Whether the sender's nonce is above `nonce` before a tipset; None where that state is not held."""
    try:
        found = await _nonce(ctx, tipset, sender)
    except (Missing, Dropped):
        return None
    return found is not None and found > nonce


async def search(
    ctx: Context, start: Tipset, cid: Cid, limit: int, allow_replaced: bool
) -> tuple[Message, Found | Miss]:
    """The message, and its execution as seen from `start`, at most `limit` epochs back, or why there is none.

    The caller notes what of the chain its answer depends on.

    Errors: NotFound (the message itself is not held), NotHeld, Replaced.
    """
    message = await load_message(ctx, cid)
    found = await executed_in(ctx, start, cid, message, allow_replaced)
    if found is not None:
        return message, found
    found = await _indexed(ctx, (await ctx.pin_head()).tipset, cid, message)
    if found is not None:
        too_deep = limit != NO_LIMIT and found.tipset.height + limit < start.height
        return message, Miss.LIMIT if too_deep else found
    return message, await _by_nonce(ctx, start, cid, message, limit, allow_replaced)
