"""`ChainNotify` and `ChainNotifyFrom` over a WebSocket, as a client sees them."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson

import rpc.methods.chain.notify  # noqa: F401  (declares)
from rpc.server.server import serve
from tests.support.made_chain import MadeChain


async def next_message(ws: aiohttp.ClientWebSocketResponse) -> Any:
    message = await asyncio.wait_for(ws.receive(), 10)
    return orjson.loads(message.data)


async def frames(ws: aiohttp.ClientWebSocketResponse, method: str, params: list[Any], count: int) -> list[Any]:
    """The first `count` values that a channel method pushes."""
    await ws.send_json({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
    values: list[Any] = []
    channel: Any = None
    while len(values) < count:
        message = await next_message(ws)
        if message.get("id") == 7:
            channel = message["result"]
        elif message.get("method") == "xrpc.ch.val":
            assert message["params"][0] == channel
            values.append(message["params"][1])
    return values


def changes(value: Any) -> list[tuple[str, int]]:
    return [(change["Type"], change["Val"]["Height"]) for change in value]


async def test_a_subscription_and_its_resumption() -> None:
    chain = MadeChain()
    chain.log.live = True
    tipsets = [await chain.add(None, 0)]
    chain.log.publish([], [tipsets[0]])
    server = await serve(chain.services(), "127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{server.port}/rpc/v1"
            async with session.ws_connect(url) as ws:
                assert changes((await frames(ws, "Filecoin.ChainNotify", [], 1))[0]) == [("current", 0)]
                for height in (1, 3):
                    tipsets.append(await chain.add(tipsets[-1], height))
                    chain.log.publish([], [tipsets[-1]])
                side = await chain.add(tipsets[1], 4, salt=9)
                chain.log.publish([tipsets[2]], [side])
                seen: list[Any] = []
                while len(seen) < 3:
                    seen.append(changes((await next_message(ws))["params"][1]))
                assert seen == [[("apply", 1)], [("apply", 3)], [("revert", 3), ("apply", 4)]]
            # the connection is gone; what came since is there for whoever names the last number seen
            chain.log.publish([], [await chain.add(side, 5, salt=9)])
            async with session.ws_connect(url) as ws:
                resumed = await frames(ws, "Filecoin.ChainNotifyFrom", [3], 2)
            assert [(value["Seq"], changes(value["Changes"])) for value in resumed] == [
                (4, [("revert", 3), ("apply", 4)]),
                (5, [("apply", 5)]),
            ]
    finally:
        await server.stop(0)
