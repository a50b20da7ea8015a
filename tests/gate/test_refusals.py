"""Each refusal tells a program which limit it is, what it allows, and when to try again."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from blockstore.memory import MemoryStore
from rpc.lookup.filters.filter_shares import FilterLimits
from rpc.methods import register_all
from rpc.server.server import serve
from tests.support.event_chain import EventChain
from tests.support.http_raw import post
from tests.support.paths import ROOT
from tests.support.served import services_over
from tests.support.wire_server import ECHO, call, node, soon

register_all()

FROM = {"X-Forwarded-For": "203.0.113.7"}
BATCH = b"[" + b",".join([ECHO % (1, 1)] * 40) + b"]"
VALUES = call("Test.Echo", [0] * 70_000)

#: settings, the request, HTTP status, code, `data`
REFUSED: list[tuple[dict[str, Any], bytes, int, int, dict[str, Any]]] = [
    ({"max_body_bytes": 100}, call("Test.Echo", "x" * 200), 500, -32700, {"limit": "max_body_mb", "most": 100}),
    ({"max_values": 1000}, VALUES, 500, -32700, {"limit": "json_values", "most": 1000}),
    ({"max_batch": 39}, BATCH, 400, -32600, {"limit": "max_batch", "most": 39, "asked": 40}),
    ({"max_answer_bytes": 50}, call("Test.Echo", "x" * 80_000), 200, -32005, {"limit": "max_answer_mb", "most": 50}),
    ({"request_seconds": 0.05}, call("Test.Walk"), 200, -32005, {"limit": "request_seconds", "most": 0.05}),
    (
        {"max_in_flight_per_client": 0}, ECHO % (1, 1), 429, -32005,
        {"limit": "working_per_client", "most": 0, "retryAfterSeconds": 1},
    ),
    ({"max_in_flight": 0}, ECHO % (1, 1), 503, -32002, {"limit": "working", "most": 0, "retryAfterSeconds": 1}),
    (
        {"memory_budget_bytes": 10}, call("Test.Echo", "x" * 80_000), 503, -32002,
        {"limit": "memory", "most": 10, "retryAfterSeconds": 1},
    ),
    (
        {"lane_calls_per_client": 0}, call("Test.Heavy"), 429, -32005,
        {"limit": "heavy_calls_per_client", "most": 0, "retryAfterSeconds": 1},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "body", "status", "code", "data"), REFUSED, ids=[case[4]["limit"] for case in REFUSED]
)
async def test_a_refused_request(
    settings: dict[str, Any], body: bytes, status: int, code: int, data: dict[str, Any]
) -> None:
    async with node(**settings) as n:
        answer = await soon(post(n.port, body, headers=FROM))
        error = orjson.loads(answer.body)["error"]
        assert (answer.status, error["code"], error["data"]) == (status, code, data)
        again = answer.headers.get("retry-after")
        assert again == (str(data["retryAfterSeconds"]) if "retryAfterSeconds" in data else None)


@pytest.mark.parametrize(
    ("settings", "limit"),
    [({"batch_seconds": 0.0}, "batch_seconds"), ({"max_batch_answer_bytes": 100}, "max_batch_answer_mb")],
)
async def test_calls_of_a_batch_that_are_refused(settings: dict[str, Any], limit: str) -> None:
    async with node(batch_parallel=1, **settings) as n:
        answers = orjson.loads((await soon(post(n.port, b"[" + b",".join([ECHO % (1, 1)] * 2000) + b"]"))).body)
    error = answers[-1]["error"]
    assert (error["code"], error["data"]) == (-32005, {"limit": limit, "most": next(iter(settings.values()))})


async def test_calls_of_a_websocket_that_are_refused() -> None:
    async with (
        node(ws_max_channels=0) as n,
        aiohttp.ClientSession() as session,
        session.ws_connect(n.server.url) as ws,
    ):
        await ws.send_bytes(call("Test.Silent"))
        error = orjson.loads((await soon(ws.receive())).data)["error"]
    assert (error["code"], error["data"]) == (-32005, {"limit": "channels_per_connection", "most": 0})


async def test_ranges_and_filters_that_are_refused() -> None:
    chain = EventChain(MemoryStore())
    await chain.grow()
    services = await services_over(chain.store)
    services.extra["eth_filter_limits"] = FilterLimits(per_connection=1)
    server = await serve(services, "127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(server.url) as ws:

            async def error(method: str, *params: Any) -> tuple[int, Any]:
                await ws.send_bytes(call(method, *params))
                found = orjson.loads((await asyncio.wait_for(ws.receive(), 20)).data)["error"]
                return found["code"], found["data"]

            wide = {"fromBlock": "0x1", "toBlock": "0xf00"}
            wanted = (-32005, {"limit": "block_range", "most": 2880, "asked": 3839})
            assert [await error(method, wide) for method in ("eth_getLogs", "eth_newFilter")] == [wanted] * 2
            await ws.send_bytes(call("eth_newBlockFilter"))
            await soon(ws.receive())
            wanted = (1, {"limit": "filters_per_connection", "most": 1})
            for method, params in (("eth_newFilter", [{}]), ("eth_subscribe", ["logs"]), ("eth_newBlockFilter", [])):
                assert await error(method, *params) == wanted
    finally:
        await server.stop(0)


def _limits(path: Path) -> Iterator[str]:
    """The names of limits that a module's refusals have."""
    for found in ast.walk(ast.parse(path.read_text())):
        if isinstance(found, ast.Call) and isinstance(found.func, ast.Name) and found.func.id == "limit_data":
            if isinstance(found.args[0], ast.Constant):
                yield found.args[0].value
        elif isinstance(found, ast.Dict):
            for key, value in zip(found.keys, found.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "limit" and isinstance(value, ast.Constant):
                    yield value.value


def test_each_limit_is_documented() -> None:
    made = {name for path in (ROOT / "rpc").rglob("*.py") for name in _limits(path)}
    assert len(made) > 15
    page = (ROOT / "docs" / "gate.md").read_text()
    table = page.partition("## Refusals")[2].partition("\n## ")[0]
    shown = set(re.findall(r"`([a-z_]+)`", table))
    assert made - shown == set()
