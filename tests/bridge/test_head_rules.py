"""The head never goes back: not to an ancestor, and not below what is final unless an operator says so."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from chain.tipset import Tipset
from leader_bridge.follow.head_rules import ReorgPermit
from leader_bridge.settings import BridgeSettings
from tests.support.bridge.chain import SmallChain
from tests.support.bridge.node import TestNode, certificate_of, until
from tests.support.bridge.running import entries_of, following, quick, replay_log
from tests.support.bridge.world import World, at_head
from tests.support.virtual_time import run_virtual


def stopped(reason: str) -> float:
    return REGISTRY.get_sample_value("follower_bridge_stopped", {"reason": reason}) or 0.0


async def until_judged(node: TestNode) -> None:
    """Wait until the bridge has looked at the node's head twice more: it was refused, and looked at again."""
    before = node.asked.get("ChainNotify", 0) + node.asked.get("ChainHead", 0)
    await until(lambda: node.asked.get("ChainNotify", 0) + node.asked.get("ChainHead", 0) >= before + 2)


# --- ancestors --------------------------------------------------------------------------------------


async def test_when_its_node_dies_the_bridge_does_not_go_back_for_one_that_is_behind(world: World) -> None:
    ahead, behind = await world.node(at=11), await world.node(at=5)
    async with following(world.store, [ahead.url, behind.url], quick(idle_probe_seconds=0.02)) as bridge:
        await until(lambda: at_head(bridge, world.tips[11]))
        await ahead.stop()
        await until(lambda: bridge.following == bridge.sources.all[1].name)
        await until_judged(behind)
        await behind.go_to(world.tips[8].key)
        await until_judged(behind)
        assert at_head(bridge, world.tips[11])
        top = world.chain.extend(world.tips[11])
        behind.objects.update(world.chain.objects)
        await behind.go_to(top.key)
        await until(lambda: at_head(bridge, top))
    assert not any(entry.reverts for entry in await entries_of(world.store))


async def test_a_node_that_is_set_back_is_waited_for(world: World) -> None:
    node = await world.node(at=11)
    async with following(world.store, [node.url], quick(idle_probe_seconds=0.02)) as bridge:
        await until(lambda: at_head(bridge, world.tips[11]))
        await node.go_to(world.tips[6].key)
        await until_judged(node)
        assert at_head(bridge, world.tips[11])
        # it goes on from there on another chain: that is a reorg
        fork = world.chain.line(world.tips[6], 8)[-1]
        node.objects.update(world.chain.objects)
        await node.go_to(fork.key)
        await until(lambda: at_head(bridge, fork))
    assert all(entry.applies for entry in await entries_of(world.store))
    await replay_log(world.store)


async def test_an_ancestor_far_below_is_found_by_rows(world: World) -> None:
    """More than 900 epochs and tipsets lie between: no walk of a bounded number of parents tells."""
    low, high = world.tips[8], world.chain.line(world.tips[8], 1000)[-1]
    node = await world.node(at=8)
    async with following(world.store, [node.url], quick(idle_probe_seconds=0.02, state="lazy")) as bridge:
        await until(lambda: at_head(bridge, low))
        node.objects.update(world.chain.objects)
        await node.go_to(high.key)
        await until(lambda: at_head(bridge, high), 60)
        await node.go_to(low.key)
        await until_judged(node)
        assert at_head(bridge, high)


async def test_a_node_that_stands_still_is_left_for_one_that_is_ahead(world: World) -> None:
    still, moving = await world.node(at=7), await world.node(at=7)
    async with following(world.store, [still.url, moving.url], quick(idle_probe_seconds=0.02)) as bridge:
        await until(lambda: at_head(bridge, world.tips[7]))
        await moving.go_to(world.tips[10].key)
        await until(lambda: at_head(bridge, world.tips[10]))
        assert bridge.following == bridge.sources.all[1].name


# --- finality ---------------------------------------------------------------------------------------


def deep_fork(chain: SmallChain, base: Tipset) -> tuple[Tipset, Tipset]:
    """Two chains that part 950 epochs below their heads; the second is the heavier."""
    ours = chain.extend(chain.extend(base), nulls=950)
    theirs = chain.extend(base)
    for _ in range(3):
        theirs = chain.extend(theirs, nulls=320)
    return ours, theirs


