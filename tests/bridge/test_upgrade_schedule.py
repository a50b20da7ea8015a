"""The store's upgrade schedule follows the chain: dates ahead are merged, new versions found, contradictions said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blockstore.cid import cid_of
from blockstore.store import Batch
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import NetworkRecord, ScheduleConflict, load_network, merge_upgrades, save_network
from follower.head import StoreHeads
from follower.worker import network_reader
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from rpc.services import Services
from tests.bridge.test_head_rules import stopped, until_judged
from tests.support.bridge.node import TestNode, until
from tests.support.bridge.running import entries_of, following, quick
from tests.support.bridge.world import World, at_head

RECORD = NetworkRecord("testing", cid_of(b"genesis"), "t", 314, 30, ((-1, 27), (100, 28)))


class Upgrading(TestNode):
    """Tells the upgrade heights in `planned` by its parameters."""

    planned: dict[str, int]

    def _StateGetNetworkParams(self) -> Any:
        told = {"UpgradeGoldenWeekHeight": -1, **self.planned}
        return {**super()._StateGetNetworkParams(), "ForkUpgradeParams": told}


async def upgrading(world: World, at: int, upgrades: dict[int, int], **planned: int) -> Upgrading:
    """A node at tip `at` with `upgrades` (last epoch of the version before -> version), from version 28 on."""

    def schedule(epoch: int) -> int:
        return max([28, *(version for height, version in upgrades.items() if epoch > height)])

    node = Upgrading(dict(world.chain.objects), world.chain.genesis.key, world.tips[at].key, schedule=schedule)
    node.planned = {"UpgradeFireHorseHeight": -1, **planned}
    world.nodes.append(node)
    await node.start()
    return node


async def imported_at_28(world: World) -> None:
    """Make the store one that an import left at tip 7, of a release that knew network version 28 at most."""
    node = await upgrading(world, 7, {})
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: at_head(bridge, world.tips[7]))
    batch = Batch()
    record = await load_network(world.store)
    assert record is not None
    save_network(batch, replace(record, upgrades=((-1, 28),)))
    await world.store.write(batch)


async def versions(world: World) -> list[int]:
    record = await load_network(world.store)
    assert record is not None
    return [record.version_at(tip.height) for tip in world.tips]


# --- merging ----------------------------------------------------------------------------------------


def test_dates_ahead_are_added_and_moved_and_dates_behind_stay() -> None:
    merged = merge_upgrades(RECORD, [(-1, 27), (100, 28), (200, 29)], 150, "a file")
    assert merged.upgrades == ((-1, 27), (100, 28), (200, 29))
    moved = merge_upgrades(merged, [(-1, 27), (100, 28), (300, 29), (400, 30)], 200, "a file")
    assert moved.upgrades == ((-1, 27), (100, 28), (300, 29), (400, 30))
    # what a source does not know stays
    assert merge_upgrades(moved, [(-1, 27), (100, 28)], 150, "a file") == moved
    # a date that is behind is not rewritten, though the source has another that comes to the same
    assert merge_upgrades(RECORD, [(-1, 27), (90, 28)], 150, "a file") == RECORD


@pytest.mark.parametrize("upgrades", [[(-1, 27)], [(-1, 27), (100, 28), (140, 29)], [(-1, 27), (149, 28)]])
def test_what_would_change_given_answers_is_a_conflict_or_left_alone(upgrades: list[tuple[int, int]]) -> None:
    if upgrades[-1] == (149, 28):
        assert merge_upgrades(RECORD, upgrades, 150, "a file") == RECORD
        return
    with pytest.raises(ScheduleConflict, match=r"a file says network version \d\d at epoch 150.*schedule 28"):
        merge_upgrades(RECORD, upgrades, 150, "a file")


# --- along the chain --------------------------------------------------------------------------------


async def test_a_store_imported_at_28_goes_across_29_that_the_node_plans_and_30_that_nobody_knows(
    world: World,
) -> None:
    await imported_at_28(world)
    tips = world.tips
    at_29, at_30 = tips[8].height, tips[10].height
    node = await upgrading(world, 7, {at_29: 29, at_30: 30}, UpgradeXxHeight=at_29)
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: at_head(bridge, tips[7]))
        await until(lambda: bridge.following)
        record = await load_network(world.store)
        assert record is not None and record.upgrades == ((-1, 28), (at_29, 29)), "known before it comes"
        for tip in tips[8:]:
            await node.go_to(tip.key)
            await until(lambda: at_head(bridge, tip))  # noqa: B023 - awaited here
    assert await versions(world) == [28] * 9 + [29] * 2 + [30]


async def test_upgrades_inside_a_gap_are_found(world: World) -> None:
    await imported_at_28(world)
    tips = world.tips
    node = await upgrading(world, 11, {tips[8].height: 29, tips[10].height: 30})
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: at_head(bridge, tips[11]))
    assert await versions(world) == [28] * 9 + [29] * 2 + [30]


async def test_a_date_that_was_moved_is_taken_from_the_node(world: World) -> None:
    await imported_at_28(world)
    tips = world.tips
    node = await upgrading(world, 7, {tips[10].height: 29}, UpgradeXxHeight=tips[8].height)
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: bridge.following)
        assert (await versions(world))[9] == 29
        # the node is started anew with another release
        node.planned["UpgradeXxHeight"] = tips[10].height
        for tip in tips[8:]:
            await node.go_to(tip.key)
            await until(lambda: at_head(bridge, tip))  # noqa: B023 - awaited here
    assert await versions(world) == [28] * 11 + [29]


async def test_the_network_file_adds_dates_to_a_store_that_is_there(world: World, tmp_path: Path) -> None:
    await imported_at_28(world)
    record = await load_network(world.store)
    assert record is not None
    tips = world.tips
    file = tmp_path / "network.json"
    file.write_text(json.dumps(replace(record, upgrades=((-1, 28), (tips[9].height, 29))).to_json()))
    node = await upgrading(world, 7, {tips[9].height: 29})
    async with following(world.store, [node.url], quick(network_file=file)) as bridge:
        await node.go_to(tips[11].key)
        await until(lambda: at_head(bridge, tips[11]))
    assert await versions(world) == [28] * 10 + [29] * 2


async def test_a_node_that_missed_the_upgrade_is_not_followed(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await imported_at_28(world)
    record = await load_network(world.store)
    assert record is not None
    tips = world.tips
    file = tmp_path / "network.json"
    file.write_text(json.dumps(replace(record, upgrades=((-1, 28), (tips[8].height, 29))).to_json()))
    old, new = await upgrading(world, 7, {}), await upgrading(world, 7, {tips[8].height: 29})
    async with following(world.store, [old.url], quick(network_file=file)) as bridge:
        await old.go_to(tips[9].key)
        await until(lambda: stopped("network_version") == 1)
        await until_judged(old)
        assert at_head(bridge, tips[7])
    assert f"says network version 28 at epoch {tips[9].height}, the store's upgrade schedule 29" in caplog.text
    assert len(await entries_of(world.store)) == 1
    await new.go_to(tips[9].key)
    async with following(world.store, [old.url, new.url], quick(network_file=file)) as bridge:
        await until(lambda: at_head(bridge, tips[9]) and stopped("network_version") == 0)


async def test_a_store_whose_past_is_wrong_publishes_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await imported_at_28(world)
    tips = world.tips
    node = await upgrading(world, 8, {tips[5].height: 29})
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: stopped("network_version") == 1)
        assert at_head(bridge, tips[7])
    assert f"says network version 29 at epoch {tips[7].height}" in caplog.text


async def test_a_follower_takes_up_the_new_schedule_with_the_head_that_needs_it(world: World) -> None:
    register_all()
    await imported_at_28(world)
    tips = world.tips
    objects = Objects(world.store)
    record = await load_network(world.store)
    assert record is not None
    index = ChainIndex(world.store, objects, record)
    heads = StoreHeads(world.store, index)
    services = Services(store=world.store, index=index, objects=objects, network=record, head_source=heads)
    heads.newest.before_new_head = network_reader(services)
    dispatcher = Dispatcher(services)

    async def asked() -> Any:
        body = b'{"jsonrpc":"2.0","id":1,"method":"Filecoin.StateNetworkVersion","params":[[]]}'
        return json.loads((await dispatcher.http(1, body))[1])["result"]

    assert await asked() == 28
    node = await upgrading(world, 7, {tips[8].height: 29, tips[10].height: 30})
    async with following(world.store, [node.url]) as bridge:
        for number, expected in [(8, 28), (9, 29), (10, 29), (11, 30)]:
            await node.go_to(tips[number].key)
            await until(lambda: at_head(bridge, tips[number]))  # noqa: B023 - awaited here
            assert await asked() == expected
