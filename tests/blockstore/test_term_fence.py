"""Rows that a leader reads, changes and writes: of two writers that race, the one of the older term changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from blockstore.errors import Fenced
from blockstore.open import SharedStoreOptions, open_store
from blockstore.store import COVERAGE, META, TIPSETS, Batch, Store, Table
from chain.index.coverage import Ranges, covered
from leader_bridge.store.coverage import merge_ranges, save_coverage
from tests.support.cassandra.stores import emptied, keyspace_url

INDEX = b"tipsets"
Open = Callable[[], Coroutine[Any, Any, Store]]


@pytest.fixture(params=["lmdb", "cassandra"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens the same store once more, as another process does."""
    url = f"lmdb://{tmp_path}/store"
    if request.param == "cassandra":
        url = keyspace_url("follower_fence")
        await (await emptied(url, delta_ms=200, epsilon_ms=50, every=True)).close()
    async with AsyncExitStack() as stack:

        async def one_more() -> Store:
            store = await open_store(url, map_size=1 << 24, shared=SharedStoreOptions())
            stack.push_async_callback(store.close)
            return store

        yield one_more


async def cover(store: Store, epochs: tuple[int, int], before: Ranges) -> None:
    """What a writer does with the ranges that it read `before`."""
    batch = Batch()
    save_coverage(batch, INDEX, merge_ranges([*before, epochs]))
    with suppress(Fenced):
        await store.write(batch)


async def test_a_former_leader_takes_no_coverage_back(opened: Open) -> None:
    old, new = await opened(), await opened()
    await old.new_term("old")
    await cover(old, (0, 10), [])
    # the old leader is held up between its read and its write; meanwhile another leads
    before = await covered(old, INDEX)
    await new.new_term("new")
    await cover(new, (20, 30), await covered(new, INDEX))
    await cover(new, (31, 40), await covered(new, INDEX))
    await cover(old, (11, 12), before)
    assert await covered(new, INDEX) == [(0, 10), (20, 40)]
    assert await covered(await opened(), INDEX) == [(0, 10), (20, 40)]


@pytest.mark.parametrize("table", [TIPSETS, META])
async def test_flags_and_settings_are_fenced_too(opened: Open, table: Table) -> None:
    old, new = await opened(), await opened()
    await old.new_term("old")
    await old.write(Batch([(table, b"", b"k", b"held: 1")]))
    await new.new_term("new")
    await new.write(Batch([(table, b"", b"k", b"held: 1 2")]))
    for late in (Batch([(table, b"", b"k", b"held: 1 3")]), Batch([], [(table, b"", b"k")])):
        with suppress(Fenced):
            await old.write(late)
        assert await new.row(table, b"", b"k") == b"held: 1 2"
    # the newer leader changes and removes it as it likes
    await new.write(Batch([(table, b"", b"k", b"held: 4")]))
    assert await new.row(table, b"", b"k") == b"held: 4"
    await new.write(Batch([], [(table, b"", b"k")]))
    assert await new.row(table, b"", b"k") is None
    await new.write(Batch([(table, b"", b"k", b"held: 5")]))
    assert await new.row(table, b"", b"k") == b"held: 5"


async def test_leaders_whose_clocks_disagree_are_fenced_alike(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = await opened(), await opened()
    if not hasattr(old, "_log"):
        return  # LMDB needs no clock for it
    monkeypatch.setattr(old._log, "_now", lambda: 4_000_000_000_000)
    await old.new_term("from the future")
    await old.write(Batch([(COVERAGE, b"", b"k", b"old")]))
    await new.new_term("new")
    await new.write(Batch([(COVERAGE, b"", b"k", b"new")]))
    await old.write(Batch([(COVERAGE, b"", b"k", b"old again")]))
    assert await new.row(COVERAGE, b"", b"k") == b"new"


async def test_racing_leaders_lose_nothing_that_the_newest_wrote(opened: Open) -> None:
    """Leaders that never notice that they are fenced, writing the same row all at once."""
    stores = [await opened() for _ in range(4)]
    for number, store in enumerate(stores):
        await store.new_term(str(number))
    newest = stores[-1]

    async def write(number: int, store: Store) -> None:
        for step in range(20):
            await cover(store, (100 * number + 2 * step, 100 * number + 2 * step), await covered(store, INDEX))

    await asyncio.gather(*(write(number, store) for number, store in enumerate(stores)))
    found = await covered(newest, INDEX)
    assert [epochs for epochs in found if epochs[0] >= 300] == [(300 + 2 * step, 300 + 2 * step) for step in range(20)]
