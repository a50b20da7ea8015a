"""Finding the events of a range of epochs, or of one tipset, that a filter wants.

A range is planned on the posting lists: those of the emitters and topics that are asked for name the groups of
events to read, of the tipsets on the chain of the request's head. What is read are a few rows, in bursts, however
many events lie between. Tipsets that have no event rows (they came without state) are read themselves, from receipts
and events; what is held in neither form is an error that says what is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import orjson
from cachetools import LRUCache

from blockstore.store import COVERAGE, EVENT_POSTINGS, EVENTS, Table
from chain.address import Address, from_id
from chain.consensus.ancestry import Place
from chain.errors import ActorNotFound, ChainError, NotHeld
from chain.index.coverage import covered, ranges_text
from chain.index.event_rows import (
    EVENTS_INDEX,
    POSTINGS_BUCKET,
    IndexedEvent,
    Ref,
    Term,
    at_key,
    chunk_row,
    decode_group,
    decode_mark,
    decode_refs,
    emitter_term,
    groups_in,
    mark_partition,
    posting_partition,
    value_term,
)
from chain.message import EventEntry
from chain.state.state_tree import StateTree
from chain.state.tipset_events import INDEXED, TipsetEvent
from rpc import eth_json
from rpc.context import Context
from rpc.lookup.ancestors import ancestry_of
from rpc.lookup.eth.executed_tipset import indexed_events, log_from, post_of, raw_entries

#: rows of a page of a scan
_PAGE: Final = 1000
#: scans that are under way at once
_SCANS: Final = 16
#: groups whose rows are read together
_SLICE: Final = 256
#: groups from which on a further posting list is read rather than the groups themselves
_NARROW: Final = 256
_CACHE_BYTES: Final = 64 << 20
#: what a decoded event takes beside its bytes
_OVERHEAD: Final = 900
#: stands for all groups of a chunk
_ALL: Final = -1
#: tipsets whose marks are remembered
_MARKED: Final = 65536


# --- which events --------------------------------------------------------------------------------------


#: an indexed entry as it is looked for
Value = tuple[str, int, bytes]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an event must be. `values`: of each of these sets of (key, codec, value) one indexed entry.

    An address is an actor's ID, or its delegated address; where both kinds are named an event must match one of
    each, as in Lotus. `raw`: without `values`, entries of plain bytes alone are looked at and shown. `bare`: an event
    without entries may be wanted too; the node tells those as they come, and never afterwards.
    """

    ids: frozenset[int] = frozenset()
    delegated: frozenset[bytes] = frozenset()
    values: tuple[frozenset[Value], ...] = ()
    raw: bool = False
    bare: bool = False

    def emitter(self, event: TipsetEvent) -> bool:
        """Whether events of this one's emitter may be wanted."""
        if self.ids and event.emitter not in self.ids:
            return False
        return not self.delegated or event.address in self.delegated

    def matches(self, values: frozenset[Value]) -> bool:
        """Whether an event with these indexed entries may be wanted."""
        return not any(one.isdisjoint(values) for one in self.values)

    def shown(self, event: TipsetEvent) -> Sequence[EventEntry]:
        """The entries to show of an event whose emitter and values match; none, where it is not wanted."""
        if self.values or not self.raw:
            return event.entries
        return raw_entries(event)

    def entries(self, event: TipsetEvent) -> Sequence[EventEntry]:
        """The entries to show of an event; none, where it is not wanted."""
        return self.shown(event) if self.emitter(event) and self.matches(values_of(event)) else ()

    def times(self, event: TipsetEvent) -> int:
        """How often an index tells each entry of an event that is wanted: once for each way to find what is wanted."""
        found = 1
        for one in self.values:
            indexed = (entry for entry in event.entries if entry.flags & INDEXED)
            found *= sum((entry.key, entry.codec, entry.value) in one for entry in indexed)
        return found

    def bare_event(self, event: TipsetEvent) -> bool:
        """Whether this is an event without entries that is wanted."""
        return self.bare and not event.entries and not self.values and self.emitter(event)


def values_of(event: TipsetEvent) -> frozenset[Value]:
    """The indexed entries of an event."""
    return frozenset((entry.key, entry.codec, entry.value) for entry in event.entries if entry.flags & INDEXED)


def wanted_of(
    addresses: Sequence[Address],
    keys: Mapping[str, frozenset[tuple[int, bytes]]],
    raw: bool = False,
) -> Wanted:
    """What these addresses and keys ask for. No event has an address of another kind than ID or delegated."""
    return Wanted(
        frozenset(address.id for address in addresses if address.is_id),
        frozenset(bytes(address) for address in addresses if not address.is_id),
        tuple(
            frozenset((key, codec, value) for codec, value in keys[key])
            # the last topics are the rarest: what is narrowest is looked for first
            for key in sorted(keys, reverse=True)
            if keys[key]
        ),
        raw,
    )


