"""Head changes one by one, and what each of them tells: what filters and subscriptions of events are made of.

A tipset is executed by its child: applying a tipset tells the events of its parent, reverting it takes them back.
Source: Lotus `chain/events/observer.go`, `chain/events/filter/event.go`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from blockstore.store import HeadEntry, TipsetRef
from chain.consensus.ancestry import Place, place_of
from chain.eth.types import hash_of
from chain.index.chain_index import ChainIndex
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.lookup.ancestors import ancestry_of
from rpc.lookup.eth.installed_filters import WALK, Cursor
from rpc.lookup.events.event_search import Hit, Wanted, event_search
from rpc.services import Head

#: entries of the head log read at a time; epochs of a walk
_PAGE: Final = 128


@dataclass(frozen=True, slots=True)
class Step:
    """One tipset applied or reverted; `after` is where the telling stands then."""

    reverted: bool
    key: TipsetKey
    after: Cursor


def cursor_at(head: Head) -> Cursor:
    """Everything up to a head has been told."""
    return Cursor(head.seq, 0, head.tipset.height, head.tipset.key)


async def parent_place(index: ChainIndex, key: TipsetKey) -> Place | None:
    """The parent of a tipset; None for the genesis. One row, usually cached. Errors: NotHeld, Missing."""
    row = await index.row(key)
    if row is not None and row.parent_height >= 0:
        return Place(row.parent_height, hash_of(row.parent.cid), row.parent)
    tipset = await index.tipset(key)
    return None if tipset.height == 0 else place_of(await index.parent(tipset))


def _moves(entry: HeadEntry) -> list[tuple[bool, TipsetRef]]:
    return [*((True, ref) for ref in entry.reverts), *((False, ref) for ref in entry.applies)]


async def steps_to(ctx: Context, cursor: Cursor, head: Head) -> AsyncIterator[Step]:
    """The head changes after a cursor up to `head`, as the head log has them.

    Where the log does not reach back so far: the way from the tipset at the cursor to the head, by ancestry, which
    leaves out what was applied and reverted in between. Errors: NotHeld, StoreError.
    """
    while cursor.step != WALK and cursor.seq < head.seq:
        entries = await ctx.store.head_entries(cursor.seq, _PAGE)
        if not entries or entries[0].seq != cursor.seq + 1:
            break
        for entry in entries:
            if entry.seq > head.seq or entry.seq != cursor.seq + 1:
                break
            moves = _moves(entry)
            for at in range(cursor.step, len(moves)):
                reverted, ref = moves[at]
                key, height = TipsetKey(ref.key), ref.height
                if reverted and (below := await parent_place(ctx.index, key)) is not None:
                    height, key = below.height, below.key
                if at + 1 < len(moves):
                    cursor = Cursor(entry.seq - 1, at + 1, height, key)
                else:
                    cursor = Cursor(entry.seq, 0, height, key)
                yield Step(reverted, TipsetKey(ref.key), cursor)
            cursor = replace(cursor, seq=entry.seq, step=0)
    if cursor.seq < head.seq or cursor.step == WALK:
        async for step in _walk(ctx, cursor, head):
            yield step


async def _walk(ctx: Context, cursor: Cursor, head: Head) -> AsyncIterator[Step]:
    index, target = ctx.index, head.tipset
    height, key = cursor.height, cursor.key
    ancestry = ancestry_of(ctx)
    while not await ancestry.is_ancestor(key, height, target):
        below = await parent_place(index, key)
        if below is None:
            return
        reverted = key
        height, key = below.height, below.key
        yield Step(True, reverted, Cursor(head.seq, WALK, height, key))
    while height < target.height:
        # null rounds may make a part empty
        top = min(height + _PAGE, target.height)
        for place in await ancestry.between(target, height + 1, top):
            done = place.key == target.key
            yield Step(False, place.key, Cursor(head.seq, 0 if done else WALK, place.height, place.key))
        height = top


# --- events --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventCondition:
    """Which events are told: from epoch `low` to `high` (-1: any), or of one tipset, by emitter and values.

    `held` is for events that are there already, as an index is asked for them. `wanted` is for events as they come;
    those are told of whatever emitter among `ids` and `delegated`, and an actor that has a delegated address goes by
    that alone.
    """

    wanted: Wanted
    held: Wanted
    low: int = -1
    high: int = -1
    block_hash: bytes | None = None
    ids: frozenset[int] = frozenset()
    delegated: frozenset[bytes] = frozenset()

    @classmethod
    def of(cls, wanted: Wanted, low: int = -1, high: int = -1, block_hash: bytes | None = None) -> EventCondition:
        """All entries of an event are looked at and shown: an event with others than plain bytes is no log."""
        held = replace(wanted, raw=False)
        coming = replace(held, bare=True)
        if wanted.ids and wanted.delegated:
            coming = replace(coming, ids=frozenset(), delegated=frozenset())
        return cls(coming, held, low, high, block_hash, wanted.ids, wanted.delegated)

    def covers(self, place: Place) -> bool:
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
    ctx: Context, places: Iterable[Place], condition: EventCondition
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
    view = await at_entry(ctx, entry)
    for removed, refs in ((True, entry.reverts), (False, entry.applies)):
        for ref in refs:
            place = await parent_place(view.index, TipsetKey(ref.key))
            if place is None:
                continue
            async for _, hits in hits_in(view, [place], condition):
                yield removed, hits


async def at_entry(ctx: Context, entry: HeadEntry) -> Context:
    """A view of the chain whose head is the one after an entry. Errors: Missing."""
    view = Context(ctx.services, version=ctx.version, permissions=ctx.permissions)
    view.pinned = Head(entry.seq, entry, await ctx.index.tipset(TipsetKey(entry.head.key)))
    return view
