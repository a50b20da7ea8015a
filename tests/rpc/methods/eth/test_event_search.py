"""Events by rows: what a search finds is what a look at every event finds, whatever forks stand beside."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chain.index.event_rows as event_rows
import rpc.lookup.events.event_search as searching
from blockstore.cid import RAW, Cid, cid_of
from blockstore.memory import MemoryStore
from blockstore.store import COVERAGE, EVENT_POSTINGS, EVENTS, Batch, Table
from chain.address import Address, delegated, from_id
from chain.consensus.ancestry import Ancestor
from chain.index.chain_index import ChainIndex
from chain.index.event_rows import IndexedEvent, decode_group, decode_mark, decode_refs, groups_in, put_events
from chain.ipld.objects import Objects
from chain.message import EventEntry
from chain.network import NetworkRecord
from chain.state.tipset_events import TipsetEvent
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.lookup.events.criteria import EventCriteria
from rpc.lookup.events.event_search import EventSearch
from rpc.services import Services
from tests.support.made_chain import NOWHERE, Log
from tests.support.virtual_time import run_virtual, virtual_ms

CBOR = 0x51
EMITTERS = [(7, from_id(7)), (8, delegated(10, b"\x08" * 20)), (9, delegated(10, b"\x09" * 20))]
WORDS = [bytes([number]) * 32 for number in range(4)]

entries = st.lists(
    st.builds(
        EventEntry,
        st.sampled_from([0, 1, 3]),
        st.sampled_from(["t1", "t2", "d", "$type"]),
        st.sampled_from([RAW, RAW, CBOR]),
        st.sampled_from(WORDS),
    ),
    max_size=4,
).map(tuple)
emitted = st.lists(st.tuples(st.sampled_from(EMITTERS), entries), max_size=12)
values = st.frozensets(
    st.tuples(st.sampled_from(["t1", "t2", "d"]), st.just(RAW), st.sampled_from(WORDS)), min_size=1, max_size=3
)
filters = st.builds(
    EventCriteria,
    delegated=st.frozensets(st.sampled_from([bytes(address) for _, address in EMITTERS[1:]]), max_size=2),
    values=st.lists(values, max_size=2).map(tuple),
    is_raw_only=st.booleans(),
)


def event(index: int, emitter: tuple[int, Address], shown: tuple[EventEntry, ...]) -> IndexedEvent:
    return IndexedEvent(
        TipsetEvent(index, index // 2, emitter[0], emitter[1], shown), cid_of(bytes([index // 2])), WORDS[0]
    )


def place(height: int, fork: int) -> Ancestor:
    return Ancestor(height, hashlib.sha256(b"%d %d" % (height, fork)).digest(), TipsetKey(b""))


async def search_over(store: MemoryStore) -> tuple[Context, EventSearch]:
    network = NetworkRecord("made", NOWHERE, "t", 31415926, 30, ((-1, 25),))
    objects = Objects(store)
    services = Services(
        store=store, index=ChainIndex(store, objects, network), objects=objects, network=network, head_source=Log()
    )
    ctx = Context(services)
    return ctx, EventSearch(ctx, 1 << 16)


async def found(
    search: EventSearch, ctx: Context, places: Sequence[Ancestor], wanted: EventCriteria
) -> list[tuple[int, int, tuple[EventEntry, ...]]]:
    return [
        (hit.place.height, hit.found.event.index, tuple(hit.entries))
        async for hits in search.search_tipsets(ctx, places, wanted)
        for hit in hits
    ]


@settings(max_examples=150)
@given(
    tipsets=st.lists(st.tuples(st.integers(0, 3), emitted, emitted), min_size=1, max_size=8),
    wanted=st.lists(filters, min_size=1, max_size=3),
    narrow=st.sampled_from([0, 3, 1000]),
    chunk=st.sampled_from([64, 400, 32 << 10]),
)
async def test_a_search_finds_what_looking_at_every_event_finds(
    tipsets: list[tuple[int, list, list]], wanted: list[EventCriteria], narrow: int, chunk: int
) -> None:
    store = MemoryStore()
    height = 2875  # a day's posting lists end at 2,880
    line: list[tuple[Ancestor, list[IndexedEvent]]] = []
    before = searching._NARROW, event_rows.CHUNK_BYTES
    searching._NARROW, event_rows.CHUNK_BYTES = narrow, chunk  # type: ignore[misc]
    try:
        for nulls, events, others in tipsets:
            height += 1 + nulls
            batch = Batch()
            mine = [event(index, *one) for index, one in enumerate(events)]
            put_events(batch, height, place(height, 0).block_hash, mine)
            put_events(
                batch, height, place(height, 1).block_hash, [event(index, *one) for index, one in enumerate(others)]
            )
            await store.write(batch)
            line.append((place(height, 0), mine))
        ctx, search = await search_over(store)
        for one in [*wanted, *wanted]:  # a second time: from what is kept
            brute = [
                (at.height, event.event.index, tuple(shown))
                for at, events in line
                for event in events
                if (shown := one.matching_entries(event.event))
            ]
            assert await found(search, ctx, [at for at, _ in line], one) == brute
    finally:
        searching._NARROW, event_rows.CHUNK_BYTES = before  # type: ignore[misc]


@given(events=emitted)
def test_rows_hold_every_event_and_every_posting_names_its_group(events: list) -> None:
    made = [event(index, *one) for index, one in enumerate(events)]
    batch = Batch()
    put_events(batch, 5, b"h" * 32, made)
    chunks = {key: value for table, _, key, value in batch.puts if table is EVENTS}
    back = [one for data in chunks.values() for at in range(groups_in(data)) for one in decode_group(data, at)]
    assert sorted(back, key=lambda one: one.event.index) == made
    marks = [value for table, _, _, value in batch.puts if table is COVERAGE]
    assert [decode_mark(mark) for mark in marks] == [(len(made), len(chunks))]
    for table, partition, _, value in batch.puts:
        if table is not EVENT_POSTINGS:
            continue
        for number, at in decode_refs(value):
            (data,) = (data for key, data in chunks.items() if int.from_bytes(key[-2:], "big") == number)
            terms = {
                term
                for one in decode_group(data, at)
                for term in (
                    event_rows.emitter_term(one.event.address),
                    *(
                        event_rows.value_term(entry.key, entry.codec, entry.value)
                        for entry in one.event.entries
                        if entry.flags & 3
                    ),
                )
            }
            assert partition[4:] in terms


def test_a_large_tipset_is_many_small_rows() -> None:
    shown = (EventEntry(3, "t1", RAW, WORDS[1]), EventEntry(3, "d", RAW, bytes(3000)))
    made = [
        IndexedEvent(TipsetEvent(index, 0, *EMITTERS[index % 3], shown), Cid(NOWHERE), None) for index in range(300)
    ]
    batch = Batch()
    put_events(batch, 5, b"h" * 32, made)
    rows = [value for table, _, _, value in batch.puts if table is EVENTS]
    assert len(rows) >= 300 * 3000 // event_rows.CHUNK_BYTES
    assert max(map(len, rows)) < event_rows.CHUNK_BYTES + 8192


class Slow(MemoryStore):
    """Each read of rows takes a second of a virtual clock. `late`: rows of EVENTS that the first read does not see."""

    late = False

    async def rows(self, table: Table, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        found = await super().rows(table, keys)
        await asyncio.sleep(1)
        if table is EVENTS and self.late:
            self.late = False
            return [None] * len(keys)
        return found


class Counting(MemoryStore):
    """Counts reads of rows and of posting lists."""

    reads = 0

    async def rows(self, table: Table, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        self.reads += 1
        return await super().rows(table, keys)

    async def scan(self, *arguments: Any, **named: Any) -> list[tuple[bytes, bytes]]:
        self.reads += 1
        return await super().scan(*arguments, **named)


async def test_a_range_whose_events_are_in_memory_is_searched_without_a_read() -> None:
    store, batch = Counting(), Batch()
    shown = [(EventEntry(3, "t1", RAW, word),) for word in WORDS]
    # more than are searched without a posting list where they must be read
    for height in range(20):
        events = [event(index, EMITTERS[index % 3], shown[index % 4]) for index in range(24)]
        put_events(batch, height, place(height, 0).block_hash, events)
    await store.write(batch)
    ctx, _ = await search_over(store)
    search = EventSearch(ctx, 64 << 20)
    line = [place(height, 0) for height in range(20)]
    for one in line:
        await found(search, ctx, [one], EventCriteria())
    one_topic = EventCriteria(values=(frozenset({("t1", RAW, WORDS[2])}),))
    store.reads = 0
    assert len(await found(search, ctx, line, one_topic)) == 20 * 24 // 4
    assert not store.reads
    # what is not in memory is not read whole: the posting list names the few groups
    assert len(await found(EventSearch(ctx, 64 << 20), ctx, line, one_topic)) == 20 * 24 // 4
    assert store.reads


@pytest.mark.parametrize("late", [False, True])
def test_the_events_of_one_tipset_take_one_round_trip(late: bool) -> None:
    async def search() -> tuple[int, int]:
        store = Slow()
        store.late = late
        batch = Batch()
        put_events(batch, 7, place(7, 0).block_hash, [event(0, EMITTERS[0], (EventEntry(3, "t1", RAW, WORDS[0]),))])
        await store.write(batch)
        ctx, search = await search_over(store)
        hits = await found(search, ctx, [place(7, 0)], EventCriteria())
        return len(hits), virtual_ms()

    # where the row of events came behind the first look, it is read once more
    assert run_virtual(search()) == (1, 2000 if late else 1000)
