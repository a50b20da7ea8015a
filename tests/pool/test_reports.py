"""The table of reports, on every store."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from blockstore.lmdb.store import LmdbStore
from blockstore.memory import MemoryStore
from blockstore.pool_rows import WorkerRow, delete_worker, put_worker, read_workers
from blockstore.store import FLEET, Batch, Store
from chain.errors import BadObject
from leader_bridge.pool.reports import (
    NULL_ROUND,
    REPORTS_BUCKET,
    Claim,
    Report,
    Status,
    decode_report,
    report_key,
    reported_tasks,
    reports_of,
    save_reports,
    touched_buckets,
    withdraw,
)
from leader_bridge.pool.wanted import Wanted, load_wanted, save_wanted
from tests.support.cassandra.stores import emptied, keyspace_url

A, B = b"a" * 32, b"b" * 32


class ReportsContract:
    """`store` is a fixture of the subclass: an empty store."""

    async def test_reports_come_back_in_order(self, store: Store) -> None:
        claim = Claim(b"events", 6, 7, b"key", 16)
        made = [
            Report(7, A, "events", Status.OK, "me", 10, 20, claim=claim),
            Report(7, A, "messages", Status.ERROR, "me", 10, 30, "StoreError: away"),
            Report(7, NULL_ROUND, "events", Status.INFO),
            Report(REPORTS_BUCKET, B, "events", Status.SKIP, "you", 1, 2, "not held"),
        ]
        await save_reports(store, made[:2])
        await save_reports(store, made[2:])
        assert [one async for one in reports_of(store, 0, REPORTS_BUCKET)] == [made[2], made[0], made[1], made[3]]
        assert [one async for one in reports_of(store, 8, REPORTS_BUCKET - 1)] == []
        assert [one.task async for one in reports_of(store, REPORTS_BUCKET, REPORTS_BUCKET)] == ["events"]

    async def test_a_failure_never_hides_a_success(self, store: Store) -> None:
        for status in (Status.OK, Status.ERROR, Status.SKIP):
            await save_reports(store, [Report(1, A, "events", status)])
        assert await reported_tasks(store, 1, A, ("events", "messages")) == ({"events"}, {"events"})
        await save_reports(store, [Report(1, A, "events", Status.OK)], failed_before={"events"})
        assert await reported_tasks(store, 1, A, ("events",)) == ({"events"}, set())
        assert await reported_tasks(store, 1, B, ("events",)) == (set(), set())

    async def test_a_reverted_tipsets_reports_are_withdrawn(self, store: Store) -> None:
        await save_reports(store, [Report(1, one, task, Status.OK) for one in (A, B) for task in ("events", "traces")])
        assert await withdraw(store, 1, A) == 2
        assert [one.tipset async for one in reports_of(store, 0, 10)] == [B, B]
        assert await withdraw(store, 1, A) == 0

    async def test_a_partition_that_is_written_to_shows_it(self, store: Store) -> None:
        await save_reports(store, [Report(1, A, "events", Status.OK, "me", ended_ms=1)])
        first = await touched_buckets(store)
        assert set(first) == {0}
        await save_reports(store, [Report(REPORTS_BUCKET * 3, A, "events", Status.OK, "me", ended_ms=2)])
        await save_reports(store, [Report(2, A, "events", Status.OK, "me", ended_ms=3)])
        second = await touched_buckets(store)
        assert set(second) == {0, 3}
        assert second[0] != first[0]

    async def test_ranges_that_were_asked_for(self, store: Store) -> None:
        first, second = Wanted(0, 10, ("events",)), Wanted(5, 20, ("events", "traces"), "index", 7)
        for wanted in (first, second, Wanted(0, 10, ("events",), cursor=5)):
            await save_wanted(store, wanted)
        found = await load_wanted(store)
        assert sorted(found, key=lambda one: one.high) == [Wanted(0, 10, ("events",), cursor=5), second]

    async def test_rows_of_workers(self, store: Store) -> None:
        batch = Batch()
        for name in ("b", "a"):
            put_worker(batch, WorkerRow(name, {"watch": 5}, done=3, tasks={"OK": 9}))
        batch.put(FLEET, b"workers", b"c", b"not JSON")
        batch.put(FLEET, b"workers", b"d", b'{"name":"e"}')
        await store.write(batch)
        assert [row.name for row in await read_workers(store)] == ["a", "b"]
        batch = Batch()
        delete_worker(batch, "a")
        await store.write(batch)
        assert [row.tasks for row in await read_workers(store)] == [{"OK": 9}]


class TestInMemory(ReportsContract):
    @pytest.fixture
    async def store(self) -> Store:
        return MemoryStore()


class TestInLmdb(ReportsContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = await LmdbStore.open(tmp_path / "store")
        yield store
        await store.close()


class TestInCassandra(ReportsContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        store = await emptied(keyspace_url("follower_pool"), delta_ms=200, epsilon_ms=50, every=True)
        yield store
        await store.close()


@pytest.mark.parametrize(
    "damage",
    [lambda value: b"", lambda value: b"\x09" + value[1:], lambda value: value[:5], lambda value: value[:1] + b"[1]"],
)
def test_a_damaged_report_is_refused(damage: Callable[[bytes], bytes]) -> None:
    _, key, value = Report(1, A, "events", Status.OK).row()
    with pytest.raises(BadObject), contextlib.suppress(KeyError):
        decode_report(key, damage(value))


def test_the_key_orders_by_epoch() -> None:
    keys = [report_key(height, A, "events", done=True) for height in (1, 255, 256, 70_000)]
    assert keys == sorted(keys)
