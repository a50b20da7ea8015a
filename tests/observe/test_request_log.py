"""The line of the log that each request gets: what it tells, and that nothing runs where nobody wants it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from rpc.context import Context
from rpc.errors import INVALID_REQUEST, LIMIT_EXCEEDED, METHOD_NOT_FOUND, PARSE_ERROR
from rpc.registry import Cache
from rpc.server.gate.tenants import Tenants
from rpc.server.limits import ServerSettings
from rpc.server.observe.request_log import LOGGER_NAME, Fields
from rpc.server.server import Server, serve
from tests.forwarding.nodes import fleet
from tests.support.http_raw import post
from tests.support.wire_methods import Gate, make_registry
from tests.support.wire_node import services
from tests.support.wire_server import ECHO, call, soon, until

SECRET = b"0123456789abcdef0123456789abcdef"


class Lines(logging.Handler):
    """The fields of the lines."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(record.fields)  # type: ignore[attr-defined]

    def take(self) -> list[dict[str, Any]]:
        found, self.all = self.all, []
        return found


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger = logging.getLogger(LOGGER_NAME)
    handler = Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.setLevel(before)
    logger.removeHandler(handler)


@asynccontextmanager
async def logged(gate: Gate | None = None, **changes: Any) -> AsyncIterator[Server]:
    """A server that logs each request, with a method whose answers are kept."""
    registry = make_registry(gate)

    @registry.method("Test.Kept", cache=Cache.IMMUTABLE)
    async def kept(ctx: Context, number: int) -> int:
        if gate is not None:
            await gate.wait()
        return number

    settings = replace(ServerSettings(request_log_level=logging.DEBUG), **changes)
    server = await serve(services(), "127.0.0.1", 0, settings=settings, registry=registry)
    try:
        yield server
    finally:
        if gate is not None:
            gate.open.set()
        await server.stop(1)


async def test_a_request_is_one_line(lines: Lines) -> None:
    async with logged() as server:
        await soon(post(server.port, call("Test.Head", id=7)))
        (line,) = lines.take()
        key = str((await server.dispatcher.services.head_source.current()).tipset.key.cid)
        assert line.pop("ms") >= 0
        assert line == {
            "method": "Test.Head", "id": 7, "path": "/rpc/v1", "over": "http", "head": 1, "height": 1108, "tipset": key,
            "source": "local", "client": "127.0.0.1", "status": 200, "code": 0, "bytes": 39,
        }  # fmt: skip
        forwarded = {"X-Forwarded-For": "198.51.100.7"}
        await soon(post(server.port, call("Test.NullRound", id="name"), headers=forwarded))
        (line,) = lines.take()
        assert (line["id"], line["client"], line["code"]) == ("name", "198.51.100.7", 12)
        assert "cache" not in line


async def test_each_call_of_a_batch_is_one_line(lines: Lines) -> None:
    async with logged() as server:
        calls = (call("Test.Kept", 1), call("Test.Kept", 1, id=2), call("Test.Nope", id=3), ECHO % (4, 4))
        body = b"[%b]" % b",".join(calls)
        await soon(post(server.port, body))
        found = [(line["id"], line["method"], line["code"], line.get("cache"), line["batch"]) for line in lines.take()]
        assert found == [
            (1, "Test.Kept", 0, "MISS", True),
            (2, "Test.Kept", 0, "HIT", True),
            (3, "unknown", METHOD_NOT_FOUND, None, True),
            (4, "Test.Echo", 0, None, True),
        ]


async def test_the_cache_tier_is_told(lines: Lines) -> None:
    gate = Gate()
    async with logged(gate) as server:
        gate.open.set()
        await soon(post(server.port, call("Test.Kept", 0)))
        lines.take()
        gate.open.clear()
        gate.entered = asyncio.Semaphore(0)
        body = call("Test.Kept", 1)
        first = asyncio.create_task(post(server.port, body))
        await soon(gate.entered.acquire())
        batch = asyncio.create_task(post(server.port, b"[%b,%b]" % (body, ECHO % (9, 9))))
        await until(lambda: len(lines.all) == 1)
        assert lines.take()[0]["method"] == "Test.Echo"
        gate.open.set()
        await soon(asyncio.gather(first, batch))  # type: ignore[arg-type]
        assert sorted(line["cache"] for line in lines.take()) == ["FETCHING", "MISS"]
        # by the request's own bytes
        answer = await soon(post(server.port, body))
        assert answer.headers["x-cache"] == "HIT"
        assert [line["cache"] for line in lines.take()] == ["HIT"]


async def test_a_websockets_calls_and_channels_are_lines(lines: Lines) -> None:
    async with logged() as server, aiohttp.ClientSession() as http, http.ws_connect(server.url) as ws:
        for body in (call("Test.Echo", 1), call("Test.Count", 2, id=2), call("Test.BadChannel", id=3)):
            await ws.send_bytes(body)
            await soon(ws.receive())
        await until(lambda: len(lines.all) == 3)
        found = {line["method"]: (line["over"], line["code"], line["client"]) for line in lines.take()}
        assert found == {
            "Test.Echo": ("websocket", 0, "127.0.0.1"),
            "Test.Count": ("websocket", 0, "127.0.0.1"),
            "Test.BadChannel": ("websocket", 12, "127.0.0.1"),
        }