# --- what is found -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Hit:
    """An event that is wanted, where it stands, and the entries to show of it."""

    place: Place
    found: IndexedEvent
    entries: Sequence[EventEntry]
    _log: bytes | None = None

    def log(self, removed: bool) -> bytes | None:
        """It as an Ethereum log, JSON; None where no contract emits such events. Errors: ChainError."""
        if self._log is None:
            event, at = self.found.event, self.place
            if self.found.tx_hash is None:
                raise ChainError(f"message {self.found.cid} is no Ethereum transaction")
            place = eth_json.Place(at.block_hash, at.height, event.message)
            log = log_from(event, self.entries, place, self.found.tx_hash, False)
            self._log = b"" if log is None else orjson.dumps(eth_json.log(log))
        return (self._log.replace(_HELD, _REMOVED, 1) if removed else self._log) or None


_HELD: Final = b'"removed":false'
_REMOVED: Final = b'"removed":true'


class _Group:
    """A decoded group: events of one emitter. What they are shown as is made once."""

    __slots__ = ("_first", "_raw", "_shown", "size")

    def __init__(self, place: Place, events: list[IndexedEvent]) -> None:
        self._first = events[0].event
        self._shown = [(Hit(place, one, one.event.entries), values_of(one.event)) for one in events]
        self._raw: list[Hit] | None = None
        #: bytes that it takes, about, with all that it is shown as
        self.size = sum(_OVERHEAD + sum(200 + 3 * len(entry.value) for entry in one.event.entries) for one in events)

    def hits(self, wanted: Wanted) -> Sequence[Hit]:
        """Those that are wanted."""
        if not wanted.emitter(self._first):
            return ()
        if wanted.values or not wanted.raw:
            bare = wanted.bare
            return [hit for hit, values in self._shown if (hit.entries or bare) and wanted.matches(values)]
        if self._raw is None:
            self._raw = [
                hit if len(entries) == len(hit.entries) else Hit(hit.place, hit.found, entries)
                for hit, _ in self._shown
                if (entries := wanted.shown(hit.found.event))
            ]
        return self._raw


#: a tipset, one of its chunks, the groups in it (None for all)
_Asked = tuple[Place, int, Sequence[int] | None]


@dataclass(frozen=True, slots=True)
class _Mark:
    events: int
    chunks: int


