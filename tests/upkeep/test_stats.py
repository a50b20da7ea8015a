"""`follower store stats`: the figures of a recorded chain, held against a full count."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from blockstore.cid import Cid
from blockstore.lmdb.store import LmdbStore
from blockstore.store import HEIGHTS, TIPSETS
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.tipset import TipsetKey
from leader_bridge.imports.progress import Silent
from leader_bridge.store.mirror import walked_links
from leader_bridge.upkeep.figures import store_figures
from leader_bridge.upkeep.pace import Pace
from tests.support.processes import run_follower


async def objects_under(store: LmdbStore, root: bytes) -> set[bytes]:
    """CIDs of a tree, the slow way."""
    seen, waiting = {root}, [Cid(root)]
    while waiting:
        cid = waiting.pop()
        data = await store.get(cid.multihash)
        assert data is not None
        new = [link for link in walked_links(cid, data) if link not in seen]
        seen.update(new)
        waiting += new
    return seen


@pytest.mark.recorded
async def test_figures_are_those_of_a_full_count(store: LmdbStore) -> None:
    """With every tipset in the sample nothing is estimated."""
    report = await store_figures(store, samples=2000, exact=True, pace=Pace(), progress=Silent())
    assert report["head"]["height"] == 1108
    # an import has the headers in the current generation and in the lasting place
    parts = {part["name"]: part["objects"] for part in report["parts"]}
    assert parts == {"generation 1": 20_233, "lasting": 1078}
    assert sum(one["objects"] for one in report["counted"].values()) == 20_233 + 1078
    assert sum(one["bytes"] for one in report["counted"].values()) == 24_373_708
    assert report["tables"][TIPSETS.name]["rows"] == report["tables"][HEIGHTS.name]["rows"] == 983
    hour, day = report["ages"]
    assert (hour["epochs"], day["epochs"]) == ([989, 1108], [0, 988])
    assert hour["tipsets"] + day["tipsets"] == hour["sampled"] + day["sampled"] == 983
    # the newest tipset's new state, counted by walking both states whole
    index = ChainIndex(store, Objects(store))
    entry = await store.head()
    assert entry is not None
    new = 0
    tipset = await index.tipset(TipsetKey(entry.head.key))
    while tipset.height > 1090:
        parent = await index.tipset(tipset.parents)
        after = await objects_under(store, tipset.parent_state_root)
        new += len(after - await objects_under(store, parent.parent_state_root))
        tipset = parent
    quick = await store_figures(store, samples=0, exact=False, pace=Pace(), progress=Silent())
    assert quick["ages"] == []
    assert {kind: told["held_percent"] for kind, told in hour["kinds"].items()} == dict.fromkeys(hour["kinds"], 100)
    rate = hour["kinds"]["new state"]["objects"] / hour["tipsets"]
    assert rate == pytest.approx(new / (1108 - 1090), rel=0.3)


@pytest.mark.recorded
async def test_few_samples_come_near(store: LmdbStore) -> None:
    whole = await store_figures(store, samples=2000, exact=False, pace=Pace(), progress=Silent())
    some = await store_figures(store, samples=60, exact=False, pace=Pace(), progress=Silent())
    for age, about in zip(whole["ages"], some["ages"], strict=True):
        assert about["tipsets"] == age["tipsets"]
        assert about["sampled"] <= 60
        for kind in ("headers", "messages", "new state"):
            assert about["kinds"][kind]["objects"] == pytest.approx(age["kinds"][kind]["objects"], rel=0.35)


@pytest.mark.recorded
async def test_the_command_prints_them(store: LmdbStore) -> None:
    await store.flush()
    arguments = ["store", "stats", "--store", store.url, "--samples", "5", "--percent", "100"]
    done = await asyncio.to_thread(run_follower, *arguments)
    assert done.returncode == 0, done.stderr
    for text in (
        "head     epoch 1108",
        "generation 1 20,233 objects",
        "the last hour: epochs 989 to 1108",
        "new state",
    ):
        assert text in done.stdout
    done = await asyncio.to_thread(run_follower, *arguments, "--json")
    assert sum(part["objects"] for part in orjson.loads(done.stdout)["parts"]) == 20_233 + 1078
