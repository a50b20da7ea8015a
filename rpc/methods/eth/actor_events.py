"""Events of actors of every kind: those that exist, then those to come.

Source: Lotus `node/impl/full/actor_events.go`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from chain.errors import BadRequest
from rpc.context import Context
from rpc.errors import MethodError
from rpc.lookup.events.actor_event_filter import ActorEventFilterParam, actor_event_range
from rpc.lookup.events.actor_events import actor_event_json, event_entries_json, find_actor_events
from rpc.lookup.events.criteria import Hit, make_criteria
from rpc.lookup.events.head_change_events import EventCondition, find_hits_of_entry
from rpc.lookup.head_changes import context_at_entry
from rpc.lookup.long_answers import list_of
from rpc.registry import V0, V1, Cache, Cost, method
from rpc.services import head_entries
from rpc.session import Burst


def _shown(hit: Hit, reverted: bool) -> dict[str, Any]:
    # an event with nothing in it is told while it is new; to Go its entries are nil
    return {**actor_event_json(hit, reverted), "entries": event_entries_json(hit.entries) or None}


@method("Filecoin.SubscribeActorEventsRaw", cost=Cost.SCAN, answered="indexed", channel=True, cache=Cache.NEVER)
async def subscribe_actor_events_raw(ctx: Context, wanted: ActorEventFilterParam) -> AsyncIterator[dict[str, Any]]:
    """The events of a tipset or of epochs: those that there are, then each as it comes, or is reverted.

    The channel closes when the head has passed the last epoch. Errors: BadRequest (the range), too many results,
    NotFound, NotHeld.
    """
    head = await ctx.head()
    try:
        low, high = actor_event_range(head.tipset, wanted)
    except BadRequest as error:
        raise MethodError(str(error)) from None
    if low != -1 and low < head.tipset.height:
        async for found in find_actor_events(ctx, wanted, low, high):
            yield Burst(found)  # type: ignore[misc]
    conditions = make_criteria(wanted.addresses, wanted.keys)
    condition = EventCondition.of(conditions, low, high, wanted.key.block_hash if wanted.key else None)
    # a key of which no value is wanted counts for what comes, and not for what is there
    heard = all(wanted.keys.values())
    if 0 < high <= head.tipset.height:
        return
    async with head_entries(ctx.services.head_source, head.seq) as entries:
        async for entry in entries:
            if heard:
                view = await context_at_entry(ctx, entry)
                async for removed, hits in find_hits_of_entry(view, entry, condition):
                    yield Burst(_shown(hit, removed) for hit in hits)  # type: ignore[misc]
            if 0 < high < entry.head.height:
                return


@method("Filecoin.GetActorEventsRaw", versions=V0 | V1, cost=Cost.SCAN, cache=Cache.HEAD)
async def get_actor_events_raw(ctx: Context, wanted: ActorEventFilterParam) -> list[dict[str, Any]] | None:
    """The events of a tipset or a range of up to 2,880 epochs, of actors of every kind; null for none.

    Errors: BadRequest (the range), too many results, NotFound, NotHeld.
    """
    head = (await ctx.head()).tipset
    low, high = actor_event_range(head, wanted)
    if low == -1 or low >= head.height:
        return None
    return await list_of(ctx, find_actor_events(ctx, wanted, low, high), lambda event: event) or None
