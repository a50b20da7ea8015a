"""One message beside the chain, of which only the outcome counts: no trace. For `eth_call` and gas estimates.

It does what `rpc.execution.call` does, in one request to the executor, which looks the sender up itself. Source: Lotus
`chain/stmgr/call.go`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from cachetools import LRUCache

from blockstore.cid import Cid
from chain.address import Address
from chain.errors import NotHeld
from chain.message import Message, encode_message
from chain.tipset import Tipset
from rpc.context import Context
from rpc.execution.call import NodePanics, SenderInvalid, gas_cap, key_of
from rpc.executor import Call, Executor, Outcome, Place
from rpc.lookup.tipset_execution import explicit, place_at, refuse_migration
from rpc.lookup.tipset_inclusion import included_in

#: the name of the cache in `Services.caches`
CACHE: Final = "places_of_calls"
_PLACES: Final = 256
#: what the signature of an account of this protocol adds to a message on chain: the heads of an array of two and of a
#: byte string, the type, 65 bytes. Messages that BLS keys have signed stand without signature.
_SIGNATURE_BYTES: Final = {1: 69, 3: 0, 4: 69}


class _Places:
    """Where calls run: (with the base fee, without one) by tipset and state; and states after a tipset's messages."""

    def __init__(self) -> None:
        self.kept: LRUCache[tuple[bytes, Cid], tuple[Place, Place]] = LRUCache(_PLACES)
        self.after: LRUCache[bytes, asyncio.Task[Cid]] = LRUCache(_PLACES)


async def call_on(
    ctx: Context, executor: Executor, message: Message, tipset: Tipset, root: Cid, *, skips_sender_check: bool = False
) -> Outcome:
    """Apply a message at a tipset, on the state `root`.

    Errors: SenderInvalid, NodePanics, MethodError, NotHeld, Unavailable, ExecutionRefused.
    """
    places = _places(ctx).kept.get((tipset.key, root))
    if places is None:
        if tipset.height > 0:
            refuse_migration(ctx.network, tipset.height, tipset.height + 1)
        places = _keep(ctx, tipset, root, None)
    return await _call(ctx, executor, message, tipset, places, skips_sender_check)


async def call_after_messages(
    ctx: Context, executor: Executor, message: Message, tipset: Tipset, *, skips_sender_check: bool = False
) -> Outcome:
    """Apply a message at a tipset, after all the tipset's messages (no rewards, no cron). Errors: as of `call_on`."""
    for tried in (1, 2):
        after = await _state_after_messages(ctx, executor, tipset)
        base = tipset.parent_state_root
        places = _places(ctx).kept.get((tipset.key, after))
        if places is None:
            places = _keep(ctx, tipset, after, None if after == base else base)
        try:
            return await _call(ctx, executor, message, tipset, places, skips_sender_check)
        except NotHeld:
            # the executor may have been started anew, or have dropped the state
            if tried == 2 or after == base:
                raise
            _places(ctx).after.pop(tipset.key, None)
    raise AssertionError


async def _state_after_messages(ctx: Context, executor: Executor, tipset: Tipset) -> Cid:
    """The state that a tipset's messages make; the executor has it. Made once for all who ask."""
    after = _places(ctx).after
    task = after.get(tipset.key)
    if task is None:
        task = after[tipset.key] = asyncio.get_running_loop().create_task(_run_messages(ctx, executor, tipset))
    try:
        return await asyncio.shield(task)
    finally:
        if not task.done() or task.cancelled() or task.exception() is not None:
            after.pop(tipset.key, None)


async def _run_messages(ctx: Context, executor: Executor, tipset: Tipset) -> Cid:
    if tipset.height > 0:
        refuse_migration(ctx.network, (await ctx.index.parent(tipset)).height, tipset.height + 1)
    messages = await included_in(ctx, tipset)
    if not messages:
        return tipset.parent_state_root
    place = place_at(ctx, tipset, tipset.parent_state_root, tipset.height, tipset.min_timestamp)
    run = await executor.run(place, [explicit(one) for one in messages], keep_state=True)
    assert run.root is not None
    return run.root


def _places(ctx: Context) -> _Places:
    found: _Places | None = ctx.caches.get(CACHE)
    if found is None:
        found = ctx.caches[CACHE] = _Places()
    return found


def _keep(ctx: Context, tipset: Tipset, root: Cid, supply_root: Cid | None) -> tuple[Place, Place]:
    place = place_at(ctx, tipset, root, tipset.height, tipset.min_timestamp)
    # where gas is free, Lotus makes the machine anew on this state: its supply is that state's
    places = replace(place, supply_root=supply_root), replace(place, base_fee=0)
    _places(ctx).kept[tipset.key, root] = places
    return places


async def _call(
    ctx: Context, executor: Executor, message: Message, tipset: Tipset, places: tuple[Place, Place], skips: bool
) -> Outcome:
    sender = Address(message.from_)
    key = sender if skips else await key_of(ctx, tipset, sender)
    if key[0] not in _SIGNATURE_BYTES:
        raise NodePanics
    call = Call(encode_message(message), _SIGNATURE_BYTES[key[0]], gas_cap(ctx), skips)
    found = await executor.call(places[0 if message.gas_fee_cap else 1], call)
    if found is None:
        text = f"sender {sender.text(ctx.network.address_prefix)} not found on chain: sender validation failed"
        raise SenderInvalid(text)
    return found
