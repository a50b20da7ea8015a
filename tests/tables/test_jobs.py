"""Tables made by workers, tipset by tipset and in any order, are the ones that one run makes."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.tipset import Tipset, TipsetKey
from leader_bridge.tables.catalogue import TASKS
from leader_bridge.tables.jobs import NoChild, TableJobs
from leader_bridge.tables.sinks.sink import SinkError
from leader_bridge.tables.source import TipsetView
from leader_bridge.tables.table import Row
from tests.support.tables.places import KINDS, new_place
from tests.tables.conftest import StoreOf

NAMES = ("messages", "gas_outputs", "actors", "chain_powers")
LOW, HIGH = 200, 260


async def _tipsets(store_of: StoreOf) -> tuple[Tipset, list[Tipset]]:
    """(head, the tipsets of the range)."""
    store = await store_of("devnet")
    entry = await store.head()
    assert entry is not None
    index = ChainIndex(store, Objects(store))
    head = await index.tipset(TipsetKey(entry.head.key))
    found, tipset = [], await index.at_height(head, HIGH)
    while tipset.height >= LOW:
        found.append(tipset)
        tipset = await index.parent(tipset)
    return head, found


async def test_workers_make_what_one_run_makes(store_of: StoreOf, tmp_path: Path) -> None:
    """Two workers, each with all jobs, in orders of their own: each row is there once."""
    store = await store_of("devnet")
    _, tipsets = await _tipsets(store_of)
    place, whole = new_place("postgresql", lambda: tmp_path), new_place("parquet", lambda: tmp_path)
    await whole.extract(store, *NAMES, low=LOW, high=HIGH)

    async def work(seed: int) -> None:
        jobs = await TableJobs.open(place.url, NAMES)
        try:
            wanted = [(run, tipset) for run in jobs.by_name().values() for tipset in tipsets]
            random.Random(seed).shuffle(wanted)
            for run, tipset in wanted:
                await run(store, tipset)
        finally:
            await jobs.close()

    await asyncio.gather(work(1), work(2))
    for name in NAMES:
        assert place.rows(TASKS[name].table) == whole.rows(TASKS[name].table) != []
    report = await place.extract(store, *NAMES, low=LOW, high=HIGH)
    assert report.kept == len(NAMES) * len(tipsets)
    jobs = await TableJobs.open(place.url, NAMES)
    await jobs.withdraw(tipsets[0].height)
    await jobs.close()
    for name in NAMES:
        heights = {row["height"] for row in place.rows(TASKS[name].table)}
        assert tipsets[0].height not in heights


async def test_the_head_waits_for_its_child(store_of: StoreOf, tmp_path: Path) -> None:
    head, _ = await _tipsets(store_of)
    store = await store_of("devnet")
    jobs = await TableJobs.open(f"parquet:{tmp_path}", ["gas_outputs", "messages"])
    runs = jobs.by_name()
    assert sorted(runs) == ["table_gas_outputs", "table_messages"]
    with pytest.raises(NoChild, match=f"a child of the tipset at epoch {head.height}"):
        await runs["table_gas_outputs"](store, head)
    await runs["table_messages"](store, head)
    await jobs.close()


async def _refused(view: TipsetView) -> AsyncIterator[list[Row]]:
    """A row that no place takes."""
    yield [(view.height, "cid", "f01", "f02", 0, 1 << 70, 0, 0, 0, 0, 0)]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_whose_rows_are_refused_spoils_no_other(kind: str, store_of: StoreOf, tmp_path: Path) -> None:
    store = await store_of("devnet")
    _, tipsets = await _tipsets(store_of)
    place = new_place(kind, lambda: tmp_path)
    jobs = await TableJobs.open(place.url, ["messages"])
    good = jobs.by_name()["table_messages"]
    bad = TableJobs(jobs._sink, [dataclasses.replace(TASKS["messages"], rows=_refused)]).by_name()["table_messages"]
    with pytest.raises(SinkError):
        await bad(store, tipsets[0])
    await good(store, tipsets[1])
    with pytest.raises(SinkError):
        await bad(store, tipsets[1])
    await jobs.close()
    assert {row["height"] for row in place.rows(TASKS["messages"].table)} == {tipsets[1].height}


async def test_jobs_go_on_when_the_database_comes_back(store_of: StoreOf, tmp_path: Path) -> None:
    store = await store_of("devnet")
    _, tipsets = await _tipsets(store_of)
    place = new_place("postgresql", lambda: tmp_path)
    jobs = await TableJobs.open(place.url, ["messages"])
    run = jobs.by_name()["table_messages"]
    with psycopg.connect(place.url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    with pytest.raises(SinkError):
        await run(store, tipsets[0])
    assert await run(store, tipsets[0])
    await jobs.close()


async def test_a_job_that_is_cancelled_while_the_database_works(store_of: StoreOf, tmp_path: Path) -> None:
    """The cancellation is not taken for a fault of the database, and the next job finds its connection in order."""
    store = await store_of("devnet")
    _, tipsets = await _tipsets(store_of)
    place = new_place("postgresql", lambda: tmp_path)
    jobs = await TableJobs.open(place.url, ["messages"])
    run = jobs.by_name()["table_messages"]
    with psycopg.connect(place.url) as other, psycopg.connect(place.url, autocommit=True) as watching:
        other.execute("LOCK TABLE messages")
        running = asyncio.create_task(run(store, tipsets[0]))
        while not watching.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():
            assert not running.done()
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert await run(store, tipsets[0])
    await jobs.close()
