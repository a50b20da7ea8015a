"""The way to the head of a node that does not know ours: it is asked where the chains part, not walked down."""

from __future__ import annotations

import pytest

from blockstore.store import TipsetRef
from chain.tipset import Tipset
from leader_bridge.follow.head_path import HeadPath, PathFinder
from leader_bridge.nodes.sources import Sources
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.tipset_writer import TipsetWriter
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from tests.support.bridge.node import TestNode, until
from tests.support.bridge.running import entries_of, following, quick, replay_log
from tests.support.bridge.world import World, at_head


def ref(tipset: Tipset) -> TipsetRef:
    return TipsetRef(tipset.height, tipset.key)


async def forked(world: World, *, ours: int, theirs: int) -> tuple[list[Tipset], list[Tipset], TestNode]:
    """Two lines on the 8th tipset. The store has followed the one; the node has only the other."""
    ours_line = world.chain.line(world.tips[7], ours)
    first = await world.node(at=7)
    async with following(world.store, [first.url], quick(state="lazy")) as bridge:
        await until(lambda: at_head(bridge, world.tips[7]))
        await first.go_to(ours_line[-1].key)
        await until(lambda: at_head(bridge, ours_line[-1]))
    theirs_line = world.chain.line(world.tips[7], theirs)
    second = await world.node(at=7)
    for tipset in ours_line:
        for cid in tipset.key.cids:
            del second.objects[cid.multihash]
    second.head = theirs_line[-1].key
    return ours_line, theirs_line, second


async def found(world: World, node: TestNode, head: Tipset, target: Tipset, lowest: int = -1) -> HeadPath:
    async with NodeClient(parse_node_info(node.url)[0]) as client:
        sources = Sources([client])
        paths = PathFinder(world.store, TipsetWriter(world.store, Mirror(world.store, sources)))
        return await paths.find(sources.all[0], ref(head), target, lowest)


@pytest.mark.parametrize(("ours", "theirs"), [(1, 40), (3, 200), (60, 200), (5, 1)])
async def test_the_node_tells_where_the_chains_part(
    world: World, monkeypatch: pytest.MonkeyPatch, ours: int, theirs: int
) -> None:
    ours_line, theirs_line, node = await forked(world, ours=ours, theirs=theirs)
    node.asked.clear()
    node.requests = 0
    path = await found(world, node, ours_line[-1], theirs_line[-1])
    asked = node.requests
    assert path.reverts == tuple(ref(tipset) for tipset in reversed(ours_line))
    assert path.applies == tuple(theirs_line)
    assert path.common == ref(world.tips[7])
    assert node.asked["ChainGetPath"] == 2
    assert node.asked["ChainGetTipSetByHeight"] <= 40

    node.faults.no_path = True
    monkeypatch.setattr(PathFinder, "_by_common_ancestor", nothing)
    node.requests = 0
    walked = await found(world, node, ours_line[-1], theirs_line[-1])
    assert walked == path
    print(f"{ours} reverts, {theirs} applies: {asked} requests; {node.requests} where headers are walked")
    assert asked < node.requests or theirs < 10


async def nothing(*_: object) -> None:
    """As a node that cannot tell."""


async def test_a_head_below_the_node_s_is_applied_to(world: World) -> None:
    node = await world.node(at=11)
    async with following(world.store, [node.url], quick(state="lazy")) as bridge:
        await until(lambda: at_head(bridge, world.tips[11]))
    line = world.chain.line(world.tips[11], 30)
    other = await world.node(at=11)
    node.faults.no_path = True
    path = await found(world, other, world.tips[11], line[-1])
    assert path == HeadPath((), tuple(line), ref(world.tips[11]))


async def test_chains_that_part_too_deep_are_walked_to_the_limit(world: World) -> None:
    ours_line, theirs_line, node = await forked(world, ours=50, theirs=60)
    lowest = ours_line[-1].height - 20
    path = await found(world, node, ours_line[-1], theirs_line[-1], lowest)
    # as before: the path ends below the limit, so that the rules refuse it
    assert path.common is not None
    assert path.common.height < lowest
    assert path.common != ref(world.tips[7])


async def test_a_node_that_lies_about_heights_is_not_believed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ours_line, theirs_line, node = await forked(world, ours=6, theirs=20)
    by_height = node._ChainGetTipSetByHeight
    known = {tipset.height: tipset for tipset in ours_line}

    def lies(height: int, anchor: object) -> object:
        # it claims that its chain has our newest tipsets
        return node._json(known[height]) if height in known else by_height(height, anchor)

    monkeypatch.setattr(node, "_ChainGetTipSetByHeight", lies)
    path = await found(world, node, ours_line[-1], theirs_line[-1])
    assert path.common == ref(world.tips[7])
    assert path.applies == tuple(theirs_line)


async def test_a_bridge_follows_to_a_node_that_never_saw_its_head(world: World) -> None:
    _, theirs_line, node = await forked(world, ours=4, theirs=120)
    node.asked.clear()
    async with following(world.store, [node.url], quick(state="lazy")) as bridge:
        await until(lambda: at_head(bridge, theirs_line[-1]))
    assert node.asked["ChainGetPath"] <= 6
    await replay_log(world.store)
    assert (await entries_of(world.store))[-1].head == ref(theirs_line[-1])
