"""Where a message was executed: `StateSearchMsg`, `StateWaitMsg`, and their v0 spellings.

A message on chain is found by its index row, of any age. One that is not there by its CID may have been
replaced by another with the same sender and nonce: the tipset that took that nonce is found by bisecting the
sender's nonce over the chain (Lotus walks). Order, limits and texts follow Lotus `chain/stmgr/searchwait.go`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any, Final

from blockstore.cid import Cid
from blockstore.errors import Missing
from blockstore.store import MESSAGES, TIPSETS, HeadEntry
from chain.actors.methods import NoSuchMethod
from chain.actors.returns import return_json
from chain.address import Address
from chain.errors import ActorNotFound, BadObject, ChainError, NotFound, NotHeld
from chain.ipld.amt import Amt
from chain.ipld.dag_cbor import decode
from chain.message import Message, Receipt, SignedMessage, decode_any_message, receipt_of
from chain.state.state_tree import StateTree
from chain.tipset import Tipset, TipsetKey
from rpc import lotus_json
from rpc.context import Context
from rpc.errors import MethodError, Unavailable
from rpc.lookup.ancestors import ancestry_of
from rpc.lookup.tipset_inclusion import included_in
from rpc.methods.chain.chain import read_tipset
from rpc.methods.chain.notify import following
from rpc.methods.state.read_state import states_of
from rpc.params import Integer, Uint64
from rpc.registry import V0, V1, Cost, method

#: a limit that is none
NO_LIMIT: Final = -1
#: epochs that a wait may ask a message to be deep
MAX_CONFIDENCE: Final = 900

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
        # Lotus' way of formatting tells the reason twice
        super().__init__(f"{way}message was replaced: {text}: message was replaced")
        self.text = text


class NotAMessage(BadObject):
    """What a CID leads to is something else."""


#: of this one Lotus' formatting shows the verb, and clients have come to know it so
_LOST: Final = "%!w(*errors.errorString=&{failed to load message})"


async def load_message(ctx: Context, cid: Cid) -> Message:
    """The unsigned message behind a CID. Errors: NotFound, NotAMessage."""
    try:
        raw = await ctx.objects.get(cid)
    except Missing:
        # a node keeps tipset keys among its objects
        if await ctx.store.row(TIPSETS, cid, b"") is not None:
            raise NotAMessage(f"{_LOST}: {_NO_ARRAY}") from None
        raise NotFound(f"{_LOST}: ipld: could not find {cid}") from None
    try:
        value = decode_any_message(raw)
    except BadObject:
        raise NotAMessage(f"{_LOST}: {_undecoded(raw)}") from None
    return value.message if isinstance(value, SignedMessage) else value


_NO_ARRAY: Final = "cbor input should be of type array"


def _undecoded(raw: bytes) -> str:
    """How Go's decoder of a signed message complains."""
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
        raise NotHeld(f"the receipts of the parents of the tipset at epoch {tipset.height}: {error}") from None
    if value is None:
        raise NotFound(f"failed to find receipt {place}")
    return receipt_of(value)


async def _indexed(ctx: Context, head: Tipset, cid: Cid, message: Message) -> Found | None:
    """The execution that the message's index rows lead to on the chain of `head`."""
    rows = await ctx.store.scan(MESSAGES, bytes(cid), reverse=True)
    for key, _ in rows:
        epoch, included = int.from_bytes(key[:8], "big"), key[8:]
        if head.height <= epoch + 1:
            continue
        tipset = await ancestry_of(ctx).at_height(head, epoch + 1, previous=False)
        if tipset.parents.cid == included:
            try:
                return await executed_in(ctx, tipset, cid, message, False)
            except Replaced:
                return None
    return None


async def _nonce(ctx: Context, tipset: Tipset, sender: Address) -> int | None:
    """The sender's nonce before a tipset; None where there is no such actor. Errors: Missing."""
    try:
        return (await (await StateTree.load(ctx.objects, tipset.parent_state_root)).get(sender)).nonce
    except ActorNotFound:
        return None


