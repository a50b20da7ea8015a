"""The recorded `eth_subscribe` streams come out of a follower's own, frame by frame, behind a bridge on the replayed
chain; so does what a filter tells that is polled meanwhile."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import aiohttp
import orjson
import pytest
import zstandard

from blockstore.memory import MemoryStore
from devnode.replay import start_replay
from leader_bridge.bridge import Bridge
from leader_bridge.settings import BridgeSettings
from rpc.client.node_info import parse_node_info
from rpc.server.dispatch import Dispatcher
from tests.support.bridge.running import until_at_node
from tests.support.event_chain import Client
from tests.support.recorded import recorded
from tests.support.served import served, services_over

STREAMS = {"newHeads": ("eth_newheads", 977), "logs": ("eth_logs", 2804)}


def recorded_stream(name: str) -> list[dict[str, Any]]:
    """The frames that the node pushed, without their trace ids."""
    found = []
    with recorded(f"devnet/{name}.jsonl.zst").open("rb") as file:
        for line in io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file)):
            frame = orjson.loads(line)["frame"]
            if "method" in frame:
                frame.pop("meta")
                found.append(frame)
    return found


def comparable(frame: dict[str, Any]) -> bytes:
    """A frame with its keys in order, without its subscription's id; without the bloom, which the node had not yet."""
    result = dict(frame["params"]["result"])
    result.pop("logsBloom", None)
    params = {**frame["params"], "subscription": "0x", "result": result}
    return orjson.dumps({**frame, "params": params})


@pytest.mark.recorded
async def test_the_recorded_streams_come_out_of_a_follower() -> None:
    folder = recorded("devnet/eth_logs.jsonl.zst").parent
    node = await start_replay(folder)
    store = MemoryStore()
    bridge = Bridge(
        store, parse_node_info(node.base), BridgeSettings(network_file=folder / "network.json", actor_code=True)
    )
    running = asyncio.create_task(bridge.run())

    pushed: dict[str, list[dict[str, Any]]] = {kind: [] for kind in STREAMS}
    polled: list[dict[str, Any]] = []
    async with asyncio.timeout(500):
        await until_at_node(store, node, running)
        # polled over HTTP on followers of their own, which know nothing of the sessions
        client = Client(*[Dispatcher(await services_over(store)) for _ in range(2)])
        # an epoch that is not reached: nothing that is there already
        wanted = await client.ask("eth_newFilter", {"fromBlock": hex(node.heads.head.height)})
        async with (
            served(store) as server,
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{server.port}/rpc/v1", max_msg_size=1 << 24) as ws,
        ):
            kinds: dict[str, str] = {}
            for kind in STREAMS:
                await ws.send_json({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": [kind]})
                kinds[(await ws.receive_json())["result"]] = kind

            async def read() -> None:
                while any(len(pushed[kind]) < count for kind, (_, count) in STREAMS.items()):
                    frame = await ws.receive_json()
                    pushed[kinds[frame["params"]["subscription"]]].append(frame)

            reading = asyncio.create_task(read())
            while not node.ended:
                node.advance(1)
                await until_at_node(store, node, running)
                if node.played % 7 == 0:
                    polled += await client.ask("eth_getFilterChanges", wanted)
            polled += await client.ask("eth_getFilterChanges", wanted)
            await reading
    bridge.stop()
    await running
    await node.stop()
    for kind, (name, count) in STREAMS.items():
        frames = recorded_stream(name)
        assert len(frames) == count
        assert [comparable(frame) for frame in pushed[kind]] == [comparable(frame) for frame in frames]
    # a pushed log counts none: see docs/ethereum.md
    logs = [frame["params"]["result"] for frame in pushed["logs"]]
    assert [dict(log, logIndex="0x0") for log in polled] == logs
