"""Bridges that are fenced, stores that fail, the bound of the head log."""

from __future__ import annotations

import asyncio

import pytest

from blockstore.errors import Fenced, StoreUnavailable
from blockstore.memory import MemoryStore
from blockstore.store import HeadEntry
from leader_bridge.bridge import Bridge
from rpc.client.node_info import parse_node_info
from tests.support.bridge.node import until
from tests.support.bridge.running import entries_of, following, quick, replay_log
from tests.support.bridge.world import World, at_head


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
    async with following(world.store, [node.url], quick(keep_log_entries=3)) as bridge:
        await until(lambda: bridge.head)
        for tip in world.tips[1:]:
            await node.go_to(tip.key)
            await until(lambda: at_head(bridge, tip))  # noqa: B023 - awaited here
    entries = await entries_of(world.store)
    assert [entry.seq for entry in entries] == [10, 11, 12]