async def test_a_reorg_of_950_epochs_is_refused_until_an_operator_permits_one(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    base = world.tips[7]
    ours, theirs = deep_fork(world.chain, base)
    node = await world.node(at=7)
    async with following(world.store, [node.url]) as bridge:
        await node.go_to(ours.key)
        await until(lambda: at_head(bridge, ours))
        await node.go_to(theirs.key)
        await until(lambda: stopped("reorg_below_finality") == 1)
        await until_judged(node)
        assert at_head(bridge, ours)
    assert caplog.text.count("--accept-reorg-below-finality") == 1, "said, and said once"
    assert f"leaves ours at epoch {base.height}" in caplog.text

    permit = ReorgPermit(is_given=True)
    async with following(world.store, [node.url], permit=permit) as bridge:
        await until(lambda: at_head(bridge, theirs) and not permit.is_given)
        await until(lambda: stopped("reorg_below_finality") == 0)
        # the permission was for one
        _, again = deep_fork(world.chain, base)
        again = world.chain.line(again, 5)[-1]
        node.objects.update(world.chain.objects)
        await node.go_to(again.key)
        await until_judged(node)
        assert at_head(bridge, theirs)
        # and a chain that goes on from ours is followed as before
        top = world.chain.extend(theirs)
        node.objects.update(world.chain.objects)
        await node.go_to(top.key)
        await until(lambda: at_head(bridge, top))
    await replay_log(world.store)


async def test_what_f3_has_finalized_is_not_reverted(world: World) -> None:
    tips = world.tips
    node = await world.node(at=7)
    node.certificate = certificate_of(tips[5])
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: at_head(bridge, tips[7]))
        # a certificate of a tipset that is not on our chain says nothing about it
        node.certificate = certificate_of(world.chain.line(tips[2], 20)[-1])
        await node.go_to(tips[8].key)
        await until(lambda: at_head(bridge, tips[8]))
        shallow = world.chain.line(tips[5], 10)[-1]
        deep = world.chain.line(tips[4], 20)[-1]
        node.objects.update(world.chain.objects)
        await node.go_to(shallow.key)
        await until(lambda: at_head(bridge, shallow))
        await node.go_to(deep.key)
        await until_judged(node)
        assert at_head(bridge, shallow)
    # another bridge reads what was recorded
    node.certificate = None
    async with following(world.store, [node.url]) as bridge:
        await until_judged(node)
        assert at_head(bridge, shallow)


async def test_a_node_on_the_refused_chain_is_left_for_one_on_ours(world: World) -> None:
    ours, theirs = deep_fork(world.chain, world.tips[7])
    forked, right = await world.node(at=7), await world.node(at=7)
    async with following(world.store, [forked.url, right.url]) as bridge:
        for node in world.nodes:
            await node.go_to(ours.key)
        await until(lambda: at_head(bridge, ours))
        await forked.go_to(theirs.key)
        top = world.chain.line(ours, 3)[-1]
        right.objects.update(world.chain.objects)
        await right.go_to(top.key)
        await until(lambda: at_head(bridge, top) and stopped("reorg_below_finality") == 0)


# --- coming back ------------------------------------------------------------------------------------


@pytest.mark.parametrize("away_seconds", [1.0, 45.0, 600.0])
def test_a_node_that_comes_back_is_followed_within_three_seconds(away_seconds: float) -> None:
    async def run() -> float:
        world = World()
        node = await world.node(at=7)
        defaults = BridgeSettings()
        settings = quick(
            first_backoff_seconds=defaults.first_backoff_seconds,
            longest_backoff_seconds=defaults.longest_backoff_seconds,
            probe_interval_seconds=defaults.probe_interval_seconds,
        )
        async with following(world.store, [node.url], settings) as bridge:
            while not at_head(bridge, world.tips[7]):
                await asyncio.sleep(0.01)
            await node.stop()
            await asyncio.sleep(away_seconds)
            await node.start()
            node.head = world.tips[8].key
            asked = sum(node.asked.values())
            back = asyncio.get_running_loop().time()
            while not at_head(bridge, world.tips[8]):
                await asyncio.sleep(0.01)
            assert sum(node.asked.values()) > asked
            took = asyncio.get_running_loop().time() - back
        await node.stop()
        return took

    assert run_virtual(run()) < 3
