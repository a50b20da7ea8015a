"""The past: epochs below the first head, receipts and events that a snapshot lacks."""

from __future__ import annotations

import asyncio
import logging

import pytest

from blockstore.memory import MemoryStore
from blockstore.store import META, TIPSETS, Batch, HeadEntry, TipsetRef
from chain.index.chain_index import (
    HELD_ALL,
    HELD_EVENTS,
    HELD_MESSAGES,
    HELD_RECEIPTS,
    HELD_STATE,
    ChainIndex,
    index_rows,
)
from chain.index.coverage import MESSAGES_INDEX, covered
from chain.index.wanted_epochs import load_wanted_epoch, want_epoch
from chain.ipld.objects import Objects
from chain.network import load_network
from chain.tipset import TipsetKey
from leader_bridge.backfill import Backfill
from leader_bridge.nodes.sources import Sources
from leader_bridge.store.backfill_floor import save_floor
from leader_bridge.store.coverage import TIPSETS_INDEX
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.tipset_writer import TipsetWriter
from rpc.client.client import NodeClient
from rpc.client.node_info import NodeInfo
from tests.support.bridge.node import until
from tests.support.bridge.running import Walker, following, quick
from tests.support.bridge.world import World, at_head, held


async def test_backfill_of_an_empty_store_goes_down_to_its_floor(world: World) -> None:
    node = await world.node(at=8)  # a null round is between it and the tipset below
    floor = world.tips[3].height
    async with following(world.store, [node.url], quick(backfill_epochs=world.tips[8].height - floor)) as bridge:
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


async def test_null_rounds_that_followers_were_asked_of_are_filled_in(world: World) -> None:
    node = await world.node(at=8)
    settings = quick(read_through_fill_epochs=1000, read_through_look_seconds=0.01)
    async with following(world.store, [node.url], settings) as bridge:
        await until(lambda: bridge.head)
        await asyncio.wait_for(bridge.backfill.idle.wait(), 20)
        assert world.tips[8].height - world.tips[7].height > 1
        assert await held(world.store, world.tips[7]) == 0
        await want_epoch(world.store, world.tips[8].height - 1)
        async with asyncio.timeout(20):
            while await load_wanted_epoch(world.store) is not None:
                await asyncio.sleep(0.01)
    # whole but for its state
    assert await held(world.store, world.tips[7]) == HELD_ALL & ~HELD_STATE
    assert await held(world.store, world.tips[6]) == 0
    index = ChainIndex(world.store, Objects(world.store), await load_network(world.store))
    head = await index.tipset(world.tips[8].key)
    assert (await index.at_height(head, world.tips[8].height - 1)).key == world.tips[7].key


async def test_a_killed_backfill_goes_on(world: World) -> None:
    node = await world.node()
    node.faults.lacks = {world.tips[4].blocks[0].messages.multihash}
    async with following(world.store, [node.url], quick(backfill_epochs=1000)) as bridge:
        await until(lambda: bridge.head)
        await asyncio.wait_for(bridge.backfill.idle.wait(), 20)
    assert await held(world.store, world.tips[4]) == 0
    node.faults.lacks = set()
    async with following(world.store, [node.url], quick(backfill_epochs=0)) as bridge:
        await asyncio.wait_for(bridge.backfill.idle.wait(), 20)
    for tip in world.tips[:8]:
        assert await held(world.store, tip) == HELD_ALL


async def test_rows_that_a_killed_backfill_left_unlinked_are_linked(world: World) -> None:
    node = await world.node()
    async with following(world.store, [node.url], quick(backfill_epochs=1000)) as bridge:
        await asyncio.wait_for(bridge.backfill.idle.wait(), 20)
    whole = [await bridge.writer.row(tip.key) for tip in world.tips[:8]]
    batch = Batch()
    index_rows(batch, world.tips[4], None, HELD_ALL)
    await world.store.write(batch)
    async with following(world.store, [node.url]) as bridge:
        await asyncio.wait_for(bridge.backfill.idle.wait(), 20)
    assert [await bridge.writer.row(tip.key) for tip in world.tips[:8]] == whole


async def test_receipts_and_events_that_a_snapshot_lacks_are_fetched_newest_first(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The store after an import: a head, messages and state, but no receipts."""
    caplog.set_level(logging.INFO)
    node = await world.node()
    async with following(world.store, [node.url], quick(backfill_epochs=1000)) as bridge:
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
    writer = TipsetWriter(world.store, Mirror(world.store, sources))
    head = bridge.head
    backfill = Backfill(world.store, writer, state=True, head=lambda: head, head_change_lock=busy)

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