async def _by_nonce(
    ctx: Context, start: Tipset, cid: Cid, message: Message, limit: int, allow_replaced: bool
) -> Found | Miss:
    """The execution in the one tipset of `start`'s chain that took the nonce. Errors: NotHeld, Replaced."""
    try:
        tree = await StateTree.load(ctx.objects, start.parent_state_root)
        sender = await tree.lookup_id(Address(message.from_))
        if (await tree.get(sender)).nonce <= message.nonce:
            return Miss.NOT_ON_CHAIN
    except ActorNotFound:
        raise NotFound("failed to load initial tipset") from None
    except Missing:
        return Miss.BEYOND_HELD
    # below `low` the nonce is not passed (or not known), at `high` it is
    low = 0 if limit == NO_LIMIT else max(0, start.height - limit)
    high, top = start.height, start
    if low >= high:
        return Miss.LIMIT
    known = await _passed(ctx, start, low, sender, message.nonce)
    if known:
        # what passed it lies at `low` or below
        return Miss.LIMIT if low else Miss.NOT_ON_CHAIN
    while high - low > 1:
        middle = (low + high) // 2
        passed = await _passed(ctx, start, middle, sender, message.nonce)
        if passed:
            high = middle
        else:
            low, known = middle, passed
    top = await ctx.index.at_height(start, high)
    if known is None:
        return Miss.BEYOND_HELD
    try:
        return await executed_in(ctx, top, cid, message, allow_replaced) or Miss.NOT_ON_CHAIN
    except Replaced as error:
        raise Replaced(error.text, "checking for message execution during lookback: ") from None


async def _passed(ctx: Context, start: Tipset, epoch: int, sender: Address, nonce: int) -> bool | None:
    """Whether the sender's nonce is above `nonce` at an epoch; None where that is not held."""
    try:
        found = await _nonce(ctx, await ctx.index.at_height(start, epoch), sender)
    except (Missing, NotHeld):
        return None
    return found is not None and found > nonce


async def search(
    ctx: Context, start: Tipset, cid: Cid, limit: int, allow_replaced: bool
) -> tuple[Message, Found | Miss]:
    """The message, and its execution as seen from `start`, at most `limit` epochs back, or why there is none.

    Errors: NotFound (the message itself is not held), NotHeld, Replaced.
    """
    message = await load_message(ctx, cid)
    found = await executed_in(ctx, start, cid, message, allow_replaced)
    if found is not None:
        return message, found
    found = await _indexed(ctx, (await ctx.head()).tipset, cid, message)
    if found is not None:
        too_deep = limit != NO_LIMIT and found.tipset.height + limit < start.height
        return message, Miss.LIMIT if too_deep else found
    return message, await _by_nonce(ctx, start, cid, message, limit, allow_replaced)


def lookup(found: Found, decoded: Any = None) -> dict[str, Any]:
    """The answer of a search or a wait."""
    return {
        "Message": found.cid,
        "Receipt": lotus_json.receipt(found.receipt),
        "ReturnDec": decoded,
        "TipSet": list(found.tipset.key.cids),
        "Height": found.tipset.height,
    }


async def _search(ctx: Context, key: TipsetKey, cid: Cid, limit: int, allow_replaced: bool) -> Found | None:
    """The execution; None, with a note of the reason, for a look-up that misses (an error under `?verbose`)."""
    try:
        start = await read_tipset(ctx, key)
    except NotFound as error:
        raise NotFound(f"loading tipset {key}: {error}") from None
    found: Found | Miss
    try:
        found = (await search(ctx, start, cid, limit, allow_replaced))[1]
    except Replaced:
        if allow_replaced:
            raise
        found = Miss.REPLACED
    if isinstance(found, Found):
        return found
    ctx.note("X-Filecoin-Not-Found", str(found))
    if ctx.verbose:
        raise MethodError(f"message {cid} was not found: {found}", {"reason": str(found)})
    return None


@method("Filecoin.StateSearchMsg", versions=V1, cost=Cost.STATE, answered="indexed")
async def state_search_msg(
    ctx: Context, key: TipsetKey, message: Cid, limit: Epochs, allow_replaced: bool
) -> dict[str, Any] | None:
    """Where a message was executed, looked for from a tipset down, at most `limit` epochs (-1: any number).

    null where it was not; the header `X-Filecoin-Not-Found` has the reason. Errors: NotFound (no such message),
    NotHeld (it is on chain, its receipt is not held).
    """
    found = await _search(ctx, key, message, limit, allow_replaced)
    return None if found is None else lookup(found)


@method("Filecoin.StateSearchMsg", versions=V0, cost=Cost.STATE, answered="indexed")
async def state_search_msg_v0(ctx: Context, message: Cid) -> dict[str, Any] | None:
    """Where a message, or one that replaced it, was executed; null where it was not. Errors: as under v1."""
    return await state_search_msg(ctx, TipsetKey(), message, NO_LIMIT, True)


