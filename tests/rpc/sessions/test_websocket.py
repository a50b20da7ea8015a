"""WebSocket sessions as their peers see them: answers, channels, limits, the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from rpc.server.websocket import WebSocketSession
from tests.support.wire_server import Node, call, node, soon, until

#: transports differ in when they write and what they report: all of this holds on both
pytestmark = pytest.mark.both_loops


@asynccontextmanager
async def session(n: Node) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with aiohttp.ClientSession() as http, http.ws_connect(n.server.url) as ws:
        yield ws


async def receive(ws: aiohttp.ClientWebSocketResponse) -> Any:
    return json.loads((await soon(ws.receive())).data)


async def test_websocket_answers_as_they_end() -> None:
    async with node() as n, session(n) as ws:
        await ws.send_bytes(call("Test.Wait", id="slow"))
        await ws.send_bytes(call("Test.Echo", 5, id=2))
        assert (await receive(ws))["id"] == 2
        n.gate.open.set()
        assert (await receive(ws)) == {"id": "slow", "jsonrpc": "2.0", "result": "done"}


async def test_websocket_cancel_of_a_call() -> None:
    async with node() as n, session(n) as ws:
        await ws.send_bytes(call("Test.Wait", id=9))
        await soon(n.gate.entered.acquire())
        await ws.send_str('{"jsonrpc":"2.0","method":"xrpc.cancel","params":[9]}')
        answer = await receive(ws)
        assert answer["error"] == {"code": 1, "message": "context canceled"}
        assert n.gate.cancelled.is_set()


@pytest.mark.parametrize(
    "frame",
    ["", "{", "[]", "5", "null", '{"id":[1],"method":"Test.Echo"}', '{"method":5,"id":1}', '{"id":1}x',
     '{"method":"xrpc.cancel"}', '{"method":"xrpc.cancel","params":[]}', '{"method":"xrpc.cancel","params":[{}]}',
     '{"method":"xrpc.ch.val","params":[1,2]}', '{"id":5,"result":1}'],
)  # fmt: skip
async def test_websocket_frames_that_are_dropped(frame: str) -> None:
    async with node() as n, session(n) as ws:
        await ws.send_str(frame)
        await ws.send_bytes(call("Test.Echo", 1, id="after"))
        assert (await receive(ws))["id"] == "after"


async def test_channel_to_its_end() -> None:
    async with node() as n, session(n) as ws:
        await ws.send_bytes(call("Test.Count", 5, id=3))
        assert await receive(ws) == {"id": 3, "jsonrpc": "2.0", "result": 1}
        for number in range(5):
            assert await receive(ws) == {"jsonrpc": "2.0", "method": "xrpc.ch.val", "params": [1, number]}
        assert await receive(ws) == {"jsonrpc": "2.0", "method": "xrpc.ch.close", "params": [1]}
        await ws.send_bytes(call("Test.BadChannel", id=4))
        assert (await receive(ws))["error"] == {
            "code": 12,
            "message": "requested epoch was a null round (7)",
            "data": 7,
        }


async def test_channels_of_a_session_that_ends_are_closed() -> None:
    async with node() as n:
        async with session(n) as ws:
            await ws.send_bytes(call("Test.Silent"))
            assert (await receive(ws))["result"] == 1
            assert (await receive(ws))["params"] == [1, 1]
            await soon(n.gate.entered.acquire())
        await soon(n.gate.cancelled.wait())
        await until(lambda: not n.server._sockets)
        assert n.server.dispatcher.in_flight == 0


async def test_too_many_channels() -> None:
    async with node(ws_max_channels=1) as n, session(n) as ws:
        await ws.send_bytes(call("Test.Silent", id=1))
        await receive(ws)
        await receive(ws)
        await ws.send_bytes(call("Test.Silent", id=2))
        assert (await receive(ws))["error"]["code"] == -32005


async def test_a_slow_reader_loses_its_channel_and_nothing_else() -> None:
    """What the server keeps for it is bounded; when it reads again it is told that the channel is closed."""
    size = 256 << 10
    async with node() as n, aiohttp.ClientSession(read_bufsize=1 << 16) as http:
        ws = await http.ws_connect(n.server.url, max_msg_size=0)
        await ws.send_bytes(call("Test.Flood", size, id=1))
        assert (await receive(ws))["result"] == 1
        await until(lambda: n.server.dispatcher.slow_channels == 1)
        values = 0
        while True:
            frame = await receive(ws)
            if frame["method"] == "xrpc.ch.close":
                break
            values += 1
        # the buffer, what the sockets hold and what the client read ahead: far from all that was made
        assert 0 < values * size < 64 << 20
        await ws.send_bytes(call("Test.Echo", "alive", id=2))
        assert (await receive(ws))["result"] == "alive"
        await ws.close()


async def test_pongs_are_no_unfinished_message() -> None:
    """A client that only listens answers the server's pings, and is not cut for it."""
    async with node() as n, session(n) as ws:
        await ws.send_str('{"jsonrpc":"2.0","id":1,"method":"Test.Echo","params":[1,2]}')
        assert (await receive(ws))["id"] == 1
        (held,) = n.server._sockets.values()
        await ws.pong(b"here")
        await until(lambda: held._partial_bytes > 0)
        held.check_progress(asyncio.get_running_loop().time() + 3600)
        await ws.send_str('{"jsonrpc":"2.0","id":2,"method":"Test.Echo","params":[1,2]}')
        assert (await receive(ws))["id"] == 2


