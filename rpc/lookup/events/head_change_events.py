"""The events of head changes: what filters report and subscriptions push.

A tipset is executed by its child: applying a tipset reports the events of its parent, reverting it removes them.
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
from rpc.lookup.head_changes import find_parent


@dataclass(frozen=True, slots=True)
class EventCondition:
    """Which events a filter reports: from epoch `low` to `high` (-1: any), or of one tipset, by emitter and values.

    `stored` are the criteria for events that exist when the filter is installed, `coming` those for later events.
    Later events match any emitter of `ids` or `delegated`; an actor that has a delegated address goes by that alone.
    """

    coming: EventCriteria
    stored: EventCriteria
    low: int = -1
    high: int = -1
    block_hash: bytes | None = None
    ids: frozenset[int] = frozenset()
    delegated: frozenset[bytes] = frozenset()

    @classmethod
    def of(
        cls, criteria: EventCriteria, low: int = -1, high: int = -1, block_hash: bytes | None = None
    ) -> EventCondition:
        """The condition of these criteria. All entries of an event count: one with other codecs than raw is no log."""
        stored = replace(criteria, is_raw_only=False)
        coming = replace(stored, includes_empty=True)
        if criteria.ids and criteria.delegated:
            coming = replace(coming, ids=frozenset(), delegated=frozenset())
        return cls(coming, stored, low, high, block_hash, criteria.ids, criteria.delegated)

    def covers(self, place: Ancestor) -> bool:
        """Whether the filter reports events of this tipset."""
        if self.block_hash is not None:
            return place.block_hash == self.block_hash
        return not (0 <= self.low > place.height or 0 <= self.high < place.height)

    def select_coming(self, hits: Sequence[Hit]) -> Sequence[Hit]:
        """Those that a filter reports as they come."""
        if not self.ids and not self.delegated:
            return hits
        found = []
        for hit in hits:
            event = hit.found.event
            if event.emitter in self.ids if event.address.is_id else bytes(event.address) in self.delegated:
                found.append(hit)
        return found


async def find_hits_in(
    ctx: Context, places: Iterable[Ancestor], condition: EventCondition
) -> AsyncIterator[tuple[bytes, Sequence[Hit]]]:
    """(block hash, hits) of those of these tipsets that have any, rising by epoch.

    Errors: NotHeld, StoreError.
    """
    rising = sorted({place for place in places if condition.covers(place)})
    if not rising:
        return
    async for hits in event_search(ctx).search_tipsets(ctx, rising, condition.coming):
        if found := condition.select_coming(hits):
            yield found[0].place.block_hash, found


async def find_hits_of_entry(
    view: Context, entry: HeadEntry, condition: EventCondition
) -> AsyncIterator[tuple[bool, Sequence[Hit]]]:
    """(whether they are removed, hits) of a head change, in its order. `view`: `context_at_entry` of the entry.

    Errors: Missing, NotHeld.
    """
    for removed, refs in ((True, entry.reverts), (False, entry.applies)):
        for ref in refs:
            place = await find_parent(view.index, TipsetKey(ref.key))
            if place is None:
                continue
            async for _, hits in find_hits_in(view, [place], condition):
                yield removed, hits
