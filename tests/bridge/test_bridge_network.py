"""The network of a store and of its nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blockstore.errors import WrongNetwork
from blockstore.memory import MemoryStore
from chain.network import load_network
from leader_bridge.bridge import Bridge
from leader_bridge.follow.network import find_schedule, schedule_of
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from tests.support.bridge.chain import SmallChain
from tests.support.bridge.node import TestNode, until
from tests.support.bridge.running import entries_of, following, quick
from tests.support.bridge.world import World, at_head


async def test_a_fresh_store_adopts_the_nodes_network(world: World) -> None:
    node = await world.node(schedule=lambda epoch: 0)
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: bridge.head)
    record = await load_network(world.store)
    assert record is not None
    assert (record.name, record.address_prefix, record.eth_chain_id) == ("testing", "f", 314)
    assert record.genesis == world.chain.genesis.key.cids[0]
    assert record.version_at(51000) == 0 and record.version_at(51001) == 2


async def test_a_node_of_another_network_or_genesis_is_refused(world: World) -> None:
    node = await world.node()
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: bridge.head)
    before = await entries_of(world.store)
    node.network = "other"
    with pytest.raises(WrongNetwork, match=r"'other'.*'testing'"):
        await Bridge(world.store, parse_node_info(node.url), quick()).run()
    other = SmallChain(8)
    tip = other.line(other.genesis, 9)[-1]
    foreign = await TestNode(other.objects, other.genesis.key, tip.key).start()
    world.nodes.append(foreign)
    with pytest.raises(WrongNetwork, match="genesis"):
        await Bridge(world.store, parse_node_info(foreign.url), quick()).run()
    assert await entries_of(world.store) == before


async def test_a_wrong_node_in_the_list_is_struck_off_and_the_right_one_followed(world: World) -> None:
    wrong, right = await world.node(), await world.node()
    async with following(world.store, [right.url]) as bridge:
        await until(lambda: bridge.head)
    wrong.network = "other"
    async with following(world.store, [wrong.url, right.url]) as bridge:
        await right.go_to(world.tips[10].key)
        await until(lambda: at_head(bridge, world.tips[10]))
    assert "ChainNotify" not in wrong.asked


async def test_the_network_file_overrules_the_nodes_parameters(world: World, tmp_path: Path) -> None:
    node = await world.node(schedule=lambda epoch: 17 + (epoch > 5))
    file = tmp_path / "network.json"
    content = {
        "network_name": "testing",
        "address_prefix": "t",
        "eth_chain_id": 99,
        "block_delay_secs": 4,
        "upgrades": [{"height": -1, "network_version": 17}, {"height": 5, "network_version": 18}],
    }
    file.write_text(json.dumps(content))
    async with following(world.store, [node.url], quick(network_file=file)) as bridge:
        await until(lambda: bridge.head)
    record = await load_network(world.store)
    assert record is not None
    assert (record.version_at(5), record.version_at(6), record.eth_chain_id) == (17, 18, 99)
    file.write_text(json.dumps({**content, "network_name": "elsewhere"}))
    with pytest.raises(WrongNetwork, match="elsewhere"):
        await Bridge(MemoryStore(), parse_node_info(node.url), quick(network_file=file)).run()


async def test_the_true_schedule_is_found_where_the_parameters_do_not_tell_it(world: World) -> None:
    def schedule(epoch: int) -> int:
        return 17 + (epoch > 2) + (epoch > 9)

    node = await world.node(at=11, schedule=schedule)
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: bridge.head)
    record = await load_network(world.store)
    assert record is not None
    for tipset in [world.chain.genesis, *world.tips]:
        assert record.version_at(tipset.height) == schedule(tipset.height)
    async with NodeClient(parse_node_info(node.url)[0]) as client:
        assert len(await find_schedule(client)) == 3


def test_schedule_of_parameters() -> None:
    calibnet_like = {"UpgradeBreezeHeight": -1, "UpgradeSmokeHeight": -2, "UpgradeIgnitionHeight": -3}
    later = {
        "UpgradeRefuelHeight": -4,
        "UpgradeAssemblyHeight": 30,
        "UpgradeTapeHeight": 60,
        "UpgradeLiftoffHeight": -5,
    }
    assert schedule_of({**calibnet_like, **later, "UpgradeKumquatHeight": 90}) == ((-1, 5), (90, 6))
    assert schedule_of({"UpgradeBreezeHeight": 41280, "UpgradeSmokeHeight": 51000}) == ((-1, 0), (41280, 1), (51000, 2))
    assert schedule_of({}) == ((-1, 0),)
