"""Compare-and-sets whose answers are lost, by the rules of each server: each is told once whether it was applied."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from blockstore.cassandra import compare_and_set
from blockstore.cassandra.store import CassandraStore
from blockstore.errors import StoreUnavailable
from blockstore.store import FILTERS
from tests.blockstore.model.delayed_store import DelayedSession, Server, Weather, store_over
from tests.blockstore.model.server import CASSANDRA, SCYLLADB, YCQL, Rules
from tests.support.virtual_time import run_virtual

EVERY = [pytest.param(rules, id=rules.kind.name.lower()) for rules in (CASSANDRA, YCQL, SCYLLADB)]
ROW = (FILTERS, b"part", b"counter")
CALM = Weather(write_ms=0, slow_reads=0)


def store_at(server: Server, weather: Weather, seed: int) -> CassandraStore:
    return store_over(DelayedSession(server, weather, seed), 200, 50)


async def count_up(store: CassandraStore, times: int) -> tuple[int, int]:
    """Count the row up so often. How often that was told, and how often it was not known."""
    done = unknown = 0
    while done + unknown < times:
        value = await store.row(*ROW)
        assert value is not None
        try:
            # all of them write the same values
            done += await store.swap(*ROW, value, b"%d" % (int(value) + 1))
        except StoreUnavailable:
            unknown += 1
    return done, unknown


@pytest.mark.parametrize("rules", EVERY)
def test_of_swaps_that_race_each_is_told_what_became_of_it(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight processes, each without an answer to a third of its writes, half of which land later."""
    # enough for this weather
    monkeypatch.setattr(compare_and_set, "_TRIES", 30)

    async def run(seed: int) -> None:
        server = Server(rules)
        assert await store_at(server, CALM, 0).swap(*ROW, None, b"0")
        weather = Weather(write_ms=40, time_out=0.3, fail=0.05)
        stores = [store_at(server, weather, seed * 10 + number) for number in range(8)]
        told = await asyncio.gather(*(count_up(store, 10) for store in stores))
        assert told == [(10, 0)] * len(stores)
        # what may still land changes nothing
        await asyncio.sleep(61)
        assert await store_at(server, CALM, 0).row(*ROW) == b"80"

    for seed in range(10):
        run_virtual(run(seed))


@pytest.mark.parametrize("rules", EVERY)
def test_a_row_that_a_former_version_wrote_is_swapped(rules: Rules) -> None:
    async def run(seed: int) -> None:
        server = Server(rules)
        calm = store_at(server, CALM, 0)
        await calm._put_value(FILTERS.name, b"part", b"counter", b"\0" + b"0")
        assert await calm.row(*ROW) == b"0"
        stores = [store_at(server, Weather(write_ms=40, time_out=0.5), seed * 10 + number) for number in range(3)]
        # the first one does not know which of the others was first
        told = await asyncio.gather(*(store.swap(*ROW, b"0", b"%d" % at) for at, store in enumerate(stores, 1)))
        assert sum(told) == 1
        assert await calm.row(*ROW) == b"%d" % (told.index(True) + 1)

    for seed in range(30):
        run_virtual(run(seed))


def time_out_then(rules: Rules, between: Coroutine[Any, Any, None], server: Server) -> Coroutine[Any, Any, bool]:
    """A swap of 0 for 1 that is not answered and was applied; before it is looked up, `between` happens."""
    session = DelayedSession(server, Weather(write_ms=0, slow_reads=0), 0)
    execute = session.execute
    lost: list[str] = []

    async def losing(cql: str, values: Any = (), *, serial: bool = False) -> list[list[Any]]:
        rows = await execute(cql, values, serial=serial)
        if " IF " in cql and not lost:
            lost.append(cql)
            await between
            raise server.error(*rules.timed_out[0], conditional=True)
        return rows

    session.execute = losing  # type: ignore[method-assign]
    return store_over(session, 200, 50).swap(*ROW, b"0", b"1")


@pytest.mark.parametrize(("changes", "is_known"), [(1, True), (compare_and_set._IDS - 1, True), (40, False)])
def test_a_swap_is_found_behind_some_changes_of_others(changes: int, is_known: bool) -> None:
    async def run() -> None:
        server = Server(CASSANDRA)
        calm = store_at(server, CALM, 0)
        assert await calm.swap(*ROW, None, b"0")

        async def change() -> None:
            for number in range(1, changes + 1):
                assert await calm.swap(*ROW, b"%d" % number, b"%d" % (number + 1))

        swapping = time_out_then(CASSANDRA, change(), server)
        if is_known:
            assert await swapping
        else:
            with pytest.raises(StoreUnavailable, match="changed often"):
                await swapping

    run_virtual(run())


def test_a_row_that_is_removed_meanwhile_leaves_it_unknown() -> None:
    async def run() -> None:
        server = Server(replace(CASSANDRA, lands_within_ms=1))
        calm = store_at(server, CALM, 0)
        assert await calm.swap(*ROW, None, b"0")

        async def remove() -> None:
            assert await calm.swap(*ROW, b"1", None)

        with pytest.raises(StoreUnavailable, match="removed"):
            await time_out_then(CASSANDRA, remove(), server)

    run_virtual(run())


def test_a_swap_for_the_value_that_was_there_before_is_noticed() -> None:
    """A value that comes back stands in another cell: a swap that was sent for the former cell has lost."""

    async def run() -> None:
        server = Server(CASSANDRA)
        calm = store_at(server, CALM, 0)
        assert await calm.swap(*ROW, None, b"0")
        cells = server._tables["filters"]
        before = str(cells)
        assert await calm.swap(*ROW, b"0", b"1")
        assert await calm.swap(*ROW, b"1", b"0")
        assert str(server._tables["filters"]) != before
        assert await calm.row(*ROW) == b"0"
        assert await calm.swap(*ROW, b"0", b"2")

    run_virtual(run())