async def test_refused_requests_are_lines(lines: Lines, tmp_path: Path) -> None:
    path = tmp_path / "tenants.toml"
    path.write_text(f'[tenant.explorer]\nkey_sha256 = "{hashlib.sha256(b"the key").hexdigest()}"\n')
    tenants = Tenants(path)
    tenants.load()
    async with logged(tenants=tenants, jwt_secret=SECRET, max_body_bytes=1000) as server:
        for body, status, code in (
            (b"{", 500, PARSE_ERROR), (b"", 400, INVALID_REQUEST), (b"x" * 2000, 500, PARSE_ERROR),
        ):  # fmt: skip
            await soon(post(server.port, body))
            (line,) = lines.take()
            assert (line["status"], line["code"], line["client"]) == (status, code, "127.0.0.1")
            assert "method" not in line
        await soon(post(server.port, ECHO % (1, 1), headers={"Authorization": "Bearer wrong"}))
        (line,) = lines.take()
        assert (line["status"], line["path"]) == (401, "/rpc/v1")
        await soon(post(server.port, ECHO % (1, 1), headers={"Authorization": "Bearer the key"}))
        (line,) = lines.take()
        assert (line["tenant"], line["status"]) == ("explorer", 200)


async def test_a_busy_server_and_a_client_that_goes_are_told(lines: Lines) -> None:
    gate = Gate()
    async with logged(gate, max_in_flight=1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        body = call("Test.Wait")
        writer.write(b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await soon(gate.entered.acquire())
        answer = await soon(post(server.port, ECHO % (1, 1)))
        (line,) = lines.take()
        assert (line["status"], line["code"]) == (answer.status, json.loads(answer.body)["error"]["code"])
        assert line["status"] == 503
        writer.transport.abort()
        await until(lambda: bool(lines.all))
        assert [(line["method"], line["status"]) for line in lines.take()] == [("Test.Wait", 499)]
        assert reader.at_eof() or reader.exception() is not None


async def test_the_node_that_answered_is_told(lines: Lines) -> None:
    from rpc.server.observe.observer import Observer
    from rpc.server.observe.request_log import RequestLog

    async with fleet(count=2) as nodes:
        nodes.dispatcher.observe(Observer(RequestLog(logging.DEBUG), nodes.dispatcher.is_named))
        names = {node.name for node in nodes.route.nodes}
        await nodes.ask("Filecoin.MpoolGetNonce", "f01000")
        await nodes.ask("Filecoin.MpoolPush", {"Message": {"Nonce": 1}, "Signature": {"Type": 1, "Data": "AA=="}})
        await nodes.ask("Filecoin.ChainHead")
        # two at once are one call to a node
        before = sum(behind.asked["Filecoin.MpoolGetNonce"] for behind in nodes.behind)
        same = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "Filecoin.MpoolGetNonce", "params": ["f01001"]})
        await nodes.dispatcher.http(1, b"[%b,%b]" % (same, same))
        assert sum(behind.asked["Filecoin.MpoolGetNonce"] for behind in nodes.behind) == before + 1
        first, _, third, *joined = lines.take()
        assert first["source"] in names
        assert third["source"] == "local"
        assert [line["source"] in names for line in joined] == [True, True]


async def test_nothing_observes_where_the_level_is_off(lines: Lines) -> None:
    logging.getLogger(LOGGER_NAME).setLevel(logging.INFO)
    async with logged() as server:
        dispatcher = server.dispatcher
        assert dispatcher.observer is None
        assert dispatcher.finds_raw
        assert dispatcher.answer_http == dispatcher._http
        assert dispatcher._answer_call == dispatcher._one
        await soon(post(server.port, ECHO % (1, 1)))
        assert not lines.all
        logging.getLogger(LOGGER_NAME).setLevel(logging.DEBUG)
        server.look_at_log_level()
        await soon(post(server.port, ECHO % (1, 1)))
        assert len(lines.take()) == 1
        logging.getLogger(LOGGER_NAME).setLevel(logging.INFO)
        server.look_at_log_level()
        assert dispatcher._answer_call == dispatcher._one


async def test_what_is_noted_in_one_call_is_not_seen_in_another(lines: Lines) -> None:
    """A call that waits, with others between: each has a context of its own, and the server's has none."""
    from rpc.observe.call_record import CURRENT_CALL

    gate = Gate()
    async with logged(gate) as server:
        waiting = [asyncio.create_task(post(server.port, call("Test.Wait", id=n))) for n in range(3)]
        for _ in waiting:
            await soon(gate.entered.acquire())
        await soon(post(server.port, ECHO % (9, 9)))
        gate.open.set()
        await soon(asyncio.gather(*waiting))  # type: ignore[arg-type]
        assert sorted(line["id"] for line in lines.take()) == [0, 1, 2, 9]
    assert CURRENT_CALL.get() is None


def test_a_clients_text_makes_no_second_line() -> None:
    text = str(Fields({"method": "unknown", "id": 'x"\nINFO follower: all is well', "ms": 0.5, "batch": True}))
    assert "\n" not in text
    assert text == 'method=unknown id="x\\"\\nINFO follower: all is well" ms=0.5 batch=true'


async def test_a_long_id_is_not_told(lines: Lines) -> None:
    async with logged() as server:
        await soon(post(server.port, call("Test.Echo", 1, id="k" * 43)))
        assert lines.take()[0]["id"] == "… (43 characters)"


async def test_a_refusal_by_a_limit_has_its_code(lines: Lines) -> None:
    async with logged(max_answer_bytes=100_000) as server:
        await soon(post(server.port, call("Test.Big", 200_000)))
        assert lines.take()[0]["code"] == LIMIT_EXCEEDED
