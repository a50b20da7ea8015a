"""State and receipts after a tipset come from children that a node vouches for; disagreement raises an alarm."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from blockstore.car.writer import CarWriter
from blockstore.memory import MemoryStore
from blockstore.store import POST, Batch
from chain.block import BlockHeader
from chain.errors import BadObject
from chain.index.chain_index import post_row
from chain.tipset import Tipset
from leader_bridge.imports.importer import import_car
from leader_bridge.store.post_rows import add_post_rows
from tests.bridge.test_head_rules import stopped, until_judged
from tests.bridge.test_upgrade_schedule import imported_at_28, upgrading
from tests.support.bridge.chain import SmallChain
from tests.support.bridge.node import until
from tests.support.bridge.running import following
from tests.support.bridge.world import World, at_head


def conflicts() -> float:
    return REGISTRY.get_sample_value("follower_bridge_post_conflicts_total") or 0.0


def rival(chain: SmallChain, parent: Tipset) -> Tipset:
    """A child of `parent` that names another state and other receipts than `chain.extend` gives: no valid chain."""
    other = SmallChain(99)
    other._state[parent.key] = (1, 2, 3)
    child = other.extend(parent)
    chain.objects.update(other.objects)
    chain.tipsets[child.key] = child
    chain._state[child.key] = other._state[child.key]
    return child


async def post(store: MemoryStore, tipset: Tipset) -> bytes | None:
    return await store.row(POST, tipset.key.cid, b"")


async def test_the_published_chain_wins_and_the_disagreement_is_said(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    base, ours = world.tips[7], world.tips[8]
    theirs = rival(world.chain, base)
    heavier = world.chain.line(theirs, 4)[-1]
    node = await world.node(at=7)
    before = conflicts()
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: at_head(bridge, base))
        await node.go_to(ours.key)
        await until(lambda: at_head(bridge, ours))
        assert await post(world.store, base) == post_row(ours)
        assert conflicts() == before
        await node.go_to(heavier.key)
        await until(lambda: at_head(bridge, heavier))
        assert await post(world.store, base) == post_row(theirs)
        assert conflicts() == before + 1
    assert "two children disagree about the state after tipset" in caplog.text
    assert f"the one of epoch {theirs.height}" in caplog.text


async def test_a_child_that_the_rules_refuse_writes_nothing(world: World) -> None:
    """A node that missed an upgrade computes another state: its head is refused, and so is what it says of ours."""
    await imported_at_28(world)
    tips = world.tips
    new = await upgrading(world, 7, {tips[8].height: 29}, UpgradeXxHeight=tips[8].height)
    async with following(world.store, [new.url]) as bridge:
        await new.go_to(tips[8].key)
        await until(lambda: at_head(bridge, tips[8]))
    theirs = world.chain.line(rival(world.chain, tips[7]), 5)[-1]
    old = await upgrading(world, 7, {})
    async with following(world.store, [old.url]) as bridge:
        await old.go_to(theirs.key)
        await until(lambda: stopped("network_version") == 1)
        await until_judged(old)
        assert at_head(bridge, tips[8])
    assert await post(world.store, tips[7]) == post_row(tips[8])


async def test_a_second_file_with_a_lighter_chain_changes_no_row(world: World, tmp_path: Path) -> None:
    base = world.tips[7]
    node = await world.node(at=7)
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: at_head(bridge, base))
        await node.go_to(world.tips[11].key)
        await until(lambda: at_head(bridge, world.tips[11]))
    lighter = rival(world.chain, base)
    file = tmp_path / "lighter.car"
    with file.open("wb") as out:
        writer = CarWriter(out, lighter.key.cids)
        for raw in world.chain.objects.values():
            writer.write(_cid(raw), raw)
    before = conflicts()
    done = await import_car(world.store, file)
    assert not done.published
    assert await post(world.store, base) == post_row(world.tips[8])
    assert conflicts() == before + 1


def _cid(raw: bytes):  # type: ignore[no-untyped-def]
    from blockstore.cid import cid_of

    return cid_of(raw)


async def test_blocks_of_one_tipset_that_disagree_are_refused(world: World) -> None:
    chain = world.chain
    mine, theirs = chain.extend(world.tips[7]), rival(chain, world.tips[7])
    blocks: list[BlockHeader] = [*mine.blocks, *theirs.blocks]
    before = conflicts()
    batch = Batch()
    with pytest.raises(BadObject, match="disagree about the state"):
        await add_post_rows(world.store, batch, [Tipset.of(blocks)], are_published=True)
    assert not batch and conflicts() == before + 1
