"""Strangers' calls that a full node answers slowly, and what the follower asks the same node for itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from devnode.replay import ReplayNode, start_replay
from follower.forwarding.lanes import NodeLanes
from follower.forwarding.node import ForwardNode
from follower.forwarding.route import ForwardRoute, Times
from follower.lazy_objects import node_sources
from follower.readiness import FollowedNode
from follower.settings import load_settings
from rpc.client.client import NodeClient
from rpc.client.node_info import NodeInfo
from rpc.errors import UNAVAILABLE, Unavailable
from rpc.node_errors import CallFailed
from tests.support.processes import follower_process, free_port
from tests.support.recorded import recorded

#: how long an answer that must not wait for anybody may take on a slow machine, in seconds
PROMPT = 20.0


class HangingCalls:
    """The node behind a played node: what is forwarded there gets no answer until `release`."""

    def __init__(self) -> None:
        self.asked = 0
        self.release = asyncio.Event()

    async def call(self, method: str, params: list[Any], at: Any = None) -> Any:
        self.asked += 1
        await self.release.wait()
        return "0x"


@contextlib.asynccontextmanager
async def slow_node() -> AsyncIterator[tuple[ReplayNode, HangingCalls]]:
    """A played node whose EthCall hangs and that answers everything else."""
    node = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    behind = HangingCalls()
    node._services.node = behind
    try:
        yield node, behind
    finally:
        behind.release.set()
        await node.stop()


async def test_slow_forwarded_calls_hold_up_neither_objects_nor_the_watch() -> None:
    async with slow_node() as (node, behind):
        settings = load_settings(
            None, {}, {"node": node.base, "forward_concurrency": "16", "forward_wait_seconds": "0.5"}, "serve"
        )
        lanes = NodeLanes.open(settings)
        assert lanes is not None
        calls = [asyncio.create_task(lanes.forward.call("Filecoin.EthCall", [{"Gas": n}, "latest"])) for n in range(16)]
        async with asyncio.timeout(PROMPT):
            while behind.asked < 16:
                await asyncio.sleep(0.005)
            head = node.head
            (found,) = await node_sources(lanes.object_clients, 256).read([head.key.cids[0]])
            assert isinstance(found, bytes)
            followed = FollowedNode(lanes.watch_client)
            watching = asyncio.create_task(followed.watch())
            while followed.height is None:
                await asyncio.sleep(0.005)
            assert followed.height == head.height
            watching.cancel()
            # the 17th call waits as long as the settings say, then it is told why
            with pytest.raises(Unavailable, match="busy: too many forwarded calls"):
                await lanes.forward.call("Filecoin.EthCall", [{}, "latest"])
        assert not any(call.done() for call in calls)
        behind.release.set()
        assert await asyncio.gather(*calls) == ["0x"] * 16
        await lanes.close()


async def test_a_full_queue_refuses_at_once() -> None:
    async with slow_node() as (node, behind):
        client = NodeClient(NodeInfo(node.base.removeprefix("http://")), max_in_flight=1, max_waiting=1)
        route = ForwardRoute([ForwardNode.of(client)])
        first, second = (asyncio.create_task(route.call("Filecoin.EthCall", [{"Gas": n}, "latest"])) for n in range(2))
        while not (behind.asked and client._waiting):
            await asyncio.sleep(0.005)
        with pytest.raises(Unavailable, match="busy"):
            await asyncio.wait_for(route.call("Filecoin.EthCall", [{}, "latest"]), PROMPT)
        behind.release.set()
        assert [await first, await second] == ["0x", "0x"]
        await client.close()


async def test_a_forwarded_call_has_a_time_out_of_its_own() -> None:
    async with slow_node() as (node, _):
        given = {"node": node.base, "forward_timeout_seconds": "0.3", "node_timeout_seconds": "600"}
        lanes = NodeLanes.open(load_settings(None, {}, given))
        assert lanes is not None
        with pytest.raises(Unavailable, match="did not answer in time"):
            await asyncio.wait_for(lanes.forward.call("Filecoin.EthCall", [{}, "latest"]), PROMPT)
        await lanes.close()


# --- a whole follower ------------------------------------------------------------------------------------


async def test_a_lazy_follower_behind_a_slow_node_stays_ready_and_reads_state(tmp_path: Path) -> None:
    async with slow_node() as (node, behind), aiohttp.ClientSession() as session:
        port = free_port()
        url = f"http://127.0.0.1:{port}"

        async def ask(method: str, *params: Any) -> Any:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            async with session.post(f"{url}/rpc/v1", json=body) as answer:
                return orjson.loads(await answer.read())

        arguments = ["--node", node.base, "--state", "lazy", "--store", f"lmdb://{tmp_path}/store",
                     "--network-file", str(recorded("devnet/network.json")), "--backfill-epochs", "0",
                     "--listen", f"127.0.0.1:{port}", "--forward-wait-seconds", "1",
                     "--ready-head-age-epochs", "0"]  # fmt: skip
        with follower_process("up", *arguments):
            async with asyncio.timeout(120):
                await _until(lambda: _has_result(ask))
                calls = [asyncio.create_task(ask("eth_call", {"to": f"0x{n:040x}"}, "latest")) for n in range(1, 17)]
                while behind.asked < 16:
                    await asyncio.sleep(0.02)
                began = time.monotonic()
                state = await ask("Filecoin.StateReadState", "f04", [])
                assert state["result"]["Code"]
                async with session.get(f"{url}/readyz?verbose") as ready:
                    assert ready.status == 200, await ready.text()
                assert time.monotonic() - began < PROMPT
                refused = await ask("eth_call", {"to": "0x" + "00" * 20}, "latest")
                assert refused["error"]["code"] == UNAVAILABLE
                assert "busy" in refused["error"]["message"]
                behind.release.set()
                assert [answer["result"] for answer in await asyncio.gather(*calls)] == ["0x"] * 16


async def _has_result(ask: Callable[..., Awaitable[Any]]) -> bool:
    try:
        return "result" in await ask("Filecoin.ChainHead")
    except aiohttp.ClientError:
        return False


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.05)


# --- several nodes ---------------------------------------------------------------------------------------


def route_of(*clients: NodeClient, hedge: float = 0.2) -> ForwardRoute:
    return ForwardRoute([ForwardNode.of(client) for client in clients], Times(execute=600, next_node=600, hedge=hedge))


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[NodeClient]:
    app = web.Application()
    app.router.add_route("*", "/rpc/v1", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = NodeClient(NodeInfo(f"127.0.0.1:{runner.addresses[0][1]}"), timeout=600)
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


async def answering(request: web.Request) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": 1, "result": "second"})


async def failing(request: web.Request) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": 1, "error": {"code": 7, "message": "the node's own"}})


async def hanging(request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_node_that_hangs_is_passed_by() -> None:
    async with served(hanging) as first, served(answering) as second:
        route = route_of(first, second, hedge=0.05)
        assert await asyncio.wait_for(route.call("Filecoin.EthCall", []), PROMPT) == "second"


async def test_a_node_that_is_down_is_passed_by_at_once() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        down = NodeClient(NodeInfo(f"127.0.0.1:{probe.getsockname()[1]}"))
    async with served(answering) as second:
        route = route_of(down, second, hedge=0)
        assert await asyncio.wait_for(route.call("Filecoin.EthCall", []), PROMPT) == "second"
    await down.close()


async def test_a_nodes_own_error_is_not_asked_again() -> None:
    async with served(failing) as first, served(answering) as second:
        with pytest.raises(CallFailed, match="the node's own"):
            await route_of(first, second).call("Filecoin.EthCall", [])
