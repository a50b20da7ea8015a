"""From a recorded chain, played by a node, into a store by the bridge."""

from __future__ import annotations

import asyncio
from typing import Final

from blockstore.store import Store
from devnode.replay import ReplayNode
from leader_bridge.bridge import Bridge
from leader_bridge.settings import BridgeSettings
from rpc.client.node_info import parse_node_info
from tests.support.recorded import recorded

#: the chains of which the notifications were recorded
CHAINS: Final = ("devnet", "upgrades")


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


async def filled(
    store: Store, node: ReplayNode, folder: str, *, state: str = "full", trace_lookback: int | None = None
) -> None:
    """Run a bridge behind `node`, which is played to its end, until the store holds all down to the genesis.

    `trace_lookback`: traces too, so far back.
    """
    settings = BridgeSettings(
        network_file=recorded(f"{folder}/network.json"),
        backfill_epochs=100_000,
        actor_code=True,
        state=state,
        traces=trace_lookback is not None,
        trace_lookback_epochs=trace_lookback or 0,
    )
    bridge = Bridge(store, parse_node_info(node.base), settings)
    running = asyncio.create_task(bridge.run())
    try:
        await reach(store, node, running)
        while not node.ended:
            node.advance(40)
            await reach(store, node, running)
        async with asyncio.timeout(60):
            while bridge.head is None or bridge.head.head.key != node.heads.head.key:
                await asyncio.sleep(0.002)
            await bridge.backfill.idle.wait()
        if bridge.traces is not None:
            async with asyncio.timeout(60):
                await bridge.traces.idle.wait()
    finally:
        bridge.stop()
        await running
