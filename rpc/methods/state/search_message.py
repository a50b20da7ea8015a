"""Where a message was executed: `StateSearchMsg`, `StateWaitMsg`, and their v0 spellings.

A message on chain is found by its index row, of any age. One that is not there by its CID may have been
replaced by another with the same sender and nonce: the tipset that took that nonce is found by searching the
sender's nonce over the chain (Lotus walks). Order, limits and texts follow Lotus `chain/stmgr/searchwait.go`.
"""

from __future__ import annotations

from typing import Any, Final

from blockstore.cid import Cid
from blockstore.store import HeadEntry
from chain.actors.methods import NoSuchMethod
from chain.actors.returns import return_json
from chain.address import Address
from chain.errors import ActorNotFound, Dropped, NotFound, NotHeld
from chain.message import Message
from chain.tipset import Tipset, TipsetKey
from rpc import lotus_json
from rpc.context import Context
from rpc.errors import MethodError, Unavailable
from rpc.lookup.actor_states import states_of
from rpc.lookup.message_search import (
    Epochs,
    Found,
    Miss,
    Replaced,
    executed_in,
    is_nonce_passed,
    load_message,
    search,
)
from rpc.lookup.tipsets import read_tipset
from rpc.params import Uint64
from rpc.registry import V0, V1, Cache, Cost, method
from rpc.services import head_entries

#: the highest confidence of a wait, in epochs
MAX_CONFIDENCE: Final = 900


def lookup_json(found: Found, decoded: Any = None) -> dict[str, Any]:
    """The JSON of a search or a wait."""
    return {
        "Message": found.cid,
        "Receipt": lotus_json.receipt(found.receipt),
        "ReturnDec": decoded,
        "TipSet": list(found.tipset.key.cids),
        "Height": found.tipset.height,
    }


async def _search(ctx: Context, key: TipsetKey, cid: Cid, limit: int, allow_replaced: bool) -> Found | None:
    """The execution, or None with the reason in a header (an error under `?verbose`)."""
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
    if found is Miss.BEYOND_HELD and (kept := (await ctx.index.kept()).text()):
        # its nonce is taken, in an epoch that the store has dropped: null would say that it was not executed
        raise Dropped(f"the epoch in which message {cid}, or one that replaced it, was executed; {kept}")
    ctx.add_header("X-Filecoin-Not-Found", str(found))
    if ctx.verbose:
        raise MethodError(f"message {cid} was not found: {found}", {"reason": str(found)})
    return None


@method("Filecoin.StateSearchMsg", versions=V1, cost=Cost.STATE, answered="indexed", cache=Cache.HEAD)
async def state_search_msg(
    ctx: Context, key: TipsetKey, message: Cid, limit: Epochs, allow_replaced: bool
) -> dict[str, Any] | None:
    """Where a message was executed, looked for from a tipset down, at most `limit` epochs (-1: any number).

    null where it was not; the header `X-Filecoin-Not-Found` has the reason. Errors: NotFound (no such message),
    NotHeld (it is on chain, its receipt is not held).
    """
    found = await _search(ctx, key, message, limit, allow_replaced)
    return None if found is None else lookup_json(found)


@method("Filecoin.StateSearchMsg", versions=V0, cost=Cost.STATE, answered="indexed", cache=Cache.HEAD)
async def state_search_msg_v0(ctx: Context, message: Cid) -> dict[str, Any] | None:
    """Where a message, or one that replaced it, was executed; null where it was not. Errors: as under v1."""
    return await state_search_msg(ctx, TipsetKey(), message, ctx.search_limit, True)


@method("Filecoin.StateSearchMsgLimited", versions=V0, cost=Cost.STATE, answered="indexed", cache=Cache.HEAD)
async def state_search_msg_limited(ctx: Context, message: Cid, limit: Epochs) -> dict[str, Any] | None:
    """As `StateSearchMsg`, at most `limit` epochs back."""
    return await state_search_msg(ctx, TipsetKey(), message, limit, True)


@method("Filecoin.StateGetReceipt", versions=V0, cost=Cost.STATE, answered="indexed", cache=Cache.HEAD)
async def state_get_receipt(ctx: Context, message: Cid, key: TipsetKey) -> dict[str, Any] | None:
    """The receipt of a message, or of one that replaced it; null where it was not executed."""
    found = await _search(ctx, key, message, ctx.search_limit, True)
    return None if found is None else lotus_json.receipt(found.receipt)


# --- waiting -------------------------------------------------------------------------------------------


async def wait(ctx: Context, cid: Cid, confidence: int, limit: int, allow_replaced: bool) -> tuple[Message, Found]:
    """The message and its execution, once that is `confidence` epochs deep; waits for both.

    A message that was executed, but where this store does not hold it, will not come again: that is an error, as it
    is for a search. Errors: as `search`; NotHeld; Unavailable, when the head changes come faster than they are read.
    """
    message = await load_message(ctx, cid)
    head = await ctx.head()
    height = head.tipset.height
    candidate = await executed_in(ctx, head.tipset, cid, message, allow_replaced)
    if candidate is None:
        candidate = await _executed_before(ctx, head.tipset, cid, limit, allow_replaced)
    if candidate is not None and height - candidate.tipset.height >= confidence:
        return message, candidate
    with ctx.waiting():
        async with head_entries(ctx.services.head_source, head.seq) as entries:
            async for entry in entries:
                # waiting does not count as work
                ctx.deadline = None
                await ctx.checkpoint()
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


async def _executed_before(ctx: Context, head: Tipset, cid: Cid, limit: int, allow_replaced: bool) -> Found | None:
    """The execution below the head; None if the wait has to go on. Errors: as `search`; NotHeld."""
    try:
        message, found = await search(ctx, head, cid, limit, allow_replaced)
    except (NotFound, Replaced):
        return None  # as a node goes about it: a reorg may still bring the message
    if isinstance(found, Found):
        return found
    if found is Miss.BEYOND_HELD and await is_nonce_passed(ctx, head, Address(message.from_), message.nonce):
        raise NotHeld(f"where message {cid} was executed: {found}")
    return None


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


@method("Filecoin.StateWaitMsg", versions=V1, cost=Cost.WAIT, answered="indexed", cache=Cache.NEVER)
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
    return lookup_json(found, await _decoded(ctx, value, found))


@method("Filecoin.StateWaitMsg", versions=V0, cost=Cost.WAIT, answered="indexed", cache=Cache.NEVER)
async def state_wait_msg_v0(ctx: Context, message: Cid, confidence: Uint64) -> dict[str, Any]:
    """As under v1, with no limit and replacements allowed."""
    return await state_wait_msg(ctx, message, confidence, ctx.search_limit, True)


@method("Filecoin.StateWaitMsgLimited", versions=V0, cost=Cost.WAIT, answered="indexed", cache=Cache.NEVER)
async def state_wait_msg_limited(ctx: Context, message: Cid, confidence: Uint64, limit: Epochs) -> dict[str, Any]:
    """As under v1, with replacements allowed."""
    return await state_wait_msg(ctx, message, confidence, limit, True)
