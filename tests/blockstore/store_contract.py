"""What every store must do, once. A backend's test class subclasses `StoreContract` and says how one is made."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockstore.cid import multihash_of
from blockstore.errors import Fenced, Missing
from blockstore.store import (
    COVERAGE,
    EVENTS,
    FILTERS,
    MESSAGES,
    META,
    TIPSETS,
    Batch,
    HeadEntry,
    Held,
    Store,
    Table,
    TipsetRef,
)

small = st.binary(max_size=6)
_operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), small, small, st.binary(max_size=40)),
        st.tuples(st.just("delete"), small, small, st.just(b"")),
        st.tuples(st.just("term"), small, small, st.just(b"")),
    ),
    max_size=30,
)
Operations = list[tuple[str, bytes, bytes, bytes]]


def entry(seq: int, term: int, height: int | None = None) -> HeadEntry:
    height = seq if height is None else height
    return HeadEntry(
        seq=seq,
        term=term,
        reverts=(TipsetRef(height, b"old"),),
        applies=(TipsetRef(height, b"new"), TipsetRef(height + 1, b"newer")),
        head=TipsetRef(height + 1, b"newer"),
        f3=7,
    )


class StoreContract:
    """`make_store` is a fixture of the subclass: an empty store, closed after the test."""

    #: how many random histories a backend is put through
    histories = 25

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        raise AssertionError("a backend says how its store is made")
        yield

    # --- objects -----------------------------------------------------------------------------------

    async def test_objects_come_back_as_they_went(self, store: Store) -> None:
        rng = random.Random(1)
        objects = [rng.randbytes(size) for size in (0, 1, 100, 5000, 1 << 20)]
        pairs = [(multihash_of(data), data) for data in objects]
        await store.put_many(pairs, closed=False)
        for multihash, data in pairs:
            assert await store.get(multihash) == data
        asked = [multihash_of(b"none"), *(multihash for multihash, _ in reversed(pairs)), pairs[0][0]]
        assert await store.get_many(asked) == [None, *reversed(objects), objects[0]]
        assert await store.get_many([]) == []

    async def test_loose_and_closed(self, store: Store) -> None:
        keys = [multihash_of(bytes((n,))) for n in range(4)]
        await store.put_many([(keys[0], b"a"), (keys[1], b"b")], closed=False)
        await store.put_many([(keys[2], b"c")], closed=True)
        assert await store.held_many(keys) == [Held.LOOSE, Held.LOOSE, Held.CLOSED, Held.ABSENT]
        await store.close_many([keys[0]])
        await store.put_many([(keys[0], b"a"), (keys[2], b"c")], closed=False)
        await store.put_many([(keys[1], b"b")], closed=True)
        assert await store.held_many(keys) == [Held.CLOSED, Held.CLOSED, Held.CLOSED, Held.ABSENT]
        assert await store.get_many(keys) == [b"a", b"b", b"c", None]
        assert await store.held_many([]) == []

    async def test_closing_what_is_absent_is_an_error(self, store: Store) -> None:
        with pytest.raises(Missing):
            await store.close_many([multihash_of(b"never put")])

    async def test_many_objects_at_once(self, store: Store) -> None:
        pairs = [(multihash_of(n.to_bytes(4, "big")), n.to_bytes(4, "big") * 50) for n in range(3000)]
        await store.put_many(iter(pairs), closed=False)
        await store.close_many([multihash for multihash, _ in pairs])
        keys = [multihash for multihash, _ in pairs]
        assert await store.get_many(keys) == [data for _, data in pairs]
        assert set(await store.held_many(keys)) == {Held.CLOSED}

    async def test_keys_that_nothing_can_have_are_absent(self, store: Store) -> None:
        held = multihash_of(b"held")
        await store.put_many([(held, b"held")], closed=False)
        asked = [b"", b"\x00\xe8\x07" + b"i" * 1000, held]
        assert await store.get_many(asked) == [None, None, b"held"]
        assert await store.held_many(asked) == [Held.ABSENT, Held.ABSENT, Held.LOOSE]
        assert await store.get(asked[0]) is None
        assert await store.get(asked[1]) is None

    # --- rows --------------------------------------------------------------------------------------

    async def test_tables_and_partitions_are_apart(self, store: Store) -> None:
        batch = Batch()
        batch.put(META, b"", b"k", b"meta")
        batch.put(TIPSETS, b"", b"k", b"tipsets")
        batch.put(TIPSETS, b"k", b"", b"other")
        await store.write(batch)
        assert await store.row(META, b"", b"k") == b"meta"
        assert await store.rows(TIPSETS, [(b"", b"k"), (b"k", b""), (b"k", b"k")]) == [b"tipsets", b"other", None]
        assert await store.rows(TIPSETS, []) == []

    async def test_the_last_write_of_a_row_wins(self, store: Store) -> None:
        batch = Batch()
        batch.put(META, b"", b"k", b"1")
        batch.put(META, b"", b"k", b"2")
        await store.write(batch)
        assert await store.row(META, b"", b"k") == b"2"
        await store.write(Batch())
        batch = Batch()
        batch.delete(META, b"", b"k")
        batch.delete(META, b"", b"never")
        await store.write(batch)
        assert await store.row(META, b"", b"k") is None

    async def test_scans_keep_their_bounds(self, store: Store) -> None:
        batch = Batch()
        for n in range(20):
            batch.put(EVENTS, b"p", bytes((n,)), b"v%d" % n)
        batch.put(EVENTS, b"p\0", b"", b"neighbour")
        batch.put(EVENTS, b"o", b"\xff" * 8, b"neighbour")
        batch.put(EVENTS, b"p", b"\xff" * 40, b"last")
        await store.write(batch)
        keys = [bytes((n,)) for n in range(20)]
        every = [*((key, b"v%d" % n) for n, key in enumerate(keys)), (b"\xff" * 40, b"last")]
        assert await store.scan(EVENTS, b"p") == every
        assert await store.scan(EVENTS, b"p", reverse=True) == every[::-1]
        assert await store.scan(EVENTS, b"p", start=keys[3], end=keys[6]) == every[3:6]
        assert await store.scan(EVENTS, b"p", start=keys[3], end=keys[6], reverse=True) == every[3:6][::-1]
        assert await store.scan(EVENTS, b"p", start=keys[3], limit=2) == every[3:5]
        assert await store.scan(EVENTS, b"p", end=keys[6], reverse=True, limit=2) == [every[5], every[4]]
        assert await store.scan(EVENTS, b"p", start=keys[6], end=keys[3]) == []
        assert await store.scan(EVENTS, b"q") == []

    def test_random_histories_of_rows(self, store_factory: object) -> None:
        histories = self.histories

        @settings(max_examples=histories, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from([MESSAGES, COVERAGE]), _operations, small, small, st.booleans(), st.integers(1, 10))
        def check(table: Table, operations: Operations, start: bytes, end: bytes, back: bool, limit: int) -> None:
            asyncio.run(history(table, operations, start, end, back, limit))

        async def history(
            table: Table, operations: Operations, start: bytes, end: bytes, back: bool, limit: int
        ) -> None:
            async with store_factory() as store:  # type: ignore[operator]
                model: dict[tuple[bytes, bytes], bytes] = {}
                for kind, partition, key, value in operations:
                    batch = Batch()
                    if kind == "term":
                        await store.new_term("another")
                        continue
                    if kind == "put":
                        batch.put(table, partition, key, value)
                        model[partition, key] = value
                    else:
                        batch.delete(table, partition, key)
                        model.pop((partition, key), None)
                    await store.write(batch)
                for partition in {partition for kind, partition, _, _ in operations if kind != "term"}:
                    rows = sorted((k, v) for (p, k), v in model.items() if p == partition)
                    assert await store.scan(table, partition) == rows
                    some = [row for row in rows if start <= row[0] < end]
                    some = (some[::-1] if back else some)[:limit]
                    found = await store.scan(table, partition, start=start, end=end, reverse=back, limit=limit)
                    assert found == some
                keys = sorted({(p, k) for _, p, k, _ in operations})
                assert await store.rows(table, keys) == [model.get(pair) for pair in keys]

        check()

    # --- compare and set ---------------------------------------------------------------------------

    async def test_a_row_is_swapped_only_for_the_value_expected(self, store: Store) -> None:
        at = (FILTERS, b"part", b"key")
        assert not await store.swap(*at, b"old", b"new")
        assert not await store.swap(*at, b"old", None)
        assert await store.swap(*at, None, None)
        assert await store.swap(*at, None, b"one")
        assert not await store.swap(*at, None, b"two")
        assert not await store.swap(*at, b"on", b"two")
        assert await store.swap(*at, b"one", b"long " * 200)
        assert await store.row(*at) == b"long " * 200
        assert not await store.swap(*at, b"one", None)
        assert await store.swap(*at, b"long " * 200, b"")
        assert await store.row(*at) == b""
        assert await store.swap(*at, b"", None)
        assert await store.row(*at) is None
        assert await store.scan(FILTERS, b"part") == []
        assert await store.swap(*at, None, b"again")

    async def test_of_many_swaps_at_once_one_succeeds(self, store: Store) -> None:
        at = (FILTERS, b"part", b"counter")
        assert await store.swap(*at, None, b"0")

        async def count() -> int:
            done = 0
            while done < 5:
                value = await store.row(*at)
                assert value is not None
                number = int(value)
                done += await store.swap(*at, value, b"%d" % (number + 1))
            return done

        assert sum(await asyncio.gather(*(count() for _ in range(4)))) == 20
        assert await store.row(*at) == b"20"

    # --- head log ----------------------------------------------------------------------------------

    async def test_an_empty_log(self, store: Store) -> None:
        assert await store.head() is None
        assert await store.head_entries(0) == []

    async def test_entries_come_back_in_order(self, store: Store) -> None:
        term = await store.new_term("one")
        for seq in range(1, 8):
            await store.append_head(entry(seq, term))
            head = await store.head()
            assert head is not None
            assert (head.seq, head.head) == (seq, TipsetRef(seq + 1, b"newer"))
        entries = await store.head_entries(0)
        assert [e.seq for e in entries] == list(range(1, 8))
        assert [(e.reverts, e.applies, e.f3) for e in entries] == [
            (entry(n, term).reverts, entry(n, term).applies, 7) for n in range(1, 8)
        ]
        assert [e.seq for e in await store.head_entries(3, 2)] == [4, 5]
        assert await store.head_entries(7) == []

    async def test_an_older_term_is_fenced(self, store: Store) -> None:
        old = await store.new_term("old")
        await store.append_head(entry(1, old))
        new = await store.new_term("new")
        assert new > old
        with pytest.raises(Fenced):
            await store.append_head(entry(2, old))
        await store.append_head(entry(2, new))
        for seq in (2, 4):
            with pytest.raises(Fenced):
                await store.append_head(entry(seq, new))
        head = await store.head()
        assert head is not None
        assert (head.seq, head.term) == (2, new)

    async def test_the_log_is_trimmed_from_its_old_end(self, store: Store) -> None:
        term = await store.new_term("one")
        for seq in range(1, 11):
            await store.append_head(entry(seq, term))
        await store.trim_head_log(3)
        assert [e.seq for e in await store.head_entries(0)] == [8, 9, 10]
        await store.append_head(entry(11, term))
        await store.trim_head_log(100)
        assert [e.seq for e in await store.head_entries(0)] == [8, 9, 10, 11]
        await store.trim_head_log(0)  # the newest one stays: the log goes on from it
        assert [e.seq for e in await store.head_entries(0)] == [11]
        await store.append_head(entry(12, term))

    # --- whole store -------------------------------------------------------------------------------

    async def test_figures_are_numbers(self, store: Store) -> None:
        await store.put_many([(multihash_of(b"x"), b"x")], closed=False)
        figures = await store.stats()
        assert figures
        assert all(isinstance(figure, int) and figure >= 0 for figure in figures.values())

    async def test_it_is_a_store_and_its_url_keeps_secrets(self, store: Store) -> None:
        assert isinstance(store, Store)
        assert "@" not in store.url
        await store.close()
        await store.close()
