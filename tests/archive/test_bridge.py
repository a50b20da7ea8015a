"""A bridge goes on above an archive: what the archive has comes from there, and the store is whole above its head."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from blockstore.archive.tier import ArchiveOptions, Archives
from blockstore.car.reader import iter_car
from blockstore.cid import Cid
from blockstore.lmdb.store import LmdbStore
from blockstore.store import Held
from chain.block import decode_header
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.tipset import TipsetKey
from devnode.replay import start_replay
from leader_bridge.bridge import Bridge
from leader_bridge.imports.in_place import index_archives
from leader_bridge.settings import BridgeSettings
from leader_bridge.store.mirror import is_walked, walked_links
from rpc.client.node_info import parse_node_info
from tests.archive.files import write_forest
from tests.support.recorded import recorded
from tests.support.recorded_answers import assert_recorded_answers
from tests.support.served import served
from tests.support.whole_path import reach


def lower_part(car: Path, height: int) -> tuple[list[Cid], list[tuple[Cid, bytes]]]:
    """The chain up to the highest tipset at or below `height`: its blocks, and all that is below them."""
    objects = dict(iter_car(car))
    blocks = {cid: decode_header(cid, raw) for cid, raw in objects.items() if raw[0] == 0x90 and raw[1] >> 5 == 2}
    canonical: dict[int, list[Cid]] = {}
    at = [max(blocks, key=lambda cid: blocks[cid].height)]
    while at:
        canonical[blocks[at[0]].height] = at
        at = list(blocks[at[0]].parents) if blocks[at[0]].height else []
    head = canonical[max(epoch for epoch in canonical if epoch <= height)]
    seen: dict[Cid, None] = dict.fromkeys(head)
    waiting = list(head)
    while waiting:
        cid = waiting.pop()
        raw = objects[cid]
        links = list(walked_links(cid, raw, True))
        for link in links:
            if link not in seen and is_walked(link) and link in objects:
                seen[link] = None
                waiting.append(link)
    return head, [(cid, objects[cid]) for cid in seen]


@pytest.mark.long
@pytest.mark.recorded
async def test_a_bridge_goes_on_above_an_archive(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    head, objects = lower_part(recorded("devnet/chain.car.zst"), 700)
    file = write_forest(tmp_path / "file", head, objects)
    archives = await Archives.open([str(file)], ArchiveOptions())
    store = await LmdbStore.open(tmp_path / "store")
    network = recorded("devnet/network.json")
    report = await index_archives(store, archives, network_file=network, actor_code=True)
    assert 690 < report.height <= 700
    node = await start_replay(recorded("devnet"), at_end=True)
    bridge = Bridge(
        store,
        parse_node_info(node.base),
        BridgeSettings(network_file=network, backfill_epochs=100_000, actor_code=True),
        archives=archives,
    )
    running = asyncio.create_task(bridge.run())
    try:
        await reach(store, node, running)
        async with asyncio.timeout(60):
            while bridge.head is None or bridge.head.head.key != node.heads.head.key:
                await asyncio.sleep(0.002)
            await bridge.backfill.idle.wait()
    finally:
        bridge.stop()
        await running
        await node.stop()
    # the states above the archive are the store's own
    entry = await store.head()
    assert entry is not None
    tipset = await ChainIndex(store, Objects(store)).tipset(TipsetKey(entry.head.key))
    assert await store.held_many([tipset.parent_state_root.multihash]) == [Held.CLOSED]
    held = await store.held_many([cid.multihash for cid, _ in objects])
    assert 0 < held.count(Held.CLOSED) < len(objects) / 2
    async with served(store, archives=archives) as server:
        await assert_recorded_answers(f"http://127.0.0.1:{server.port}", "devnet", record_property)
    await archives.close()
    await store.close()
