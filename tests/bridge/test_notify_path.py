"""The recorded head changes, through a bridge whose connection is cut again and again, out of the follower's own
`ChainNotify`: a client that applies them ends at the node's head and chain, with nothing lost or doubled."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from blockstore.open import open_store
from chain.tipset import TipsetKey
from devnode.replay import start_replay
from leader_bridge.bridge import Bridge
from leader_bridge.nodes.subscription import parse_changes
from leader_bridge.settings import BridgeSettings
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from tests.support.bridge.running import until_at_node
from tests.support.recorded import recorded
from tests.support.served import served

CUTS = 20


class Client:
    """Applies head changes as a client would, and insists that each fits what it has."""

    def __init__(self) -> None:
        self.chain: list[TipsetKey] = []
        self.applied = 0
        self.reverted = 0

    def take(self, frame: Any) -> None:
        for change in parse_changes(frame):
            if change.kind == "current":
                assert not self.chain
                self.chain.append(change.key)
            elif change.kind == "apply":
                self.chain.append(change.key)
                self.applied += 1
            else:
                assert self.chain.pop() == change.key, "a revert of what is not the head"
                self.reverted += 1


async def test_a_client_of_the_follower_sees_every_change_once(tmp_path: Path) -> None:
    folder = recorded("devnet/chain_notify.jsonl.zst").parent
    node = await start_replay(folder)
    store = await open_store(f"lmdb://{tmp_path}/store")
    settings = BridgeSettings(
        network_file=folder / "network.json", first_backoff_seconds=0.01, longest_backoff_seconds=0.05, actor_code=True
    )
    bridge = Bridge(store, parse_node_info(node.base), settings)
    running = asyncio.create_task(bridge.run())

    client = Client()
    total = len(node.chain.changes)
    async with asyncio.timeout(200):
        await until_at_node(store, node, running)
        async with served(store) as server, NodeClient(parse_node_info(f"http://127.0.0.1:{server.port}")[0]) as wire:
            connection = await wire.connect()
            channel = await connection.open_channel("Filecoin.ChainNotify", [], 10.0, limit=4096)

            async def read() -> None:
                while not client.chain or client.chain[-1] != node.heads.head.key or not node.ended:
                    client.take(await channel.next(60.0))

            reading = asyncio.create_task(read())
            while not node.ended:
                for _ in range(5):
                    node.advance(1)
                    await asyncio.sleep(0)  # a cut falls among frames that are on their way
                if node.dropped < CUTS and node.played * (CUTS + 1) // total > node.dropped:
                    node.drop_connections()
                await until_at_node(store, node, running)
            await reading
            await connection.close()
    assert node.dropped == CUTS
    # the same chain, walked from the node's head by its headers
    expected = [node.heads.head.key]
    first = client.chain[0]
    while expected[-1] != first:
        expected.append((await node.index.tipset(expected[-1])).parents)
    assert client.chain == expected[::-1]
    # what the head log tells is what the client saw: no entry lost, none doubled
    entries = await store.head_entries(1, 10_000)
    assert client.applied == sum(len(entry.applies) for entry in entries)
    assert client.reverted == sum(len(entry.reverts) for entry in entries)
    assert client.applied - client.reverted == len(client.chain) - 1
    assert client.applied > 900
    bridge.stop()
    await running
    await node.stop()
    await store.close()
