"""A server over a tiny node, and what tests of the wire do with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson

from rpc.server.limits import ServerSettings
from rpc.server.server import Server, serve
from tests.support.wire_methods import Gate, make_registry
from tests.support.wire_node import Heads, services

ECHO = b'{"jsonrpc":"2.0","id":%d,"method":"Test.Echo","params":[%d]}'


def call(method: str, *params: Any, id: Any = 1) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": list(params)})


class Node:
    """A server with the gate and the heads that its methods look at."""

    def __init__(self, server: Server, gate: Gate, heads: Heads) -> None:
        self.server, self.gate, self.heads = server, gate, heads
        self.port = server.port


@asynccontextmanager
async def node(**changes: Any) -> AsyncIterator[Node]:
    gate, heads = Gate(), Heads()
    settings = replace(ServerSettings(), **changes)
    server = await serve(services(heads), "127.0.0.1", 0, settings=settings, registry=make_registry(gate))
    try:
        yield Node(server, gate, heads)
    finally:
        gate.open.set()
        await server.stop(1)


def soon(awaitable: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
    """A test that hangs fails instead."""
    return asyncio.wait_for(awaitable, 20)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)