class EventSearch:
    """The search over one store. One a process; its caches are bounded by bytes, or by tipsets."""

    def __init__(self, ctx: Context, cache_bytes: int) -> None:
        self._store = ctx.store
        self._ancestry = ancestry_of(ctx)
        self._groups: LRUCache[tuple[bytes, int, int], tuple[list[_Group], int]] = LRUCache(
            cache_bytes, getsizeof=lambda entry: entry[1]
        )
        #: a plain dictionary, for a range looks up thousands: emptied when it is full
        self._marks: dict[bytes, _Mark] = {}

    # --- marks -----------------------------------------------------------------------------------------

    async def marked(self, places: Sequence[Place]) -> dict[bytes, _Mark]:
        """The marks of those of these tipsets that have event rows, by block hash."""
        known = self._marks
        if len(known) > _MARKED:
            known.clear()
        lacking = [place for place in places if place.block_hash not in known]
        if len(lacking) > 8:
            for key, row in await self._scan(COVERAGE, mark_partition, lacking[0].height, lacking[-1].height):
                known[key[8:]] = _Mark(*decode_mark(row))
        elif lacking:
            rows = [(mark_partition(place.height), at_key(place.height, place.block_hash)) for place in lacking]
            for place, value in zip(lacking, await self._store.rows(COVERAGE, rows), strict=True):
                if value is not None:
                    known[place.block_hash] = _Mark(*decode_mark(value))
        return {place.block_hash: mark for place in places if (mark := known.get(place.block_hash)) is not None}

    # --- posting lists ---------------------------------------------------------------------------------

    async def _scan(
        self, table: Table, partition_of: Callable[[int], bytes], low: int, high: int
    ) -> list[tuple[bytes, bytes]]:
        """(epoch and block hash, value) of a table of a day a partition, from epoch `low` to `high`, of all forks."""
        found: list[tuple[bytes, bytes]] = []
        for day in range(low // POSTINGS_BUCKET, high // POSTINGS_BUCKET + 1):
            start = max(low, day * POSTINGS_BUCKET).to_bytes(8, "big")
            end = (min(high, (day + 1) * POSTINGS_BUCKET - 1) + 1).to_bytes(8, "big")
            partition = partition_of(day * POSTINGS_BUCKET)
            while True:
                rows = await self._store.scan(table, partition, start=start, end=end, limit=_PAGE)
                found += rows
                if len(rows) < _PAGE:
                    break
                start = rows[-1][0] + b"\0"
        return found

    async def _any_of(
        self, terms: Sequence[Term], places: dict[bytes, Place], low: int, high: int
    ) -> dict[bytes, set[Ref]]:
        """The groups that have one of these terms, by block hash, of tipsets among `places`."""
        found: dict[bytes, set[Ref]] = {}
        for at in range(0, len(terms), _SCANS):
            some = terms[at : at + _SCANS]
            for rows in await asyncio.gather(
                *(self._scan(EVENT_POSTINGS, partial(posting_partition, term), low, high) for term in some)
            ):
                for key, value in rows:
                    block_hash = key[8:]
                    if block_hash in places:
                        found.setdefault(block_hash, set()).update(decode_refs(value))
        return found

    async def _conditions(self, ctx: Context, wanted: Wanted) -> list[list[Term]]:
        """What must hold all together, each as terms one of which must be there; the narrowest first."""
        found: list[list[Term]] = []
        if wanted.delegated:
            found.append([emitter_term(address) for address in wanted.delegated])
        if wanted.ids:
            found.append(await self._terms_of_ids(ctx, wanted.ids))
        found += [[value_term(*value) for value in values] for values in wanted.values]
        return found

    async def _terms_of_ids(self, ctx: Context, ids: Iterable[int]) -> list[Term]:
        """An actor's events are listed under its delegated address, where it has one."""
        terms: list[Term] = []
        tree = await StateTree.load(ctx.objects, (await ctx.head()).tipset.parent_state_root)
        for actor_id in ids:
            address = from_id(actor_id)
            terms.append(emitter_term(address))
            try:
                delegated = (await tree.get(address)).delegated
            except ActorNotFound:
                continue
            if delegated is not None:
                terms.append(emitter_term(delegated))
        return terms

    async def _candidates(
        self, ctx: Context, wanted: Wanted, places: dict[bytes, Place], marks: dict[bytes, _Mark]
    ) -> dict[bytes, set[Ref]] | None:
        """The groups to read, by block hash; None for all."""
        conditions = await self._conditions(ctx, wanted)
        if not conditions or not places:
            return None
        if sum(marks[block_hash].events for block_hash in places) <= _NARROW:
            return None  # fewer events than a posting list may have rows
        heights = [place.height for place in places.values()]
        low, high = min(heights), max(heights)
        found: dict[bytes, set[Ref]] = {}
        for number, terms in enumerate(conditions):
            if number and sum(map(len, found.values())) <= _NARROW:
                break
            some = await self._any_of(terms, places, low, high)
            if number:
                some = {key: refs & found[key] for key, refs in some.items() if key in found}
            found = {key: refs for key, refs in some.items() if refs}
        return found

    # --- groups ----------------------------------------------------------------------------------------

    async def _read(self, wanted: Sequence[_Asked]) -> list[Sequence[_Group]]:
        """The groups that each names, in order. One burst for what is not cached. Errors: NotHeld, BadObject."""
        found = [self._cached(*one) for one in wanted]
        missing = [at for at, groups in enumerate(found) if groups is None]
        rows = [chunk_row(place.height, place.block_hash, chunk) for place, chunk, _ in (wanted[at] for at in missing)]
        for at, data in zip(missing, await self._store.rows(EVENTS, rows) if rows else (), strict=True):
            place, chunk, refs = wanted[at]
            if data is None:
                raise NotHeld(f"the events of epoch {place.height}: a row of their index is missing")
            found[at] = self._decoded(place, chunk, refs, data)
        return found  # type: ignore[return-value]

    def _cached(self, place: Place, chunk: int, refs: Sequence[int] | None) -> Sequence[_Group] | None:
        if refs is None:
            entry = self._groups.get((place.block_hash, chunk, _ALL))
            return None if entry is None else entry[0]
        found: list[_Group] = []
        for at in refs:
            entry = self._groups.get((place.block_hash, chunk, at))
            if entry is None:
                return None
            found += entry[0]
        return found

    def _decoded(self, place: Place, chunk: int, refs: Sequence[int] | None, data: bytes) -> list[_Group]:
        groups = [_Group(place, decode_group(data, at)) for at in (range(groups_in(data)) if refs is None else refs)]
        if refs is None:
            self._keep((place.block_hash, chunk, _ALL), groups)
        else:
            for at, group in zip(refs, groups, strict=True):
                self._keep((place.block_hash, chunk, at), [group])
        return groups

    def _keep(self, key: tuple[bytes, int, int], groups: list[_Group]) -> None:
        size = sum(group.size for group in groups)
        if size <= self._groups.maxsize // 8:
            self._groups[key] = (groups, size)

    # --- the search ------------------------------------------------------------------------------------

    async def range(self, ctx: Context, low: int, high: int, wanted: Wanted) -> AsyncIterator[list[Hit]]:
        """What a filter finds from epoch `low` to `high` on the chain of the request's head: in order, the hits
        of one tipset at a time. Errors: NotHeld (names what is covered)."""
        places = await self._ancestry.between((await ctx.head()).tipset, low, high)
        async for hits in self.places(ctx, places, wanted):
            yield hits

    async def places(self, ctx: Context, places: Sequence[Place], wanted: Wanted) -> AsyncIterator[list[Hit]]:
        """What a filter finds in these tipsets (rising): the hits of one at a time. Errors: as `range`."""
        marks = await self.marked(places)
        indexed = {place.block_hash: place for place in places if place.block_hash in marks}
        refs = await self._candidates(ctx, wanted, indexed, marks)
        slices: list[Place] = []
        count = 0
        for place in places:
            mark = marks.get(place.block_hash)
            if mark is not None and not (mark.events if refs is None else refs.get(place.block_hash)):
                continue
            if mark is None:
                async for hits in self._of_slice(slices, refs, marks, wanted):
                    yield hits
                slices, count = [], 0
                if hits := await self._direct(ctx, place, wanted):
                    yield hits
                continue
            slices.append(place)
            count += mark.chunks if refs is None else len(refs[place.block_hash])
            if count >= _SLICE:
                async for hits in self._of_slice(slices, refs, marks, wanted):
                    yield hits
                slices, count = [], 0
                # a store that answers without waiting must not hold the loop
                await asyncio.sleep(0)
        async for hits in self._of_slice(slices, refs, marks, wanted):
            yield hits

    async def _of_slice(
        self, places: Sequence[Place], refs: dict[bytes, set[Ref]] | None, marks: dict[bytes, _Mark], wanted: Wanted
    ) -> AsyncIterator[list[Hit]]:
        if not places:
            return
        asked: list[_Asked] = []
        for place in places:
            if refs is None:
                asked += [(place, chunk, None) for chunk in range(marks[place.block_hash].chunks)]
                continue
            by_chunk: dict[int, list[int]] = {}
            for chunk, at in sorted(refs[place.block_hash]):
                by_chunk.setdefault(chunk, []).append(at)
            asked += [(place, chunk, some) for chunk, some in by_chunk.items()]
        hits: list[Hit] = []
        last: Place | None = None
        for (place, _, _), groups in zip(asked, await self._read(asked), strict=True):
            if place is not last and hits:
                yield _ordered(hits)
                hits = []
            last = place
            for group in groups:
                hits += group.hits(wanted)
        if hits:
            yield _ordered(hits)

    async def _direct(self, ctx: Context, place: Place, wanted: Wanted) -> list[Hit]:
        """What a filter finds in a tipset that has no event rows. Errors: NotHeld."""
        try:
            tipset = await ctx.index.tipset(place.key)
            post = await post_of(ctx, tipset)
            if post is None:
                raise NotHeld(f"what the tipset at epoch {place.height} did")
            events = await indexed_events(ctx, tipset, post)
        except NotHeld as error:
            ranges = ranges_text(await covered(self._store, EVENTS_INDEX))
            raise NotHeld(f"{error.what}; the index of events covers {ranges}") from None
        return [
            Hit(place, one, entries)
            for one in events
            if (entries := wanted.entries(one.event)) or wanted.bare_event(one.event)
        ]


def _ordered(hits: list[Hit]) -> list[Hit]:
    hits.sort(key=lambda hit: hit.found.event.index)
    return hits


def event_search(ctx: Context) -> EventSearch:
    """The process's search."""
    found: EventSearch | None = ctx.extra.get("event_search")
    if found is None:
        found = ctx.extra["event_search"] = EventSearch(ctx, ctx.extra.get("event_cache_bytes", _CACHE_BYTES))
    return found


def joined(logs: Iterable[bytes]) -> orjson.Fragment:
    """JSON values as one array."""
    return orjson.Fragment(b"[" + b",".join(logs) + b"]")
