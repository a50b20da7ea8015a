"""From a recorded chain, played by a node, into a store by the bridge; and what the store is judged by."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from blockstore.cid import parse
from blockstore.store import Store
from chain.eth.types import hash_of
from chain.tipset import TipsetKey
from devnode.replay import ReplayNode
from follower.commands.comparison import read_records
from leader_bridge.bridge import Bridge
from leader_bridge.settings import BridgeSettings
from rpc.client.node_info import parse_node_info
from tests.support.recorded import recorded

CHAINS: Final = ("devnet", "upgrades")
METHODS: Final = r"Filecoin\.(State|Chain|Msig|Paych|Wallet)"
#: what only the node itself knows, or makes up anew each time
EXCLUDED: Final = "StateGetNetworkParams"
ETH: Final = r"^(eth|net|web3)_|Filecoin\.(Eth|Net|Web3|ChainGetEvents|GetActorEventsRaw)"
#: what a node makes up anew or only it knows; what a virtual machine answers
_ETH_NODE: Final = r"eth_(gasPrice|maxPriorityFeePerGas|call|estimateGas|syncing) |[Cc]lientVersion |[tT]race"
#: how many calls were recorded at least
LEAST: Final = {"devnet": 31_000, "upgrades": 48_000}


def eth_excluded(folder: str) -> str:
    """What of the Ethereum calls needs a full node, as a pattern: also `pending`, and the head by its own hash."""
    heads = read_records(recorded(f"{folder}/rpc.jsonl.zst"), re.compile(r"Filecoin\.ChainHead$"))
    head = TipsetKey.of(parse(cid["/"]) for cid in next(heads).answer["result"]["Cids"])
    return rf'{_ETH_NODE}|"pending"|0x{hash_of(head.cid).hex()}'


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
            await bridge.backfill.idle.wait()
        if bridge.traces is not None:
            async with asyncio.timeout(60):
                await bridge.traces.idle.wait()
    finally:
        bridge.stop()
        await running
