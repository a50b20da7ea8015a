"""Nodes that lie, lack, lag or fall silent."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import REGISTRY

from blockstore.store import Held
from chain.index.chain_index import (
    HELD_ALL,
    HELD_EVENTS,
    HELD_STATE,
)
from chain.ipld.dag_cbor import links
from chain.tipset import Tipset
from leader_bridge.bridge import _FIRST_STEP_EPOCHS
from tests.support.bridge.node import until
from tests.support.bridge.running import Walker, entries_of, following, quick, replay_log
from tests.support.bridge.world import World, at_head, held


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
        await until(lambda: bridge.sources.all[0].wrong_objects >= 2)
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
    async with following(world.store, [hanging.url, second.url], quick(node_timeout_seconds=0.1)) as bridge:
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
    async with following(world.store, [ahead.url, lagging.url], quick(lagging_node_grace_seconds=3600.0)) as bridge:
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
    async with following(world.store, [node.url], quick(idle_probe_seconds=0.05)) as bridge:
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
    async with following(world.store, [node.url], quick(max_gap_epochs=4)) as bridge:
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


async def test_a_new_leader_publishes_the_first_part_of_a_gap_before_it_fetches_the_rest(world: World) -> None:
    node = await world.node(at=0)
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: bridge.head)
    await node.go_to(world.tips[11].key)
    async with following(world.store, [node.url]) as bridge:
        await until(lambda: at_head(bridge, world.tips[11]))
    _, first, second = await entries_of(world.store)
    assert first.head.height - world.tips[0].height <= _FIRST_STEP_EPOCHS
    assert second.head.key == world.tips[11].key
    assert [ref.key for ref in await replay_log(world.store)] == [tip.key for tip in world.tips]
