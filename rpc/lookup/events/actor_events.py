"""Events of actors of every kind: found by an actor event filter, and their JSON.

Source: Lotus `node/impl/full/actor_events.go`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from blockstore.errors import Missing
from chain.errors import BadObject, BadRequest, NotFound, NotHeld
from chain.message import EventEntry
from rpc.context import Context
from rpc.errors import MethodError
from rpc.lookup.eth.block_parameter import is_canonical
from rpc.lookup.events.actor_event_filter import ActorEventFilter
from rpc.lookup.events.criteria import EventCriteria, Hit, make_criteria
from rpc.lookup.events.find_events import find_in, find_range, take_hits, tipset_not_found


async def find_actor_events(
    ctx: Context, wanted: ActorEventFilter, low: int, high: int
) -> AsyncIterator[list[dict[str, Any]]]:
    """What a filter of actors' events finds of what is there already, some at a time: of its tipset, or from `low` to
    `high`. All is found before the first are yielded.

    Errors: MethodError, NotHeld.
    """
    criteria = make_criteria(wanted.addresses, wanted.keys)
    try:
        found, removed = await _find_hits(ctx, wanted, criteria, low, high)
    except (MethodError, BadRequest, NotFound, BadObject) as error:
        raise MethodError(f"get events for filter: {error}") from error
    async for hits in take_hits(ctx, found):
        yield [actor_event_json(hit, removed, criteria.count_matches(hit.found.event)) for hit in hits]


async def _find_hits(
    ctx: Context, wanted: ActorEventFilter, criteria: EventCriteria, low: int, high: int
) -> tuple[list[Hit], bool]:
    """The hits, and whether they are of a fork."""
    head = (await ctx.head()).tipset
    for address in wanted.addresses:
        if address.protocol not in (0, 4):
            shown = address.text(ctx.network.address_prefix)
            raise BadRequest(
                "failed to make prefill filter query: can only query events by ID or Delegated addresses; "
                f"but request has address: {shown}"
            )
    removed = False
    if wanted.key:
        try:
            tipset = await ctx.tipset(wanted.key)
        except Missing:
            raise tipset_not_found(wanted.key.cid) from None
        if tipset.key == head.key:
            return [], False  # nobody has executed it yet
        if tipset.height >= head.height:
            raise NotHeld(f"what the tipset at epoch {tipset.height} did")
        found = await find_in(ctx, [tipset], criteria)
        removed = not await is_canonical(ctx, tipset)
    else:
        found = await find_range(ctx, low, head.height - 1 if high < 0 else high, criteria)
        if not found and high > head.height:
            raise BadRequest(f"range end is in the future, highest epoch: {head.height}")
    return found, removed


def actor_event_json(hit: Hit, reverted: bool, times: int = 1) -> dict[str, Any]:
    """An event as Lotus' ActorEvent. Each entry stands there `times` times: see `EventCriteria.count_matches`."""
    return {
        "entries": event_entries_json([entry for entry in hit.entries for _ in range(times)]),
        "emitter": hit.found.event.address,
        "reverted": reverted,
        "height": hit.place.height,
        "tipsetKey": hit.place.key,
        "msgCid": hit.found.cid,
    }


def event_entries_json(entries: Sequence[EventEntry]) -> list[dict[str, Any]]:
    """Event entries as Lotus writes them."""
    return [
        {"Flags": entry.flags, "Key": entry.key, "Codec": entry.codec, "Value": entry.value or None}
        for entry in entries
    ]
