"""Checks and copies of a store with two generations of objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockstore.cid import Cid
from blockstore.generations import put_layout
from blockstore.lmdb.store import LmdbStore
from blockstore.store import Batch, Held
from leader_bridge.store.mirror import walked_links
from leader_bridge.upkeep.check import check_store
from leader_bridge.upkeep.copy import copy_store
from leader_bridge.upkeep.damage import CheckReport, Kind
from leader_bridge.upkeep.repair import Mender, StoreFetcher
from tests.upkeep.damages import tipset_at


async def checked(store: LmdbStore, mender: Mender | None = None) -> CheckReport:
    report = CheckReport()
    await check_store(store, report, mender=mender)
    return report


@pytest.fixture
async def switched(store: LmdbStore) -> LmdbStore:
    """The chain, all of it in the previous generation."""
    layout = (await store.layout()).with_begin(0).with_next()
    batch = Batch()
    put_layout(batch, layout)
    await store.write(batch)
    assert layout.next is not None
    await store.make_generation(layout.next)
    batch = Batch()
    put_layout(batch, layout.switched(1109, 0))
    await store.write(batch)
    assert (await store.layout()).held == (2, 1)
    return store


@pytest.mark.recorded
async def test_what_the_previous_generation_holds_is_held(switched: LmdbStore) -> None:
    tipset = await tipset_at(switched, 700)
    assert await switched.held_many([tipset.parent_state_root.multihash]) == [Held.LOOSE]
    assert (await checked(switched)).damages == []


@pytest.mark.recorded
async def test_a_generation_must_hold_all_below_what_is_closed_in_it(switched: LmdbStore, tmp_path: Path) -> None:
    """Else it would have a hole when the previous one is dropped."""
    root = (await tipset_at(switched, 700)).parent_state_root
    data = await switched.get(root.multihash)
    assert data is not None
    await switched.place(2).put_many([(root.multihash, data)], closed=True)
    report = await checked(switched)
    links = walked_links(root, data)
    assert sorted(one.key for one in report.damages) == sorted(map(str, links))
    assert {(one.kind, one.what.rpartition(", ")[2]) for one in report.damages} == {
        (Kind.MISSING, "and it is in another generation only")
    }
    # the store has it all: nobody is asked
    empty = await LmdbStore.open(tmp_path / "empty")
    repaired = await checked(switched, Mender(switched, StoreFetcher(empty)))
    await empty.close()
    assert repaired.open == 0
    assert (await checked(switched)).damages == []
    assert await switched.place(2).held_many([link.multihash for link in links]) == [Held.CLOSED] * len(links)


@pytest.mark.recorded
async def test_a_copy_of_two_generations_is_whole(switched: LmdbStore, tmp_path: Path) -> None:
    target = await LmdbStore.open(tmp_path / "copy", bulk=True)
    await copy_store(switched, target)
    assert (await checked(target)).damages == []
    root = (await tipset_at(target, 700)).parent_state_root
    # the previous generation may have been dropped while it was read: a walk looks below
    assert await target.held_many([Cid(root).multihash]) == [Held.LOOSE]
    await target.close()