@method("Filecoin.StateSearchMsgLimited", versions=V0, cost=Cost.STATE, answered="indexed")
async def state_search_msg_limited(ctx: Context, message: Cid, limit: Epochs) -> dict[str, Any] | None:
    """As `StateSearchMsg`, at most `limit` epochs back."""
    return await state_search_msg(ctx, TipsetKey(), message, limit, True)


@method("Filecoin.StateGetReceipt", versions=V0, cost=Cost.STATE, answered="indexed")
async def state_get_receipt(ctx: Context, message: Cid, key: TipsetKey) -> dict[str, Any] | None:
    """The receipt of a message, or of one that replaced it; null where it was not executed."""
    found = await _search(ctx, key, message, NO_LIMIT, True)
    return None if found is None else lotus_json.receipt(found.receipt)


# --- waiting -------------------------------------------------------------------------------------------


async def wait(ctx: Context, cid: Cid, confidence: int, limit: int, allow_replaced: bool) -> tuple[Message, Found]:
    """The message and its execution, once that is `confidence` epochs deep; waits for both.

    Errors: as `search`; Unavailable, when the head changes come faster than they are read.
    """
    message = await load_message(ctx, cid)
    head = await ctx.head()
    height = head.tipset.height
    candidate = await executed_in(ctx, head.tipset, cid, message, allow_replaced)
    if candidate is None:
        try:
            _, looked_up = await search(ctx, head.tipset, cid, limit, allow_replaced)
            candidate = looked_up if isinstance(looked_up, Found) else None
        except ChainError:
            # it may still come: what cannot be looked up below is no reason not to wait
            candidate = None
    if candidate is not None and height - candidate.tipset.height >= confidence:
        return message, candidate
    async with following(ctx.services.head_source, head.seq) as entries:
        async for entry in entries:
            if candidate is not None and _reverts(entry, candidate):
                candidate = None
            for ref in entry.applies:
                if candidate is not None and ref.height - candidate.tipset.height >= confidence:
                    return message, candidate
                tipset = await ctx.index.tipset(TipsetKey(ref.key))
                found = await executed_in(ctx, tipset, cid, message, allow_replaced)
                if found is not None:
                    candidate = found
                    if confidence == 0:
                        return message, found
    raise Unavailable("the subscription to the head ended: ask again")


def _reverts(entry: HeadEntry, found: Found) -> bool:
    return any(ref.key == found.tipset.key for ref in entry.reverts)


async def _decoded(ctx: Context, message: Message, found: Found) -> Any:
    """The return value as JSON: decoded by the method's type, or the bytes where none is known."""
    data = found.receipt.return_
    if found.receipt.exit_code != 0 or not data:
        return None
    states = await states_of(ctx, found.tipset)
    try:
        actor = await states.tree.get(Address(message.to))
        name, version = await states.kind_of(actor)
    except ActorNotFound as error:
        raise MethodError(f"failed to get return type: (get sset) failed to load actor: {error}") from error
    try:
        return return_json(name, version, message.method, data)
    except NoSuchMethod:
        return data


@method("Filecoin.StateWaitMsg", versions=V1, cost=Cost.STATE, answered="indexed")
async def state_wait_msg(
    ctx: Context, message: Cid, confidence: Uint64, limit: Epochs, allow_replaced: bool
) -> dict[str, Any]:
    """Where a message was executed, once it is `confidence` epochs deep; waits until it is.

    Looks back at most `limit` epochs (-1: any number). Errors: NotFound (no such message), NotHeld, Replaced.
    """
    if confidence > MAX_CONFIDENCE:
        said = "message confidence exceeds maximum"
        raise MethodError(f"{said}: {confidence} > {MAX_CONFIDENCE}: {said}")
    value, found = await wait(ctx, message, confidence, limit, allow_replaced)
    return lookup(found, await _decoded(ctx, value, found))


@method("Filecoin.StateWaitMsg", versions=V0, cost=Cost.STATE, answered="indexed")
async def state_wait_msg_v0(ctx: Context, message: Cid, confidence: Uint64) -> dict[str, Any]:
    """As under v1, with no limit and replacements allowed."""
    return await state_wait_msg(ctx, message, confidence, NO_LIMIT, True)


@method("Filecoin.StateWaitMsgLimited", versions=V0, cost=Cost.STATE, answered="indexed")
async def state_wait_msg_limited(ctx: Context, message: Cid, confidence: Uint64, limit: Epochs) -> dict[str, Any]:
    """As under v1, with replacements allowed."""
    return await state_wait_msg(ctx, message, confidence, limit, True)
