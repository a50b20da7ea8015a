"""Tables made by workers, tipset by tipset and in any order, are the ones that one run makes."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.tipset import Tipset, TipsetKey
from leader_bridge.tables.catalogue import TASKS
from leader_bridge.tables.jobs import NoChild, TableJobs
from tests.support.tables.places import new_place
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
