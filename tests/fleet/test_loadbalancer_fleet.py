"""Through real HAProxy and nginx to real followers that come, stop and are killed: no request fails."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from blockstore.store import Store
from loadbalancer.fleet import read_fleet
from tests.fleet.fleet_processes import Follower, Load, small_store
from tests.support.proxies import KINDS, Proxy


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await small_store(tmp_path / "store")
    yield made
    await made.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def watched(store: Path, proxy: Proxy) -> AsyncIterator[None]:
    """`follower loadbalancer KIND --watch` over the store in a folder."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "follower.cli", "loadbalancer", proxy.kind, "--watch", "--interval", "0.2",
        "--store", f"lmdb://{store}", "--output", proxy.file, "--bind", f"127.0.0.1:{proxy.port}",
        "--runtime-dir", proxy.folder, "--master-socket", proxy.folder / "master.sock",
    )  # fmt: skip
    try:
        yield
        assert process.returncode is None
    finally:
        process.terminate()
        assert await process.wait() == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_followers_are_killed_stopped_and_added_and_no_request_fails(
    kind: str, store: Store, tmp_path: Path
) -> None:
    proxy = Proxy(kind)
    folder = tmp_path / "store"
    # time for a look of the watcher, a reload, and HAProxy's agent check each second
    fleet = [Follower(folder, "--drain-notice-seconds", "2") for _ in range(3)]
    try:
        await asyncio.gather(*(follower.serving() for follower in fleet))
        async with asyncio.timeout(120):
            while len(await read_fleet(store)) < 3:
                await asyncio.sleep(0.02)
        rows = await read_fleet(store)
        proxy.file.write_text(proxy.balancer.config([member for member, _ in rows.values()], ()))
        await proxy.balancer.check(proxy.file)
        proxy.start()

        def named(follower: Follower) -> bool:
            text = proxy.file.read_text()
            return f" {follower.address}" in text and f"{follower.address} down" not in text

        async with watched(tmp_path / "store", proxy), Load(proxy.url) as load:
            await load.goes_on()
            fleet[0].kill()
            await load.goes_on()
            await until(lambda: not named(fleet[0]))
            await load.goes_on()

            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"ws://{fleet[1].address}/rpc/v1") as ws,
            ):
                fleet[1].stop()
                added = Follower(folder)
                fleet.append(added)
                message = await ws.receive(120)
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
            assert await fleet[1].ended() == 0, fleet[1].log()
            await until(lambda: named(added) and not named(fleet[1]))
            await load.goes_on()
        assert load.faults == {}, proxy.log()
        assert load.answered > 1000
        # who was killed has a row still or has not; who stopped in order has none
        assert fleet[1].address not in await read_fleet(store)

        # the added one alone answers what comes now
        fleet[2].kill()
        async with Load(proxy.url, keep_alive=False) as load:
            await load.goes_on(50)
        assert load.faults == {}
    finally:
        for follower in fleet:
            follower.close()
        proxy.stop()


async def test_workers_of_one_address_are_one_member_and_drain_together(store: Store, tmp_path: Path) -> None:
    follower = Follower(tmp_path / "store", "--workers", "2", "--drain-notice-seconds", "200", "--drain-seconds", "210")
    try:
        await follower.serving()
        instances: set[str] = set()
        async with asyncio.timeout(120):
            while len(instances) < 2:
                rows = await read_fleet(store)
                assert set(rows) <= {follower.address}
                instances |= {member.instance for member, _ in rows.values()}
                await asyncio.sleep(0.01)

        async def agent() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", follower.agent_port)
            with contextlib.closing(writer):
                return await reader.read()

        assert await agent() == b"up ready 100%\n"
        async with Load(f"http://{follower.address}/rpc/v1", clients=2, keep_alive=False) as load:
            await load.goes_on(20)
            follower.stop()
            async with asyncio.timeout(120):
                while await agent() != b"drain\n":
                    await asyncio.sleep(0.01)
            # both say so, and both still answer
            for _ in range(4):
                assert await agent() == b"drain\n"
            await load.goes_on(20)
            assert load.faults == {}
        # the second time it does not wait for balancers
        follower.stop()
        async with asyncio.timeout(60):
            assert await follower.ended() == 0, follower.log()
        assert await read_fleet(store) == {}
    finally:
        follower.close()
