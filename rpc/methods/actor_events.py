"""`SubscribeActorEventsRaw`: events of actors of every kind, first those that are there, then as they come.

Source: Lotus `node/impl/full/actor_events.go`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from chain.errors import BadRequest, ChainError
from chain.eth_types import hash_of
from rpc.channels import Burst
from rpc.context import Context
from rpc.errors import MethodError
from rpc.methods.eth_log import (
    EventFilter,
    EventFilterParam,
    actor_event_json,
    event_json_entries,
    find_in,
    find_range,
    height_range,
)
from rpc.methods.eth_select import canonical
from rpc.methods.eth_steps import EventCondition, hits_by
from rpc.methods.event_search import Hit, wanted_of
from rpc.methods.notify import following
from rpc.registry import Cost, method


async def _held(ctx: Context, wanted: EventFilter, condition: EventCondition) -> tuple[list[Hit], bool]:
    """(the events that there are, whether they have been reverted). Errors: MethodError, ChainError."""
    head = (await ctx.head()).tipset
    if wanted.key:
        tipset = await ctx.tipset(wanted.key)
        if tipset.height >= head.height:
            return [], False
        return await find_in(ctx, [tipset], condition.held), not await canonical(ctx, tipset)
    low, high = condition.low, condition.high
    if low == -1 or low >= head.height:
        return [], False
    found = await find_range(ctx, low, head.height - 1 if high == -1 else high, condition.held)
    if not found and high > head.height:
        raise BadRequest(f"range end is in the future, highest epoch: {head.height}")
    return found, False


def _shown(hit: Hit, reverted: bool) -> dict[str, Any]:
    # an event with nothing in it is told while it is new; to Go its entries are nil
    return {**actor_event_json(hit, reverted), "entries": event_json_entries(hit.entries) or None}


@method("Filecoin.SubscribeActorEventsRaw", cost=Cost.SCAN, answered="indexed", channel=True)
async def subscribe_actor_events_raw(ctx: Context, wanted: EventFilterParam) -> AsyncIterator[dict[str, Any]]:
    """The events of a tipset or of epochs: those that there are, then each as it comes, or is reverted.

    The channel closes when the head has passed the last epoch. Errors: BadRequest (the range), too many results,
    NotFound, NotHeld.
    """
    head = await ctx.head()
    try:
        conditions = wanted_of(wanted.addresses, wanted.keys)
        low = high = -1
        if wanted.key:
            if wanted.low is not None or wanted.high is not None:
                raise BadRequest("cannot specify both TipSetKey and FromHeight/ToHeight")
        else:
            low, high = height_range(head.tipset.height, wanted.low, wanted.high)
    except BadRequest as error:
        raise MethodError(str(error)) from None
    condition = EventCondition.of(conditions, low, high, hash_of(wanted.key.cid) if wanted.key else None)
    try:
        found, reverted = await _held(ctx, wanted, condition)
    except (MethodError, ChainError) as error:
        raise MethodError(f"get events for filter: {error}") from error
    if found:
        yield Burst(actor_event_json(hit, reverted) for hit in condition.of_either(found))  # type: ignore[misc]
    if 0 < high <= head.tipset.height:
        return
    async with following(ctx.services.head_source, head.seq) as entries:
        async for entry in entries:
            async for removed, hits in hits_by(ctx, entry, condition):
                yield Burst(_shown(hit, removed) for hit in hits)  # type: ignore[misc]
            if 0 < high < entry.head.height:
                return
