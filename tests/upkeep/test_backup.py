"""Backups of LMDB stores: taken while a bridge writes, whole, and restored by the steps of docs/stores.md."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from blockstore.errors import StoreError
from blockstore.lmdb.backup import backup
from blockstore.lmdb.store import LmdbStore
from blockstore.store import TABLES
from devnode.replay import ReplayNode, start_replay
from leader_bridge.bridge import Bridge
from leader_bridge.settings import BridgeSettings
from leader_bridge.upkeep.check import check_store
from leader_bridge.upkeep.damage import CheckReport
from rpc.client.node_info import parse_node_info
from tests.support.processes import run_follower
from tests.support.recorded import recorded
from tests.support.whole_path import reach
from tests.upkeep.damages import everything


async def assert_whole(store: LmdbStore) -> None:
    report = CheckReport()
    await check_store(store, report)
    assert report.damages == []
    assert report.tipsets > 100


def bridge_of(store: LmdbStore, node: ReplayNode) -> Bridge:
    settings = BridgeSettings(network_file=recorded("devnet/network.json"), backfill_epochs=100_000, actor_code=True)
    return Bridge(store, parse_node_info(node.base), settings)


@pytest.mark.recorded
async def test_a_backup_while_a_bridge_writes(tmp_path: Path) -> None:
    node = await start_replay(recorded("devnet/chain.car.zst").parent)
    source = await LmdbStore.open(tmp_path / "source", bulk=True)
    bridge = bridge_of(source, node)
    running = asyncio.create_task(bridge.run())
    await reach(source, node, running)
    node.advance(300)
    await reach(source, node, running)
    begun = await source.head()
    assert begun is not None
    folders = [tmp_path / f"backup-{number}" for number in range(2)]
    try:
        for folder in folders:
            copying = asyncio.create_task(asyncio.to_thread(backup, source, folder))
            while not copying.done():
                node.advance(2)
                await reach(source, node, running)
            assert await copying == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    finally:
        bridge.stop()
        await running
    published = {ref.key for entry in await source.head_entries(0) for ref in entry.applies}
    await source.close()
    for folder in folders:
        restored = await LmdbStore.open(folder, bulk=True)
        head = await restored.head()
        assert head is not None
        assert head.head.key in published
        assert head.seq >= begun.seq
        await assert_whole(restored)
        await restored.close()

    # restored: the folder takes the store's place, and the bridge goes on to the node's head
    shutil.rmtree(tmp_path / "source")
    shutil.copytree(folders[0], tmp_path / "source")
    restored = await LmdbStore.open(tmp_path / "source", bulk=True)
    before = await restored.head()
    assert before is not None
    bridge = bridge_of(restored, node)
    running = asyncio.create_task(bridge.run())
    try:
        node.advance(20)
        await reach(restored, node, running)
    finally:
        bridge.stop()
        await running
        await node.stop()
    after = await restored.head()
    assert after is not None
    assert after.seq > before.seq
    await assert_whole(restored)
    await restored.close()


@pytest.mark.recorded
async def test_the_command_copies_everything(store: LmdbStore, tmp_path: Path) -> None:
    await store.flush()
    folder = tmp_path / "backups" / "monday"
    unfinished = folder.with_name("monday.unfinished")
    unfinished.mkdir(parents=True)
    (unfinished / "data.mdb").write_bytes(b"of a backup that was stopped")
    arguments = ["store", "backup", str(folder), "--store", store.url]
    done = await asyncio.to_thread(run_follower, *arguments)
    assert done.returncode == 0, done.stderr
    assert "a head at epoch 1108" in done.stdout
    assert not unfinished.exists()
    copied = await LmdbStore.open(folder, readonly=True)
    tables = list(TABLES.values())
    assert await everything(copied, tables) == await everything(store, tables)
    assert await copied.head() == await store.head()
    await copied.close()
    done = await asyncio.to_thread(run_follower, *arguments)
    assert done.returncode == 2
    assert "exists already" in done.stderr
    with pytest.raises(StoreError, match="exists already"):
        backup(store, folder)


def test_only_lmdb_stores_have_files(tmp_path: Path) -> None:
    done = run_follower("store", "backup", str(tmp_path / "b"), "--store", "cassandra://127.0.0.1:9/filecoin")
    assert done.returncode == 2
    assert "follower store copy" in done.stderr
    done = run_follower("store", "backup", str(tmp_path / "b"), "--store", f"lmdb://{tmp_path}/none")
    assert done.returncode == 2
    assert "has not been made yet" in done.stderr
    assert not (tmp_path / "none").exists()
