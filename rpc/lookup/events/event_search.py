"""Finding the events of a range of epochs, or of one tipset, that a filter wants.

A range is planned on the posting lists: those of the emitters and topics that are asked for name the groups of
events to read, of the tipsets on the chain of the request's head. What is read are a few rows, in bursts, however
many events lie between. Tipsets that have no event rows (they came without state) are read themselves, from receipts
and events; what is held in neither form is an error that says what is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from cachetools import LRUCache

from blockstore.errors import Missing
from blockstore.store import COVERAGE, EVENT_POSTINGS, EVENTS, Table
from chain.address import from_id
from chain.consensus.ancestry import Ancestor
from chain.errors import ActorNotFound, Dropped, NotHeld
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
from chain.ipld.objects import FetchFailed
from rpc.context import Context
from rpc.lookup.actor_states import load_tree
from rpc.lookup.ancestors import ancestry_of
from rpc.lookup.eth.executed_tipset import find_post_roots
from rpc.lookup.eth.tipset_logs import load_indexed_events
from rpc.lookup.events.criteria import EventCriteria, Hit, indexed_values

#: rows of a page of a scan
_PAGE: Final = 1000
#: scans that are under way at once
_SCANS: Final = 16
#: groups whose rows are read together
_SLICE: Final = 256
#: groups from which on a further posting list is read rather than the groups themselves
_NARROW: Final = 256
#: events up to which those in memory are searched: a posting list would be a read of the store
_IN_MEMORY: Final = 1024
#: what a decoded event takes beside its bytes
_OVERHEAD: Final = 900
#: stands for all groups of a chunk
_ALL: Final = -1
#: tipsets whose marks are remembered
_MARKED: Final = 65536
#: rows or events that are looked at between two checkpoints
_RUN: Final = 64
#: bytes of groups that are searched between two checkpoints: about a thousand events
_TURN: Final = 1 << 20


class _Group:
    """A decoded group: events of one emitter, and their hits, which are made once."""

    __slots__ = ("_first", "_raw", "_shown", "_values", "size")

    def __init__(self, place: Ancestor, events: list[IndexedEvent]) -> None:
        self._first = events[0].event
        self._shown = [(Hit(place, one, one.event.entries), indexed_values(one.event)) for one in events]
        #: of any of the events, where they are few: mostly tells at once that none matches
        self._values = frozenset().union(*(one[1] for one in self._shown)) if len(events) <= _RUN else None
        self._raw: list[Hit] | None = None
        #: about how many bytes it takes, JSON of its logs included
        self.size = sum(_OVERHEAD + sum(200 + 3 * len(entry.value) for entry in one.event.entries) for one in events)

    def hits(self, criteria: EventCriteria) -> Sequence[Hit]:
        """Those that match."""
        if not criteria.matches_emitter(self._first):
            return ()
        if criteria.values or not criteria.is_raw_only:
            if self._values is not None and not criteria.matches_values(self._values):
                return ()
            shown = self._shown
            # what `EventCriteria.matches_values` says, without a call for each event
            for wanted in criteria.values:
                shown = [one for one in shown if not wanted.isdisjoint(one[1])]
            includes_empty = criteria.includes_empty
            return [hit for hit, _ in shown if hit.entries or includes_empty]
        if self._raw is None:
            self._raw = [
                hit if len(entries) == len(hit.entries) else Hit(hit.place, hit.found, entries)
                for hit, _ in self._shown
                if (entries := criteria.shown_entries(hit.found.event))
            ]
        return self._raw


#: a tipset, one of its chunks, the groups in it (None for all)
_GroupsOf = tuple[Ancestor, int, Sequence[int] | None]
#: rows of EVENTS that were read before they were known to be needed, by their keys; None: there is no such row
_RowsAhead = dict[tuple[bytes, bytes], bytes | None]


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

    async def read_marks(
        self, ctx: Context, places: Sequence[Ancestor], ahead: _RowsAhead | None = None
    ) -> dict[bytes, _Mark]:
        """The marks of those of these tipsets that have event rows, by block hash.

        `ahead`, where given, gets the first rows of the events of few tipsets: they are read in the same burst.
        """
        known = self._marks
        if len(known) > _MARKED:
            known.clear()
        lacking = [place for place in places if place.block_hash not in known]
        if len(lacking) > 8:
            for key, row in await self._scan(ctx, COVERAGE, mark_partition, lacking[0].height, lacking[-1].height):
                known[key[8:]] = _Mark(*decode_mark(row))
        elif lacking:
            rows = [(mark_partition(place.height), at_key(place.height, place.block_hash)) for place in lacking]
            first = [] if ahead is None else [chunk_row(place.height, place.block_hash, 0) for place in lacking]
            marks, chunks = await asyncio.gather(self._store.rows(COVERAGE, rows), self._rows(first))
            if ahead is not None:
                ahead.update(zip(first, chunks, strict=True))
            for place, value in zip(lacking, marks, strict=True):
                if value is not None:
                    known[place.block_hash] = _Mark(*decode_mark(value))
        return {place.block_hash: mark for place in places if (mark := known.get(place.block_hash)) is not None}

    async def _rows(self, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        """Rows of EVENTS; no request where none are asked for."""
        return await self._store.rows(EVENTS, keys) if keys else []

    # --- posting lists ---------------------------------------------------------------------------------

    async def _scan(
        self, ctx: Context, table: Table, partition_of: Callable[[int], bytes], low: int, high: int
    ) -> list[tuple[bytes, bytes]]:
        """(epoch and block hash, value) of a table of a day a partition, from epoch `low` to `high`, of all forks."""
        found: list[tuple[bytes, bytes]] = []
        for day in range(low // POSTINGS_BUCKET, high // POSTINGS_BUCKET + 1):
            start = max(low, day * POSTINGS_BUCKET).to_bytes(8, "big")
            end = (min(high, (day + 1) * POSTINGS_BUCKET - 1) + 1).to_bytes(8, "big")
            partition = partition_of(day * POSTINGS_BUCKET)
            while True:
                await ctx.checkpoint()
                rows = await self._store.scan(table, partition, start=start, end=end, limit=_PAGE)
                found += rows
                if len(rows) < _PAGE:
                    break
                start = rows[-1][0] + b"\0"
        return found

    async def _find_groups_of_terms(
        self, ctx: Context, terms: Sequence[Term], places: dict[bytes, Ancestor], low: int, high: int
    ) -> dict[bytes, set[Ref]]:
        """The groups that have one of these terms, by block hash, of tipsets among `places`."""
        found: dict[bytes, set[Ref]] = {}
        for at in range(0, len(terms), _SCANS):
            some = terms[at : at + _SCANS]
            for rows in await asyncio.gather(
                *(self._scan(ctx, EVENT_POSTINGS, partial(posting_partition, term), low, high) for term in some)
            ):
                for number, (key, value) in enumerate(rows):
                    if not number % _RUN:
                        await ctx.checkpoint()
                    block_hash = key[8:]
                    if block_hash in places:
                        found.setdefault(block_hash, set()).update(decode_refs(value))
        return found

    async def _terms_by_condition(self, ctx: Context, criteria: EventCriteria) -> list[list[Term]]:
        """What must hold all together, each as terms one of which must be there; the narrowest first."""
        found: list[list[Term]] = []
        if criteria.delegated:
            found.append([emitter_term(address) for address in criteria.delegated])
        if criteria.ids:
            terms = await self._terms_of_ids(ctx, criteria.ids)
            if terms is not None:
                found.append(terms)
        for values in criteria.values:
            await ctx.checkpoint()
            found.append([value_term(*value) for value in values])
        return found

    async def _terms_of_ids(self, ctx: Context, ids: Iterable[int]) -> list[Term] | None:
        """An actor's events are listed under its delegated address, where it has one; None where that is not held."""
        terms: list[Term] = []
        head = (await ctx.head()).tipset
        try:
            tree = await load_tree(ctx, head.parent_state_root, head.height)
            for actor_id in ids:
                await ctx.checkpoint()
                address = from_id(actor_id)
                terms.append(emitter_term(address))
                try:
                    delegated = (await tree.get(address)).delegated
                except ActorNotFound:
                    continue
                if delegated is not None:
                    terms.append(emitter_term(delegated))
        except (Missing, Dropped, FetchFailed):
            return None
        return terms

    async def _find_groups(
        self, ctx: Context, criteria: EventCriteria, places: dict[bytes, Ancestor], marks: dict[bytes, _Mark]
    ) -> dict[bytes, set[Ref]] | None:
        """The groups to read, by block hash; None for all."""
        events = sum(marks[block_hash].events for block_hash in places)
        if events <= _NARROW:
            return None  # fewer events than a posting list may have rows
        # a condition of more terms than there are events is looked for in the events themselves
        conditions = [terms for terms in await self._terms_by_condition(ctx, criteria) if len(terms) <= events]
        if not conditions:
            return None
        heights = [place.height for place in places.values()]
        low, high = min(heights), max(heights)
        found: dict[bytes, set[Ref]] = {}
        for number, terms in enumerate(conditions):
            if number and sum(map(len, found.values())) <= _NARROW:
                break
            some = await self._find_groups_of_terms(ctx, terms, places, low, high)
            if number:
                some = {key: refs & found[key] for key, refs in some.items() if key in found}
            found = {key: refs for key, refs in some.items() if refs}
        return found

    # --- groups ----------------------------------------------------------------------------------------

    async def _read(self, ctx: Context, wanted: Sequence[_GroupsOf], ahead: _RowsAhead) -> list[Sequence[_Group]]:
        """The groups that each names, in order. One burst for what is not cached, nor among the rows of `ahead`.

        Errors: NotHeld, BadObject.
        """
        found = [self._cached(*one) for one in wanted]
        missing = [at for at, groups in enumerate(found) if groups is None]
        rows = [chunk_row(place.height, place.block_hash, chunk) for place, chunk, _ in (wanted[at] for at in missing)]
        # a row that was not there may have come before its mark did
        asked = [row for row in rows if ahead.get(row) is None]
        read = ahead | dict(zip(asked, await self._rows(asked), strict=True))
        for at, data in zip(missing, [read[row] for row in rows], strict=True):
            place, chunk, refs = wanted[at]
            if data is None:
                raise NotHeld(f"the events of epoch {place.height}: a row of their index is missing")
            found[at] = await self._decoded(ctx, place, chunk, refs, data)
        return found  # type: ignore[return-value]

    def _cached(self, place: Ancestor, chunk: int, refs: Sequence[int] | None) -> Sequence[_Group] | None:
        # `get` of this cache costs two calls of Python more
        try:
            if refs is None:
                return self._groups[place.block_hash, chunk, _ALL][0]
            found: list[_Group] = []
            for at in refs:
                found += self._groups[place.block_hash, chunk, at][0]
        except KeyError:
            return None
        return found

    async def _decoded(
        self, ctx: Context, place: Ancestor, chunk: int, refs: Sequence[int] | None, data: bytes
    ) -> list[_Group]:
        groups: list[_Group] = []
        for at in range(groups_in(data)) if refs is None else refs:
            await ctx.checkpoint()
            groups.append(_Group(place, decode_group(data, at)))
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

    async def search_epochs(
        self, ctx: Context, low: int, high: int, criteria: EventCriteria
    ) -> AsyncIterator[list[Hit]]:
        """The hits from epoch `low` to `high` on the chain of the request's head: in order, those of one tipset at a
        time. Errors: NotHeld (names what is covered). The caller notes what of the chain the answer depends on."""
        places = await self._ancestry.tipsets_between((await ctx.pin_head()).tipset, low, high)
        async for hits in self.search_tipsets(ctx, places, criteria):
            yield hits

    async def search_tipsets(
        self, ctx: Context, places: Sequence[Ancestor], criteria: EventCriteria
    ) -> AsyncIterator[list[Hit]]:
        """The hits in these tipsets (rising), those of one at a time. Errors: as `search_epochs`."""
        ahead: _RowsAhead = {}
        marks = await self.read_marks(ctx, places, ahead)
        at_once = self._search_memory(places, marks, criteria)
        if at_once is not None:
            for hits in at_once:
                yield hits
            return
        indexed = {place.block_hash: place for place in places if place.block_hash in marks}
        refs = await self._find_groups(ctx, criteria, indexed, marks)
        slices: list[Ancestor] = []
        count = 0
        for place in places:
            mark = marks.get(place.block_hash)
            if mark is not None and not (mark.events if refs is None else refs.get(place.block_hash)):
                continue
            if mark is None:
                async for hits in self._search_slice(ctx, slices, refs, marks, criteria, ahead):
                    yield hits
                slices, count = [], 0
                await ctx.checkpoint()
                if hits := await self._search_receipts(ctx, place, criteria):
                    yield hits
                continue
            slices.append(place)
            count += mark.chunks if refs is None else len(refs[place.block_hash])
            if count >= _SLICE:
                await ctx.checkpoint()
                async for hits in self._search_slice(ctx, slices, refs, marks, criteria, ahead):
                    yield hits
                slices, count = [], 0
        async for hits in self._search_slice(ctx, slices, refs, marks, criteria, ahead):
            yield hits

    def _search_memory(
        self, places: Sequence[Ancestor], marks: dict[bytes, _Mark], criteria: EventCriteria
    ) -> list[list[Hit]] | None:
        """The hits, those of one tipset at a time; None where not all events are in memory, or they are many."""
        found: list[list[Hit]] = []
        left = _IN_MEMORY
        try:
            for place in places:
                mark = marks[place.block_hash]
                left -= mark.events
                if left < 0:
                    return None
                hits: list[Hit] = []
                for chunk in range(mark.chunks):
                    for group in self._groups[place.block_hash, chunk, _ALL][0]:
                        hits += group.hits(criteria)
                if hits:
                    found.append(_ordered(hits))
        except KeyError:
            return None
        return found

    async def _search_slice(
        self,
        ctx: Context,
        places: Sequence[Ancestor],
        refs: dict[bytes, set[Ref]] | None,
        marks: dict[bytes, _Mark],
        criteria: EventCriteria,
        ahead: _RowsAhead,
    ) -> AsyncIterator[list[Hit]]:
        if not places:
            return
        asked: list[_GroupsOf] = []
        for place in places:
            if refs is None:
                asked += [(place, chunk, None) for chunk in range(marks[place.block_hash].chunks)]
                continue
            by_chunk: dict[int, list[int]] = {}
            for chunk, at in sorted(refs[place.block_hash]):
                by_chunk.setdefault(chunk, []).append(at)
            asked += [(place, chunk, some) for chunk, some in by_chunk.items()]
        hits: list[Hit] = []
        last: Ancestor | None = None
        passed = 0
        for (place, _, _), groups in zip(asked, await self._read(ctx, asked, ahead), strict=True):
            if place is not last and hits:
                yield _ordered(hits)
                hits = []
            last = place
            for group in groups:
                passed += group.size
                hits += group.hits(criteria)
            if passed > _TURN:
                passed = 0
                await ctx.checkpoint()
        if hits:
            yield _ordered(hits)

    async def _search_receipts(self, ctx: Context, place: Ancestor, criteria: EventCriteria) -> list[Hit]:
        """The hits in a tipset that has no event rows, read from its receipts. Errors: NotHeld."""
        try:
            tipset = await ctx.index.tipset(place.key)
            post = await find_post_roots(ctx, tipset)
            if post is None:
                raise NotHeld(f"what the tipset at epoch {place.height} did")
            events = await load_indexed_events(ctx, tipset, post)
        except NotHeld as error:
            ranges = ranges_text(await covered(self._store, EVENTS_INDEX))
            raise NotHeld(f"{error.what}; the index of events covers {ranges}") from None
        hits: list[Hit] = []
        for number, one in enumerate(events):
            if not number % _RUN:
                await ctx.checkpoint()
            entries = criteria.matching_entries(one.event)
            if entries or criteria.matches_empty(one.event):
                hits.append(Hit(place, one, entries))
        return hits


def _ordered(hits: list[Hit]) -> list[Hit]:
    hits.sort(key=lambda hit: hit.found.event.index)
    return hits


def event_search(ctx: Context) -> EventSearch:
    """The process's search."""
    found: EventSearch | None = ctx.caches.get("event_search")
    if found is None:
        found = ctx.caches["event_search"] = EventSearch(ctx, ctx.services.cache_sizes.events)
    return found
