"""Head changes one by one, and what each of them tells: what filters and subscriptions of events are made of.

A tipset is executed by its child: applying a tipset tells the events of its parent, reverting it takes them back.
Source: Lotus `chain/events/observer.go`, `chain/events/filter/event.go`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace

from blockstore.store import HeadEntry
from chain.consensus.ancestry import Ancestor
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.lookup.events.criteria import EventCriteria, Hit
from rpc.lookup.events.event_search import event_search
from rpc.lookup.head_changes import context_at_entry, find_parent

# --- events --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventCondition:
    """Which events are told: from epoch `low` to `high` (-1: any), or of one tipset, by emitter and values.

    `held` is for events that are there already, as an index is asked for them. `wanted` is for events as they come;
    those are told of whatever emitter among `ids` and `delegated`, and an actor that has a delegated address goes by
    that alone.
    """

    wanted: EventCriteria
    held: EventCriteria
    low: int = -1
    high: int = -1
    block_hash: bytes | None = None
    ids: frozenset[int] = frozenset()
    delegated: frozenset[bytes] = frozenset()

    @classmethod
    def of(
        cls, wanted: EventCriteria, low: int = -1, high: int = -1, block_hash: bytes | None = None
    ) -> EventCondition:
        """All entries of an event are looked at and shown: an event with others than plain bytes is no log."""
        held = replace(wanted, raw=False)
        coming = replace(held, bare=True)
        if wanted.ids and wanted.delegated:
            coming = replace(coming, ids=frozenset(), delegated=frozenset())
        return cls(coming, held, low, high, block_hash, wanted.ids, wanted.delegated)

    def covers(self, place: Ancestor) -> bool:
        """Whether events of a tipset may be told."""
        if self.block_hash is not None:
            return place.block_hash == self.block_hash
        return not (0 <= self.low > place.height or 0 <= self.high < place.height)

    def coming(self, hits: Sequence[Hit]) -> Sequence[Hit]:
        """Those of them that are told as they come."""
        if not self.ids and not self.delegated:
            return hits
        found = []
        for hit in hits:
            event = hit.found.event
            if event.emitter in self.ids if event.address.is_id else bytes(event.address) in self.delegated:
                found.append(hit)
        return found


async def hits_in(
    ctx: Context, places: Iterable[Ancestor], condition: EventCondition
) -> AsyncIterator[tuple[bytes, Sequence[Hit]]]:
    """(block hash, what is told of it), of those of these tipsets of which something is; rising by epoch.

    Errors: NotHeld, StoreError.
    """
    rising = sorted({place for place in places if condition.covers(place)})
    if not rising:
        return
    async for hits in event_search(ctx).places(ctx, rising, condition.wanted):
        if found := condition.coming(hits):
            yield found[0].place.block_hash, found


async def hits_by(
    ctx: Context, entry: HeadEntry, condition: EventCondition
) -> AsyncIterator[tuple[bool, Sequence[Hit]]]:
    """(whether they are taken back, events) that a head change tells, in its order. Errors: Missing, NotHeld."""
    view = await context_at_entry(ctx, entry)
    for removed, refs in ((True, entry.reverts), (False, entry.applies)):
        for ref in refs:
            place = await find_parent(view.index, TipsetKey(ref.key))
            if place is None:
                continue
            async for _, hits in hits_in(view, [place], condition):
                yield removed, hits
