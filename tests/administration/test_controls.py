"""What an administrator can do in one process, and in several at once."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cachetools import LRUCache
from jsonrpcserver import Error, Result, Success

from blockstore.tier.disk import DiskTier
from chain.ipld.tree_nodes import NodeCache
from follower.administration.bridge import BridgeControl
from follower.administration.endpoint import check_endpoint
from follower.administration.group import OtherProcess, OwnProcess, group_methods
from follower.administration.worker import WorkerControl
from follower.commands.admin import ask as admin_ask
from follower.commands.command import DONE
from follower.settings import CannotRun, load_settings
from rpc.errors import INVALID_PARAMS, METHOD_NOT_FOUND
from rpc.server.admin import AdminSite, dispatch, guarded
from rpc.server.server import serve
from tests.forwarding.nodes import fleet
from tests.support.http_raw import post
from tests.support.wire_methods import make_registry
from tests.support.wire_node import services
from tests.support.wire_server import ECHO, call, soon, until


@asynccontextmanager
async def worker(**options: Any) -> AsyncIterator[tuple[WorkerControl, int]]:
    server = await serve(services(), "127.0.0.1", 0, registry=make_registry())
    control = WorkerControl(server, **options)
    try:
        yield control, server.port
    finally:
        control.close()
        await server.stop(1)


async def ask(control: WorkerControl | BridgeControl, method: str, *params: Any) -> Any:
    answer = json.loads(await dispatch(control.methods, call(f"admin.{method}", *params)))
    return answer["error"] if "error" in answer else answer["result"]


async def test_status() -> None:
    async with worker() as (control, port):
        told = await ask(control, "status")
        assert (told["role"], told["listen"], told["head"]) == (
            "follower", f"127.0.0.1:{port}", {"seq": 1, "height": 1108},
        )  # fmt: skip
        assert (told["draining"], told["in_flight"]) == (False, 0)
        assert "nodes" not in told


async def test_drain_and_resume() -> None:
    stopped = asyncio.Event()
    async with worker(stop=stopped.set) as (control, port):
        assert (await soon(post(port, ECHO % (1, 1)))).status == 200
        assert await ask(control, "drain") == {"draining": True, "stops": False}
        assert (await ask(control, "status"))["draining"] is True
        answer = await soon(post(port, ECHO % (1, 1)))
        assert (answer.status, answer.headers.get("connection")) == (200, "close")
        assert await ask(control, "resume") == {"draining": False, "stops": False}
        answer = await soon(post(port, ECHO % (1, 1)))
        assert answer.headers.get("connection") is None
        for bad in (-1, "x", True, 1e9):
            assert (await ask(control, "drain", bad))["code"] == INVALID_PARAMS
        assert await ask(control, "drain", 3600) == {"draining": True, "stops": True}
        await ask(control, "resume")
        assert not stopped.is_set()
        await ask(control, "drain", 0)
        await soon(stopped.wait())


async def test_a_log_level_lasts_for_a_while() -> None:
    logger = logging.getLogger("follower.test_of_admin")
    logger.setLevel(logging.NOTSET)
    async with worker() as (control, _):
        assert (await ask(control, "log_level", logger.name, "DEBUG", 3600))["level"] == "DEBUG"
        assert (await ask(control, "log_level", logger.name, "ERROR", 3600))["level"] == "ERROR"
        assert (await ask(control, "status"))["log_levels"] == {logger.name: "ERROR"}
        await ask(control, "log_level", logger.name, "ERROR", 0)
        assert logger.level == logging.NOTSET
        await ask(control, "log_level", logger.name, "DEBUG", 0.05)
        await until(lambda: logger.level == logging.NOTSET)
        for bad in (("x", "LOUD", 1), (5, "DEBUG", 1), ("x", "DEBUG", -1), ("x", "DEBUG", 1e9)):
            assert (await ask(control, "log_level", *bad))["code"] == INVALID_PARAMS
        for number in range(64):
            await ask(control, "log_level", f"follower.test_of_admin.{number}", "ERROR", 3600)
        assert (await ask(control, "log_level", logger.name, "DEBUG", 60))["code"] == INVALID_PARAMS
    assert logging.getLogger("follower.test_of_admin.5").level == logging.NOTSET, "the process ends"


async def test_a_cordoned_node_gets_no_calls() -> None:
    async with fleet(count=2) as nodes:
        first, second = nodes.route.nodes
        server = await serve(nodes.dispatcher.services, "127.0.0.1", 0, dispatcher=nodes.dispatcher)
        control = WorkerControl(server, route=nodes.route)
        try:
            assert await ask(control, "cordon", first.name) == {"node": first.name, "cordoned": True}
            for number in range(20):
                await nodes.read(number)
            assert first.calls == 0
            assert second.calls > 0
            assert not nodes.failed
            told = {node["name"]: node["cordoned"] for node in (await ask(control, "status"))["nodes"]}
            assert told == {first.name: True, second.name: False}
            await ask(control, "uncordon", first.name)
            await ask(control, "cordon", second.name)
            await nodes.read(100)
            assert first.calls > 0
            error = await ask(control, "cordon", "elsewhere:1")
            assert error["code"] == INVALID_PARAMS
            assert first.name in error["data"]
        finally:
            control.close()
            await server.stop(0)


async def test_caches_are_dropped(tmp_path: Path) -> None:
    async with worker() as (control, _):
        dispatcher = control._server.dispatcher
        assert dispatcher.answers is not None
        objects = dispatcher.services.objects
        objects._cache.put(b"x", b"y" * 100)
        nodes, decoded = NodeCache(1 << 20), LRUCache[str, str](10)
        nodes.put(b"n", "node", 100)
        decoded["k"] = "v"
        dispatcher.services.caches |= {"node_cache": nodes, "some_decoded": decoded}
        assert (await ask(control, "drop_cache", "objects"))["dropped_bytes"]["objects"] > 0
        assert objects.cached_bytes == 0
        assert nodes.used_bytes
        await ask(control, "drop_cache", "decoded")
        assert (nodes.used_bytes, nodes.get(b"n"), len(decoded)) == (0, None, 0)
        assert "answers" in (await ask(control, "drop_cache", "all"))["dropped_bytes"]
        error = await ask(control, "drop_cache", "disk")
        assert (error["code"], "answers" in error["data"]) == (INVALID_PARAMS, True)
    disk = DiskTier(tmp_path, 32 << 20)
    from blockstore.cid import cid_of

    held = {cid_of(bytes([number])).multihash: bytes([number]) for number in range(9)}
    disk.write(held)
    assert disk.count() == 9
    disk.drop_all()
    assert disk.count() == 0
    disk.write(held)
    assert disk.get_many(list(held)) == list(held.values())
    disk.close()


async def test_a_bridge_is_drained_and_follows_again() -> None:
    following, followed = asyncio.Event(), []

    async def follow(until: asyncio.Event) -> None:
        followed.append(1)
        following.set()
        await until.wait()
        following.clear()

    from blockstore.bridge_rows import BridgeRow

    control, stop = BridgeControl(lambda: BridgeRow("one", following.is_set(), term=3)), asyncio.Event()
    running = asyncio.create_task(control.follow_while_wanted(follow, stop))
    await soon(following.wait())
    assert (await ask(control, "status"))["leads"] is True
    await ask(control, "drain")
    await until(lambda: not following.is_set())
    told = await ask(control, "status")
    assert (told["draining"], told["leads"], told["term"]) == (True, False, 3)
    assert not running.done()
    await ask(control, "resume")
    await soon(following.wait())
    assert len(followed) == 2
    await ask(control, "drain")
    await until(lambda: not following.is_set())
    stop.set()
    await soon(running)
    assert len(followed) == 2


async def test_a_bridge_that_fails_ends() -> None:
    from blockstore.bridge_rows import BridgeRow

    async def follow(until: asyncio.Event) -> None:
        raise OSError("gone")

    control = BridgeControl(lambda: BridgeRow("one", False))
    with pytest.raises(OSError, match="gone"):
        await soon(control.follow_while_wanted(follow, asyncio.Event()))


async def test_all_processes_are_asked(tmp_path: Path) -> None:
    def methods(name: str) -> dict[str, Any]:
        async def status() -> Result:
            return Success({"name": name})

        async def cordon(node: str) -> Result:
            return Success({"node": node}) if name == "worker 1" else Error(INVALID_PARAMS, "Invalid params", "no")

        found = {"admin.status": guarded(status)}
        return found if name == "bridge" else found | {"admin.cordon": guarded(cordon)}

    sites = []
    members: list[OwnProcess | OtherProcess] = [OwnProcess("bridge", methods("bridge"))]
    for name in ("worker 1", "worker 2"):
        # each child serves a group of its own
        site = AdminSite(group_methods([OwnProcess("follower", methods(name))]))
        await site.listen_unix(tmp_path / f"{name}.sock")
        sites.append(site)
        members.append(OtherProcess(name, tmp_path / f"{name}.sock"))
    members.append(OtherProcess("worker 3", tmp_path / "nobody.sock"))

    async def group(method: str, **params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": f"admin.{method}", "params": params}).encode()
        return json.loads(await dispatch(group_methods(members), body))

    found = (await group("status"))["result"]
    assert {name: answer["result"]["name"] for name, answer in found.items() if "result" in answer} == {
        "bridge": "bridge", "worker 1": "worker 1", "worker 2": "worker 2",
    }  # fmt: skip
    assert found["worker 3"]["error"]["message"] == "the process does not answer"
    assert (await group("status", process="worker 2"))["result"] == {"worker 2": {"result": {"name": "worker 2"}}}
    assert "worker 1" in (await group("status", process="nobody"))["error"]["data"]
    found = (await group("cordon", node="x"))["result"]
    assert found["worker 1"] == {"result": {"node": "x"}}
    assert found["worker 2"]["error"]["data"] == "no"
    assert "bridge" not in found, "it has no such method"
    # what everybody refuses is refused
    members[:] = members[2:3]
    assert (await group("cordon", node="x"))["error"]["code"] == INVALID_PARAMS
    members[:] = [OwnProcess("bridge", methods("bridge"))]
    assert (await group("cordon", node="x"))["error"]["code"] == METHOD_NOT_FOUND
    for site in sites:
        await site.close()


async def test_an_answer_that_comes_in_pieces(tmp_path: Path) -> None:
    """A long one does: over TLS, or where a process tells of many nodes."""
    whole = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"follower": {"result": {"role": "follower"}}}}).encode()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(len(whole)), "Content-Type": "application/json"})
        await answer.prepare(request)
        for part in (whole[:20], whole[20:]):
            await answer.write(part)
            # whoever takes the first part for the whole has it by then
            await asyncio.sleep(0.1)
        return answer

    served = web.Server(handle)
    path = tmp_path / "slow.sock"
    listening = await asyncio.get_running_loop().create_unix_server(served, str(path))
    try:
        assert await OtherProcess("worker 1", path).call(b"{}") == {"result": {"role": "follower"}}
        arguments = argparse.Namespace(bridge=False, process="", token_file=None, json=True)
        settings = load_settings(None, {}, {"admin_listen": f"unix:{path}"}, "admin status")
        assert await asyncio.to_thread(admin_ask.ask, settings, arguments, "status") == DONE
    finally:
        listening.close()
        await served.shutdown(1)


def test_where_it_may_be_served(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef")

    def check(listen: str, **more: Any) -> None:
        check_endpoint(load_settings(environment={}, flags={"admin_listen": listen, **more}), "admin_listen")

    for listen in ("127.0.0.1:1", "localhost:1", "[::1]:1"):
        with pytest.raises(CannotRun, match="jwt_secret_file"):
            check(listen)
        check(listen, admin_trust_loopback=True)
        check(listen, jwt_secret_file=str(secret))
    check("unix:/run/x.sock")
    check("")
    tls = {"admin_tls_cert": "cert.pem", "admin_tls_key": "key.pem"}
    for listen in ("0.0.0.0:1", "10.0.0.5:1", "[::]:1", "follower.internal:1"):
        for more in ({}, {"admin_trust_loopback": True}, {"jwt_secret_file": str(secret)}, tls):
            with pytest.raises(CannotRun, match="other machines can reach"):
                check(listen, **more)
        check(listen, jwt_secret_file=str(secret), **tls)
