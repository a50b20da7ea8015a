"""What a backfill stores in the older generation, after the pass has copied what was there, outlives it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from blockstore.generations import ObjectsInto
from blockstore.lmdb.store import LmdbStore
from blockstore.store import Batch, HeadEntry, TipsetRef
from chain.index.chain_index import HELD_MESSAGES
from chain.tipset import Tipset
from devnode.sim_chain import SimSettings, SimulatedChain
from leader_bridge.retention.keeper import Keeper
from leader_bridge.retention.policy import Policy
from leader_bridge.store.indexer import index_tipset
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.tipset_writer import MirrorScope, TipsetWriter
from tests.retention.leader import GivenObjects

_POLICY = 20


async def test_messages_that_a_backfill_brings_late_are_copied_before_the_drop(tmp_path: Path) -> None:
    node = GivenObjects()
    chain = SimulatedChain(
        SimSettings(reorg_rate=0, late_rate=0, null_rate=0),
        lambda cid, data: node.objects.update({cid.multihash: data}),
    )
    tipsets: list[Tipset] = [chain.advance().applies[-1] for _ in range(70)]
    store = await LmdbStore.open(tmp_path / "store")
    writer = TipsetWriter(store, Mirror(store, node), late_block_retry_delays=())
    head: list[HeadEntry] = []
    lock = asyncio.Lock()
    keeper = Keeper(
        store, writer, Policy(_POLICY, 60, None), head=lambda: head[-1], head_change_lock=lock, grace_seconds=0
    )

    async def follow(some: list[Tipset]) -> None:
        for tipset in some:
            await writer.write([tipset], MirrorScope())
            head.append(HeadEntry(len(head) + 1, 1, (), (), TipsetRef(tipset.height, tipset.key)))
            await keeper.once()

    # the store begins at the tenth tipset, and a pass copies what it holds
    await follow(tipsets[10:31])
    assert (await store.layout()).held == (2, 1)
    # what a backfill began before is written to the generation that it knew
    mirror, older, parent = Mirror(store, node), tipsets[5:10], None
    await writer.put_headers(older)
    for tipset in older:
        roots = [block.messages for block in tipset.blocks]
        assert not (await mirror.close(roots, ObjectsInto(store, 1))).failed
        batch = Batch()
        parent = index_tipset(batch, tipset, parent, await writer.block_messages(tipset), HELD_MESSAGES)
        await store.write(batch)
    await follow(tipsets[31:])
    layout = await store.layout()
    assert 1 not in layout.held
    row = await writer.row(older[0].key)
    assert row is not None and row.held & HELD_MESSAGES
    for tipset in older:
        for block in tipset.blocks:
            assert await store.get(block.messages.multihash) is not None
    await store.close()
