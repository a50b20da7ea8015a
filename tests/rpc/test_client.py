"""Speaking to a full node: where it is, calls, batches, channels, and what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest
from aiohttp import WSMsgType, web
from hypothesis import given
from hypothesis import strategies as st

from blockstore.cid import RAW, Cid, cid_of
from rpc.client.client import NodeClient, object_batch
from rpc.client.node_info import NodeInfo, parse_node_info
from rpc.client.websocket import Channel
from rpc.node_errors import BadAnswer, BadNodeInfo, CallFailed, NodeRefused, NodeTimeout, NodeUnavailable, RateLimited
from tests.support.bridge.node import until

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJBbGxvdyI6WyJyZWFkIl19.c2VjcmV0"

# --- where a node is --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url", "websocket", "token"),
    [
        ("/ip4/127.0.0.1/tcp/1234/http", "http://127.0.0.1:1234/rpc/v1", "ws://127.0.0.1:1234/rpc/v1", ""),
        ("/ip4/1.2.3.4/tcp/1234", "http://1.2.3.4:1234/rpc/v1", "ws://1.2.3.4:1234/rpc/v1", ""),
        (f"{TOKEN}:/ip4/1.2.3.4/tcp/99/ws", "http://1.2.3.4:99/rpc/v1", "ws://1.2.3.4:99/rpc/v1", TOKEN),
        ("/ip6/::1/tcp/1234/http", "http://[::1]:1234/rpc/v1", "ws://[::1]:1234/rpc/v1", ""),
        ("/dns/a.example/tcp/443/https", "https://a.example:443/rpc/v1", "wss://a.example:443/rpc/v1", ""),
        ("/dns4/a.example/tcp/443/wss", "https://a.example:443/rpc/v1", "wss://a.example:443/rpc/v1", ""),
        ("/dns6/a.example/tcp/80/tls/ws", "https://a.example:80/rpc/v1", "wss://a.example:80/rpc/v1", ""),
        ("http://a.example:1234", "http://a.example:1234/rpc/v1", "ws://a.example:1234/rpc/v1", ""),
        ("ws://a.example:1234/", "http://a.example:1234/rpc/v1", "ws://a.example:1234/rpc/v1", ""),
        ("wss://a.example/rpc/v0", "https://a.example/rpc/v1", "wss://a.example/rpc/v1", ""),
        (f"{TOKEN}:https://a.example/", "https://a.example/rpc/v1", "wss://a.example/rpc/v1", TOKEN),
        ("https://a.example/x/rpc/v1/", "https://a.example/x/rpc/v1", "wss://a.example/x/rpc/v1", ""),
        (f"https://a.example?token={TOKEN}", "https://a.example/rpc/v1", "wss://a.example/rpc/v1", TOKEN),
        ("http://[::1]:5", "http://[::1]:5/rpc/v1", "ws://[::1]:5/rpc/v1", ""),
    ],
)
def test_node_info(text: str, url: str, websocket: str, token: str) -> None:
    (info,) = parse_node_info(text)
    assert (info.url(), info.url(websocket=True), info.token) == (url, websocket, token)


def test_several_nodes_with_commas() -> None:
    infos = parse_node_info(f"{TOKEN}:/ip4/1.1.1.1/tcp/1234/http, http://b:2,/dns/c/tcp/3/https")
    assert [info.name for info in infos] == ["1.1.1.1:1234", "b:2", "c:3"]
    assert [info.token for info in infos] == [TOKEN, "", ""]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " , ",
        "localhost:1234",
        f"{TOKEN}:",
        f"{TOKEN}:/ip4/1.1.1.1/udp/1234",
        f"{TOKEN}:/ip4/1.1.1.1/tcp/99999",
        f"{TOKEN}:/ip4/1.1.1.1/tcp/x",
        f"{TOKEN}:/unix/socket",
        f"{TOKEN}:/ip4/1.1.1.1/tcp/1/quic",
        f"ftp://{TOKEN}@host",
        f"{TOKEN}:http://[::1",
        f"{TOKEN}:http://host:99999999",
    ],
)
def test_a_bad_node_info_is_refused_without_its_token(text: str) -> None:
    with pytest.raises(BadNodeInfo) as caught:
        parse_node_info(text)
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.text(alphabet="abc/:,.@?=&[]http ws tcp ip4 123", max_size=60))
def test_any_text_is_an_info_or_a_bad_node_info(text: str) -> None:
    try:
        infos = parse_node_info(text)
    except BadNodeInfo:
        return
    assert infos and all(info.url().startswith(("http://", "https://")) for info in infos)


def test_no_secret_in_what_can_be_printed() -> None:
    (info,) = parse_node_info(f"https://user:{TOKEN}@a.example/p?token={TOKEN}&key={TOKEN}")
    client = NodeClient(info)
    for text in (repr(info), str(info), info.name, repr(client), client.name):
        assert TOKEN not in text
    assert f"key={TOKEN}".encode() in info.url().encode()


def test_object_batch_is_what_go_jsonrpc_reads() -> None:
    cids = [cid_of(b"a"), cid_of(b"b", RAW), Cid(b"\x12\x20" + bytes(32))]
    assert orjson.loads(object_batch(cids)) == [
        {
            "jsonrpc": "2.0",
            "id": number,
            "method": "Filecoin.ChainReadObj",
            "params": [{"/": str(cid)}],
        }
        for number, cid in enumerate(cids)
    ]


# --- a server that does as it is told ---------------------------------------------------------------

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[NodeClient]]]:
    runners: list[web.AppRunner] = []
    clients: list[NodeClient] = []

    async def start(handler: Handler, token: str = "", **options: Any) -> NodeClient:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/rpc/v1", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        info = NodeInfo(f"127.0.0.1:{runner.addresses[0][1]}", token=token)
        clients.append(NodeClient(info, **{"timeout": 5.0, **options}))
        return clients[-1]

    yield start
    for client in clients:
        await client.close()
    for runner in runners:
        await runner.cleanup()


def reply(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


async def test_call_sends_positional_parameters_and_the_token(serve: Any) -> None:
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.headers.get("Authorization"), orjson.loads(await request.read())))
        return reply({"jsonrpc": "2.0", "id": seen[-1][1]["id"], "result": [1, None]})

    client = await serve(handler, token=TOKEN)
    assert await client.call("Filecoin.X", 1, {"/": "b"}) == [1, None]
    authorization, body = seen[0]
    assert authorization == f"Bearer {TOKEN}"
    assert (body["method"], body["params"], body["jsonrpc"]) == ("Filecoin.X", [1, {"/": "b"}], "2.0")


async def test_a_method_error_keeps_code_message_and_data(serve: Any) -> None:
    async def handler(request: web.Request) -> web.Response:
        return reply({"jsonrpc": "2.0", "id": 1, "error": {"code": 12, "message": "null round", "data": 7}})

    client = await serve(handler)
    with pytest.raises(CallFailed) as caught:
        await client.call("Filecoin.X")
    assert (caught.value.code, caught.value.message, caught.value.data) == (12, "null round", 7)


async def test_batch_answers_in_any_order(serve: Any) -> None:
    async def handler(request: web.Request) -> web.Response:
        calls = orjson.loads(await request.read())
        rows: list[Any] = [{"id": call["id"], "result": call["params"][0]} for call in calls]
        rows[1] = {"id": calls[1]["id"], "error": {"code": 1, "message": "no"}}
        return reply(rows[::-1])

    client = await serve(handler)
    results = await client.batch([("m", [n]) for n in range(5)])
    assert [r if isinstance(r, int) else r.code for r in results] == [0, 1, 2, 3, 4]
    assert isinstance(results[1], CallFailed)


async def test_an_incomplete_batch_is_a_bad_answer(serve: Any) -> None:
    async def handler(request: web.Request) -> web.Response:
        return reply([{"id": 0, "result": 1}, {"id": 0, "result": 1}, {"id": 77, "result": 1}])

    client = await serve(handler)
    with pytest.raises(BadAnswer, match="a batch of 2 has 1 answers"):
        await client.batch([("m", []), ("m", [])])


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, b"", NodeRefused),
        (403, b"", NodeRefused),
        (429, b"", RateLimited),
        (503, b"<html>", NodeUnavailable),
        (200, b"<html>", BadAnswer),
        (200, b"[]", BadAnswer),
        (500, b'{"error":"x"}', BadAnswer),
    ],
)
async def test_http_failures(serve: Any, status: int, body: bytes, error: type[Exception]) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Retry-After": "7"})

    client = await serve(handler, token=TOKEN)
    with pytest.raises(error) as caught:
        await client.call("Filecoin.X")
    assert TOKEN not in str(caught.value)
    if isinstance(caught.value, RateLimited):
        assert caught.value.retry_after == 7


async def test_objects(serve: Any) -> None:
    async def handler(request: web.Request) -> web.Response:
        calls = orjson.loads(await request.read())
        rows = []
        for call in calls if isinstance(calls, list) else [calls]:
            text = call["params"][0]["/"]
            if text == str(cid_of(b"absent")):
                rows.append({"id": call["id"], "error": {"code": 1, "message": "not found"}})
            else:
                rows.append({"id": call["id"], "result": base64.b64encode(text.encode()).decode()})
        return reply(rows if isinstance(calls, list) else rows[0])

    client = await serve(handler)
    there, absent = cid_of(b"there"), cid_of(b"absent")
    first, second = await client.read_objects([there, absent])
    assert first == str(there).encode() and isinstance(second, CallFailed)
    assert await client.read_objects([there]) == [str(there).encode()]
    (alone,) = await client.read_objects([absent])
    assert isinstance(alone, CallFailed)


async def test_time_out_and_bound_in_flight(serve: Any) -> None:
    running = most = 0
    release = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1
        return reply({"id": 1, "result": 1})

    client = await serve(handler, max_in_flight=3)
    with pytest.raises(NodeTimeout):
        await client.call("Filecoin.X", timeout=0.05)
    calls = [asyncio.create_task(client.call("Filecoin.X")) for _ in range(12)]
    await until(lambda: running >= 3)
    release.set()
    assert await asyncio.gather(*calls) == [1] * 12
    assert most <= 4  # three, and the one that was given up on


async def test_nobody_there() -> None:
    async with NodeClient(NodeInfo("127.0.0.1:1", token=TOKEN)) as client:
        for attempt in (client.call("Filecoin.X"), client.connect()):
            with pytest.raises(NodeUnavailable) as caught:
                await attempt
            assert TOKEN not in str(caught.value)
    with pytest.raises(NodeUnavailable):
        await client.call("Filecoin.X")


# --- WebSocket --------------------------------------------------------------------------------------


class Script:
    """A WebSocket server: `frames` are sent as answers to the first request; then it does as told."""

    def __init__(self, *frames: Any) -> None:
        self.frames = frames
        self.received: list[Any] = []
        self.socket: web.WebSocketResponse | None = None
        self.got = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.socket = web.WebSocketResponse()
        await self.socket.prepare(request)
        async for message in self.socket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                break
            self.received.append(orjson.loads(message.data))
            self.got.set()
            if len(self.received) == 1:
                for frame in self.frames:
                    text = frame if isinstance(frame, str) else orjson.dumps(frame).decode()
                    await self.socket.send_str(text)
        return self.socket


def value(channel: int, what: Any) -> Any:
    return {"jsonrpc": "2.0", "method": "xrpc.ch.val", "params": [channel, what]}


async def test_channel_values_close_and_cancel(serve: Any) -> None:
    script = Script(
        value(9, "of nobody"),
        "not json",
        [1],
        {"jsonrpc": "2.0", "id": 1, "result": 9},
        value(9, "a"),
        value(8, "of another"),
        value(9, "b"),
        {"jsonrpc": "2.0", "method": "xrpc.ch.close", "params": [9]},
    )
    client = await serve(script.handle)
    connection = await client.connect()
    channel = await connection.open_channel("Filecoin.ChainNotify", [], 5)
    assert [item async for item in channel] == ["a", "b"]
    with pytest.raises(NodeUnavailable, match="the node closed it"):
        await channel.next(1)
    script.got.clear()
    await channel.cancel()
    await script.got.wait()
    assert script.received[-1] == {"jsonrpc": "2.0", "method": "xrpc.cancel", "params": [1]}
    await connection.close()
    assert not connection.alive


async def test_a_slow_reader_finds_its_channel_overrun(serve: Any) -> None:
    script = Script({"id": 1, "result": 1}, *(value(1, n) for n in range(10)), {"id": 2, "result": "after"})
    client = await serve(script.handle)
    connection = await client.connect()
    channel: Channel = await connection.open_channel("Filecoin.ChainNotify", [], 5, limit=4)
    await until(lambda: channel.closed)
    with pytest.raises(NodeUnavailable, match="overrun: 4 values waited"):
        await channel.next(1)
    assert channel.waiting == 0
    await connection.close()


async def test_a_broken_connection_fails_calls_and_ends_channels(serve: Any) -> None:
    script = Script({"id": 1, "result": 1}, value(1, "x"))
    client = await serve(script.handle)
    connection = await client.connect()
    channel = await connection.open_channel("Filecoin.ChainNotify", [], 5)
    call = asyncio.create_task(connection.call("Filecoin.ChainHead", [], 5))
    await until(lambda: len(script.received) >= 2)
    assert script.socket is not None and script.socket._req is not None
    script.socket._req.transport.abort()  # type: ignore[union-attr]
    with pytest.raises(NodeUnavailable):
        await call
    assert await channel.next(1) == "x"
    with pytest.raises(NodeUnavailable):
        await channel.next(1)
    with pytest.raises(NodeUnavailable):
        await connection.call("Filecoin.ChainHead", [], 5)
    await connection.close()


async def test_an_unanswered_call_is_cancelled_at_the_node(serve: Any) -> None:
    script = Script()
    client = await serve(script.handle)
    connection = await client.connect()
    with pytest.raises(NodeTimeout):
        await connection.call("Filecoin.StateCompute", [], 0.05)
    await until(lambda: len(script.received) >= 2)
    assert script.received[1]["method"] == "xrpc.cancel"
    await connection.close()


async def test_a_silent_half_open_connection_is_noticed(serve: Any) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(autoping=False)  # answers no ping
        await socket.prepare(request)
        async for _ in socket:
            pass
        return socket

    client = await serve(handler, heartbeat=0.1)
    connection = await client.connect()
    with pytest.raises(NodeUnavailable):
        await connection.call("Filecoin.ChainHead", [], 20)
    await connection.close()


@pytest.mark.parametrize(
    ("status", "error"), [(404, BadAnswer), (401, NodeRefused), (503, NodeUnavailable), (429, NodeUnavailable)]
)
async def test_no_websocket_there(
    serve: Any, caplog: pytest.LogCaptureFixture, status: int, error: type[Exception]
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status)

    caplog.set_level(logging.DEBUG)
    client = await serve(handler, token=TOKEN)
    with pytest.raises(error) as caught:
        await client.connect()
    assert TOKEN not in str(caught.value) and TOKEN not in caplog.text
