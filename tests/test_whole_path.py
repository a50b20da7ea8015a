"""From a node, or a file, to a client: what comes out is what a real Lotus answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from blockstore.open import open_store
from blockstore.store import Store
from follower.compare import compare
from follower.replay import ReplayNode, start_replay
from leader_bridge.bridge import Bridge, BridgeSettings
from leader_bridge.importer import import_car
from rpc.node_info import parse_node_info
from tests.recorded import recorded
from tests.served import served

CHAINS = ("devnet", "upgrades")
CHAIN_METHODS = r"Filecoin\.Chain"
#: answered from more than the chain: judged with the state
LATER = r"Filecoin\.Chain(TipSetWeight|GetNode|ValidateIndex|GetFinalizedTipSet)"


async def judge(store: Store, folder: str) -> None:
    """Every recorded Chain answer of v0 and v1 is equal."""
    async with served(store) as server:
        report = await compare(
            f"http://127.0.0.1:{server.port}",
            [recorded(f"{folder}/rpc.jsonl.zst")],
            CHAIN_METHODS,
            exclude=LATER,
            paths=["/rpc/v0", "/rpc/v1"],
        )
    assert report.total > 900
    assert not report.differences, report.differences[:3]
    assert report.equal == report.total


@pytest.mark.parametrize("folder", CHAINS)
async def test_an_import_answers_as_lotus_did(folder: str, tmp_path: Path) -> None:
    store = await open_store(f"lmdb://{tmp_path}/store")
    await import_car(
        store, recorded(f"{folder}/chain.car.zst"), network_file=recorded(f"{folder}/network.json")
    )
    await judge(store, folder)
    await store.close()


async def reach(store: Store, node: ReplayNode, running: asyncio.Task[None]) -> None:
    """Wait until the store's head is the node's."""
    async with asyncio.timeout(60):
        while True:
            entry = await store.head()
            if entry is not None and entry.head.key == node.heads.head.key:
                return
            if running.done():
                running.result()
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("folder", CHAINS)
async def test_a_bridge_behind_a_replayed_node_answers_as_lotus_did(folder: str, tmp_path: Path) -> None:
    path = recorded(f"{folder}/chain.car.zst").parent
    node = await start_replay(path)
    store = await open_store(f"lmdb://{tmp_path}/store")
    settings = BridgeSettings(network_file=path / "network.json", backfill=100_000, actor_code=True)
    bridge = Bridge(store, parse_node_info(node.base), settings)
    running = asyncio.create_task(bridge.run())
    await reach(store, node, running)
    while not node.ended:
        node.advance(40)
        await reach(store, node, running)
    async with asyncio.timeout(30):
        await bridge.backfill.idle.wait()
    await judge(store, folder)
    bridge.stop()
    await running
    await node.stop()
    await store.close()