@asynccontextmanager
async def looked_at(n: Node, autoping: bool) -> AsyncIterator[tuple[aiohttp.ClientWebSocketResponse, WebSocketSession]]:
    """A client's socket, and its session once it has answered a call."""
    async with aiohttp.ClientSession() as http, http.ws_connect(n.server.url, autoping=autoping) as ws:
        await ws.send_bytes(call("Test.Echo", 1, id=1))
        await receive(ws)
        yield ws, next(iter(n.server._sockets.values()))


async def test_who_does_not_answer_a_ping_loses_the_session() -> None:
    async with node() as n, looked_at(n, autoping=False) as (ws, held):
        ping_seconds = n.server.settings.ws_ping_seconds
        now = asyncio.get_running_loop().time()
        held.check_progress(now + ping_seconds / 2)
        held.check_progress(now + ping_seconds + 1)
        assert (await soon(ws.receive())).type is aiohttp.WSMsgType.PING
        held.check_progress(now + ping_seconds * 1.4 + 1)
        assert not ws.closed
        held.check_progress(now + ping_seconds * 1.6 + 1)
        assert (await soon(ws.receive())).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


async def test_who_answers_pings_keeps_the_session() -> None:
    async with node() as n, looked_at(n, autoping=True) as (ws, held):
        ping_seconds = n.server.settings.ws_ping_seconds
        reading = asyncio.create_task(ws.receive())
        # silent for that long, as seen now
        held._heard_at -= ping_seconds + 1
        held.check_progress(asyncio.get_running_loop().time())
        await until(lambda: held._partial_bytes > 0)
        held.check_progress(asyncio.get_running_loop().time() + ping_seconds * 0.6)
        await ws.send_bytes(call("Test.Echo", 2, id=2))
        assert json.loads((await soon(reading)).data)["id"] == 2


async def test_pings_of_many_sessions_take_turns_with_pushes() -> None:
    async with node() as n, looked_at(n, autoping=False) as (ws, held):
        order: list[str] = []
        pushes = n.server.dispatcher.services.pushes
        pushes.add(lambda: order.append("before"))
        held.check_progress(asyncio.get_running_loop().time() + n.server.settings.ws_ping_seconds + 1)
        assert pushes.waiting == 2
        await soon(pushes.reached())
        assert order == ["before"]
        assert (await soon(ws.receive())).type is aiohttp.WSMsgType.PING
