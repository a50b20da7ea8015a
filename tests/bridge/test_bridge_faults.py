"""Nodes that are of another network, lie, lack, lag or fall silent; stores that are taken over; the past."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from blockstore.errors import Fenced, StoreUnavailable, WrongNetwork
from blockstore.memory import MemoryStore
from blockstore.store import META, TIPSETS, Batch, HeadEntry, Held, TipsetRef
from chain.index.chain_index import (
    HELD_ALL,
    HELD_EVENTS,
    HELD_MESSAGES,
    HELD_RECEIPTS,
    HELD_STATE,
    ChainIndex,
    index_rows,
)
from chain.index.coverage import covered
from chain.ipld.dag_cbor import links
from chain.ipld.objects import Objects
from chain.network import load_network
from chain.tipset import Tipset, TipsetKey
from leader_bridge.backfill import Backfill, save_floor
from leader_bridge.bridge import Bridge
from leader_bridge.follow.network import find_schedule, schedule_of
from leader_bridge.nodes.sources import Sources
from leader_bridge.store.coverage import MESSAGES_INDEX, TIPSETS_INDEX
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.tipset_writer import Keeper
from rpc.client.client import NodeClient
from rpc.client.node_info import NodeInfo, parse_node_info
from tests.support.bridge_chain import SmallChain
from tests.support.bridge_help import Walker, entries_of, following, quick, replay_log
from tests.support.bridge_node import TestNode, until


class World:
    """A small chain of 12 tipsets, and nodes that stand at its 8th."""

    def __init__(self) -> None:
        self.chain = SmallChain(7)
        self.tips = self.chain.line(self.chain.genesis, 12)
        self.nodes: list[TestNode] = []
        self.store = MemoryStore()

    async def node(self, at: int = 7, **options: Any) -> TestNode:
        node = TestNode(dict(self.chain.objects), self.chain.genesis.key, self.tips[at].key, **options)
        self.nodes.append(await node.start())
        return node


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for node in made.nodes:
        await node.stop()


def at_head(bridge: Bridge, tipset: Tipset) -> bool:
    return bridge.head is not None and bridge.head.head.key == tipset.key


async def held(store: MemoryStore, tipset: Tipset) -> int:
    return await ChainIndex(store, Objects(store)).held(tipset.key)


# --- the network ------------------------------------------------------------------------------------


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


async def test_the_network_file_overrules_what_the_node_says(world: World, tmp_path: Path) -> None:
    node = await world.node()
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


# --- nodes that do wrong ----------------------------------------------------------------------------


async def test_a_lying_node_does_not_get_its_bytes_into_the_store(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    liar, honest = await world.node(), await world.node()
    tip = world.tips[9]
    liar.faults.lies = {tip.parent_state_root.multihash, tip.blocks[0].messages.multihash}
    async with following(world.store, [liar.url, honest.url]) as bridge:
        await until(lambda: bridge.head)
        for node in world.nodes:
            await node.go_to(world.tips[9].key)
        await until(lambda: at_head(bridge, world.tips[9]))
    assert f"{bridge.sources.all[0].name} answered bytes that are not" in caplog.text
    for multihash, data in world.store._objects.items():
        assert world.chain.objects[multihash] == data
    await Walker().published(world.store)


async def test_a_node_that_lies_alone_is_waited_out(world: World) -> None:
    node = await world.node()
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: bridge.head)
        node.faults.lies = {world.tips[8].blocks[0].messages.multihash}
        await node.go_to(world.tips[8].key)
        await until(lambda: bridge.sources.all[0].lies >= 2)
        assert not at_head(bridge, world.tips[8])
        node.faults.lies = set()
        await until(lambda: at_head(bridge, world.tips[8]))
    await Walker().published(world.store)


async def test_events_that_no_node_stores_are_not_taken_for_empty(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    node = await world.node()
    events = _event_roots(world, world.tips)
    node.faults.lacks = set(events)
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: bridge.head)
        for tip in world.tips[8:]:
            await node.go_to(tip.key)
        await until(lambda: at_head(bridge, world.tips[-1]))
        assert await held(world.store, world.tips[-1]) == HELD_ALL & ~HELD_EVENTS
        assert caplog.text.count("no node holds the events") == 1
        states = await world.store.held_many([world.tips[-1].parent_message_receipts.multihash])
        assert states == [Held.LOOSE], "closed would say that the events below are there"
        node.faults.lacks = set()
        await bridge.backfill.one_pass()
        assert await held(world.store, world.tips[-1]) == HELD_ALL
    await Walker().published(world.store)


def _event_roots(world: World, tips: list[Tipset]) -> list[bytes]:

    found: list[bytes] = []
    for tip in tips:
        receipts = world.chain.objects[tip.parent_message_receipts.multihash]
        found.extend(link.multihash for link in links(receipts))
    assert found
    return found


async def test_state_that_no_node_stores_is_not_held(world: World) -> None:
    node = await world.node()
    node.faults.lacks = {world.tips[7].parent_state_root.multihash}
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: bridge.head)
        assert await held(world.store, world.tips[7]) == HELD_ALL & ~HELD_STATE
        await node.go_to(world.tips[8].key)
        await until(lambda: at_head(bridge, world.tips[8]))
        assert await held(world.store, world.tips[8]) == HELD_ALL


async def test_what_comes_late_is_waited_for(world: World) -> None:
    node = await world.node()
    late = {world.tips[8].parent_state_root.multihash, world.tips[8].blocks[0].messages.multihash}
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: bridge.head)
        node.faults.lacks = late
        await node.go_to(world.tips[8].key)
        await until(lambda: node.read.count(world.tips[8].blocks[0].messages.multihash) >= 5)
        assert not at_head(bridge, world.tips[8])
        node.faults.lacks = set()
        await until(lambda: at_head(bridge, world.tips[8]))
    assert await held(world.store, world.tips[8]) == HELD_ALL


async def test_a_node_that_answers_late_is_followed_all_the_same(world: World) -> None:
    node = await world.node()
    node.faults.delay_seconds = 0.05
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: bridge.head)
        await node.go_to(world.tips[9].key)
        await until(lambda: at_head(bridge, world.tips[9]))
    await Walker().published(world.store)


async def test_a_node_that_hangs_is_left_for_the_next(world: World) -> None:
    hanging, second = await world.node(), await world.node()
    hanging.faults.delay_seconds = 3600
    async with following(world.store, [hanging.url, second.url], quick(node_timeout=0.1)) as bridge:
        await second.go_to(world.tips[9].key)
        await until(lambda: at_head(bridge, world.tips[9]))
        assert bridge.following == bridge.sources.all[1].name


async def test_the_second_node_takes_over_and_gaps_are_filled(world: World) -> None:
    first, second = await world.node(), await world.node()
    async with following(world.store, [first.url, second.url]) as bridge:
        await until(lambda: bridge.head)
        await first.stop()
        await second.go_to(world.tips[10].key)
        await until(lambda: at_head(bridge, world.tips[10]))
        await second.stop()
        await first.start()
        await first.go_to(world.tips[11].key)
        await until(lambda: at_head(bridge, world.tips[11]))
    assert [ref.key for ref in await replay_log(world.store)] == [tip.key for tip in world.tips[7:]]


async def test_the_head_does_not_go_back_for_a_node_that_lags(world: World) -> None:
    ahead, lagging = await world.node(at=10), await world.node(at=7)
    async with following(world.store, [ahead.url, lagging.url], quick(hold=3600.0)) as bridge:
        await until(lambda: bridge.head)
        await ahead.stop()
        await until(lambda: lagging.subscribers)
        for tip in world.tips[8:]:
            await lagging.go_to(tip.key)
        await until(lambda: at_head(bridge, world.tips[11]))
    entries = await entries_of(world.store)
    assert [entry.head.height for entry in entries] == [world.tips[10].height, world.tips[11].height]
    assert not any(entry.reverts for entry in entries)


async def test_a_subscription_that_fell_silent_is_noticed(world: World) -> None:
    node = await world.node()
    async with following(world.store, [node.url], quick(quiet=0.05)) as bridge:
        await until(lambda: bridge.head)
        node.faults.is_mute = True
        await node.go_to(world.tips[9].key)
        await until(lambda: at_head(bridge, world.tips[9]))


async def test_a_token_is_sent_and_never_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "eyJ0b2tlbiI6MX0.c2VjcmV0"
    node = await world.node(token=secret)
    refused = await world.node(token="another")
    urls = [f"{secret}:{refused.url}", f"{secret}:{node.url}"]
    async with following(world.store, urls) as bridge:
        await until(lambda: bridge.head)
        await node.cut()
        await node.go_to(world.tips[9].key)
        await until(lambda: at_head(bridge, world.tips[9]))
    assert secret not in caplog.text
    assert "the token is not taken" in caplog.text


async def test_metrics_tell_where_the_bridge_is(world: World) -> None:
    def sample(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"follower_bridge_{name}", labels) or 0.0

    node = await world.node()
    counted = ("objects_total", "tipsets_total", "heads_published_total", "reconnects_total")
    before = {name: sample(name) for name in counted}
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: bridge.head)
        await node.cut()
        await until(lambda: bridge.reconnects == 1)
        await node.go_to(world.tips[9].key)
        await until(lambda: at_head(bridge, world.tips[9]) and not bridge.lag)
    assert sample("head_height") == world.tips[9].height
    assert sample("lag_epochs") == 0
    assert sample("reconnects_total") == before["reconnects_total"] + 1
    assert sample("heads_published_total") == before["heads_published_total"] + 2
    assert sample("tipsets_total") == before["tipsets_total"] + 3
    assert sample("objects_total") > before["objects_total"]


async def test_a_long_gap_is_filled_in_bounded_steps_each_whole(world: World) -> None:
    node = await world.node(at=0)
    async with following(world.store, [node.url], quick(gap=4)) as bridge:
        await until(lambda: bridge.head)
        node.faults.is_mute = True
        await node.go_to(world.tips[11].key)
        node.faults.is_mute = False
        await node.cut()
        await until(lambda: at_head(bridge, world.tips[11]))
    entries = await entries_of(world.store)
    assert len(entries) > 2
    assert all(entry.applies[-1].height - entry.applies[0].height <= 4 for entry in entries)
    assert [ref.key for ref in await replay_log(world.store)] == [tip.key for tip in world.tips]


# --- leading ----------------------------------------------------------------------------------------


async def test_a_newer_leader_fences_the_older_bridge(world: World) -> None:
    node = await world.node()
    old = Bridge(world.store, parse_node_info(node.url), quick())
    task = asyncio.create_task(old.run())
    await until(lambda: old.head)
    async with following(world.store, [node.url]) as new:
        await until(lambda: new.following)
        await node.go_to(world.tips[8].key)
        with pytest.raises(Fenced):
            await task
        await until(lambda: at_head(new, world.tips[8]))
    terms = [entry.term for entry in await entries_of(world.store)]
    assert terms == [1, 2]
    await replay_log(world.store)


async def test_a_store_that_fails_for_a_while_stops_nothing(world: World) -> None:
    class Failing(MemoryStore):
        failing = 0

        async def append_head(self, entry: HeadEntry) -> None:
            if self.failing:
                self.failing -= 1
                if self.failing % 2:  # done, but the acknowledgement was lost
                    await super().append_head(entry)
                raise StoreUnavailable("broken by the test")
            await super().append_head(entry)

    store = Failing()
    node = await world.node()
    async with following(store, [node.url]) as bridge:
        await until(lambda: bridge.head)
        store.failing = 5
        for tip in world.tips[8:]:
            await node.go_to(tip.key)
        await until(lambda: at_head(bridge, world.tips[-1]))
    assert [ref.key for ref in await replay_log(store)] == [tip.key for tip in world.tips[7:]]


async def test_stop_ends_a_bridge_whose_node_is_not_there(world: World) -> None:
    async with following(world.store, ["http://127.0.0.1:1"]) as bridge:
        await until(lambda: bridge.sources.all[0].failures >= 2)
    assert await world.store.head() is None


async def test_the_head_log_is_bounded(world: World) -> None:
    node = await world.node(at=0)
    async with following(world.store, [node.url], quick(keep_log=3)) as bridge:
        await until(lambda: bridge.head)
        for tip in world.tips[1:]:
            await node.go_to(tip.key)
            await until(lambda: at_head(bridge, tip))  # noqa: B023 - awaited here
    entries = await entries_of(world.store)
    assert [entry.seq for entry in entries] == [10, 11, 12]


# --- the past ---------------------------------------------------------------------------------------


async def test_backfill_of_an_empty_store_goes_down_to_its_floor(world: World) -> None:
    node = await world.node(at=8)  # a null round is between it and the tipset below
    floor = world.tips[3].height
    async with following(world.store, [node.url], quick(backfill=world.tips[8].height - floor)) as bridge:
        await until(lambda: bridge.head)
        await asyncio.wait_for(bridge.backfill.idle.wait(), 20)
        await node.go_to(world.tips[11].key)
        await until(lambda: at_head(bridge, world.tips[11]))
    walker = Walker()
    index = ChainIndex(world.store, Objects(world.store), await load_network(world.store))
    for tip in world.tips[3:]:
        assert await index.held(tip.key) == HELD_ALL
        await walker.tree(world.store, tip.parent_state_root)
        await walker.tree(world.store, tip.parent_message_receipts)
    assert await index.held(world.tips[2].key) == 0
    for name in (TIPSETS_INDEX, MESSAGES_INDEX):
        assert await covered(world.store, name) == [(0, 0), (floor, world.tips[11].height)]
    for tip in world.tips[3:9]:
        row = await index.row(tip.key)
        assert row is not None and (row.parent_height >= 0) == (tip is not world.tips[3]), "linked upwards"
    head = await index.tipset(world.tips[11].key)
    for tip in world.tips[3:]:
        assert (await index.at_height(head, tip.height)).key == tip.key
    assert (await index.genesis()).key == world.chain.genesis.key


async def test_a_killed_backfill_goes_on(world: World) -> None:
    node = await world.node()
    node.faults.lacks = {world.tips[4].blocks[0].messages.multihash}
    async with following(world.store, [node.url], quick(backfill=1000)) as bridge:
        await until(lambda: bridge.head)
        await asyncio.wait_for(bridge.backfill.idle.wait(), 20)
    assert await held(world.store, world.tips[4]) == 0
    node.faults.lacks = set()
    async with following(world.store, [node.url], quick(backfill=0)) as bridge:
        await asyncio.wait_for(bridge.backfill.idle.wait(), 20)
    for tip in world.tips[:8]:
        assert await held(world.store, tip) == HELD_ALL


async def test_rows_that_a_killed_backfill_left_unlinked_are_linked(world: World) -> None:
    node = await world.node()
    async with following(world.store, [node.url], quick(backfill=1000)) as bridge:
        await asyncio.wait_for(bridge.backfill.idle.wait(), 20)
    whole = [await bridge.keeper.row(tip.key) for tip in world.tips[:8]]
    batch = Batch()
    index_rows(batch, world.tips[4], None, HELD_ALL)
    await world.store.write(batch)
    async with following(world.store, [node.url]) as bridge:
        await asyncio.wait_for(bridge.backfill.idle.wait(), 20)
    assert [await bridge.keeper.row(tip.key) for tip in world.tips[:8]] == whole


async def test_receipts_and_events_that_a_snapshot_lacks_are_fetched_newest_first(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The store after an import: a head, messages and state, but no receipts."""
    caplog.set_level(logging.INFO)
    node = await world.node()
    async with following(world.store, [node.url], quick(backfill=1000)) as bridge:
        await asyncio.wait_for(bridge.backfill.idle.wait(), 20)
    imported = MemoryStore()
    receipts = {tip.parent_message_receipts.multihash for tip in world.tips}

    record = await world.store.row(META, b"", b"network")
    assert record is not None
    batch = Batch()
    batch.put(META, b"", b"network", record)
    parent = index_rows(batch, world.chain.genesis, None, HELD_ALL)
    for tip in world.tips[:8]:
        parent = index_rows(batch, tip, parent, HELD_MESSAGES | HELD_STATE)
    await imported.write(batch)
    await imported.put_many(
        [(mh, data) for mh, data in world.store._objects.items() if mh not in receipts], closed=True
    )
    term = await imported.new_term("import")

    ref = TipsetRef(world.tips[7].height, world.tips[7].key)
    await imported.append_head(HeadEntry(1, term, (), (ref,), ref))

    node.read.clear()
    async with following(imported, [node.url]) as bridge:
        await asyncio.wait_for(bridge.backfill.idle.wait(), 20)
        await node.go_to(world.tips[9].key)
        await until(lambda: at_head(bridge, world.tips[9]))
    assert "backfill of receipts and events: 8 tipsets" in caplog.text
    asked = [mh for mh in node.read if mh in receipts]
    order = list(dict.fromkeys(tip.parent_message_receipts.multihash for tip in world.tips[7::-1]))
    assert [mh for mh in dict.fromkeys(asked) if mh in order] == order
    for tip in world.tips[:10]:
        assert await held(imported, tip) & (HELD_RECEIPTS | HELD_EVENTS) == HELD_RECEIPTS | HELD_EVENTS
    assert await imported.row(TIPSETS, TipsetKey(world.tips[9].key).cid, b"")


async def test_backfill_gives_way_to_head_changes(world: World) -> None:
    node = await world.node()
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: bridge.head)
    sources = Sources([NodeClient(NodeInfo(node.url.removeprefix("http://")))])
    busy = asyncio.Lock()
    keeper = Keeper(world.store, Mirror(world.store, sources))
    head = bridge.head
    backfill = Backfill(world.store, keeper, state=True, head=lambda: head, busy=busy)

    batch = Batch()
    save_floor(batch, 0)
    await world.store.write(batch)
    node.read.clear()
    await busy.acquire()
    task = asyncio.create_task(backfill.one_pass())
    await asyncio.sleep(0.02)
    assert not task.done() and not node.read
    busy.release()
    await task
    assert node.read
    await sources.close()
