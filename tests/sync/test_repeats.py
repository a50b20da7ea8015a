"""Stopped at any moment, a filling asks again for what was on its way, and for nothing else: one request a source."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.web_request import BaseRequest

from blockstore.lmdb.store import LmdbStore
from blockstore.store import META, Store
from leader_bridge.sync.checkpoint import load_checkpoint
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.run import SyncOptions, sync_store
from leader_bridge.sync.sources.peer import PeerSource
from rpc.server.server import Server
from tests.support.cassandra.stores import emptied, keyspace_url
from tests.sync.conftest import FAST, assert_whole, fill, giving, peer
from tests.sync.faults import Fault, only_first, spoil
from tests.sync.ledger import Ledger
from tests.sync.test_command import output, start

pytestmark = pytest.mark.recorded

SOME = SyncOptions(from_epoch=1000, states=20)


def quick_peer(server: Server) -> PeerSource:
    """One whose limit is known from the start: nothing waits for a second to pass."""
    source = peer(server)
    source.requests_per_second = FAST.per_second
    return source


def cut_objects(most: int) -> Fault:
    """Answers of objects by CID end early, as where a limit of size cuts them."""
    cut = only_first(most)

    async def short(request: BaseRequest, right: web.Response) -> web.Response:
        return await cut(request, right) if request.path == "/obj" else right

    return short


async def reference(devnet: Store, folder: Path, options: SyncOptions, sources: int) -> Ledger:
    """A filling that nothing stops."""
    ledger = Ledger()
    store = await LmdbStore.open(folder, bulk=True)
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(giving(devnet)) for _ in range(sources)]
        for number, (_, pages) in enumerate(servers):
            ledger.watch(number, pages)
        await fill(store, [quick_peer(server) for server, _ in servers], options)
    await store.close()
    return ledger


@pytest.mark.parametrize("most", [None, 12], ids=["whole answers", "answers that are cut off"])
async def test_a_filling_that_is_stopped_again_and_again_asks_for_nothing_that_is_stored(
    devnet: Store, tmp_path: Path, most: int | None
) -> None:
    whole = await reference(devnet, tmp_path / "whole", SOME, 3)
    requests = len(whole.entries)
    chance = random.Random(3)
    ledger = Ledger()
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(giving(devnet)) for _ in range(3)]
        for number, (_, pages) in enumerate(servers):
            if most is not None:
                spoil(pages, cut_objects(most))
            ledger.watch(number, pages)
        for _ in range(12):
            stopped = asyncio.Event()
            after = chance.randint(1, max(2, requests // 6))
            ledger.on_answer = lambda count, after=after, stopped=stopped: count >= after and stopped.set()  # type: ignore[misc]
            store = await LmdbStore.open(tmp_path / "new", bulk=True)
            pool = Pool([quick_peer(server) for server, _ in servers], in_all=100_000, per_source=10_000)
            async with pool.running():
                filling = asyncio.create_task(sync_store(store, pool, SOME))
                stop = asyncio.create_task(stopped.wait())
                await asyncio.wait({filling, stop}, return_when=asyncio.FIRST_COMPLETED)
                for _ in range(chance.randint(0, 6)):
                    await asyncio.sleep(0)
                # who is killed sends nothing while it dies
                ledger.is_off = True
                filling.cancel()
                stop.cancel()
                await asyncio.gather(filling, stop, return_exceptions=True)
            is_done = not filling.cancelled() and filling.exception() is None
            await store.close()
            ledger.is_off = False
            if is_done:
                break
            ledger.run += 1
        ledger.on_answer = None
        store = await LmdbStore.open(tmp_path / "new", bulk=True)
        await fill(store, [quick_peer(server) for server, _ in servers], SOME)
    await assert_whole(store)
    assert await load_checkpoint(store) is None
    await store.close()
    again, wrong = ledger.repeated(whole.shared())
    print(f"{ledger.run} stops: {again} objects were asked for again; {ledger.given()} given, of {whole.given()}")
    assert ledger.run >= 5
    assert wrong == set()


@pytest.fixture(params=["lmdb", "cassandra"])
async def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """A new store of each kind."""
    store: Store
    if request.param == "lmdb":
        store = await LmdbStore.open(tmp_path / "new", bulk=True)
    else:
        store = await emptied(keyspace_url("follower_sync"), delta_ms=200, epsilon_ms=50, every=True)
    yield store
    await store.close()


async def test_headers_that_wait_for_those_above_them_are_not_asked_for_again(devnet: Store, new_store: Store) -> None:
    target = new_store
    asked: list[int] = []
    is_stuck = True

    async def noted(request: BaseRequest, right: web.Response) -> web.Response:
        if request.query.get("parts") == "headers":
            if is_stuck and request.query["high"] == "1108":
                if request.transport is not None and request.transport.get_extra_info("sockname")[1] == first.port:
                    await asyncio.Event().wait()
                return web.Response(status=404)
            asked.append(int(request.query["low"]))
        return right

    async with giving(devnet) as (first, one), giving(devnet) as (second, two), giving(devnet) as (third, three):
        for pages in (one, two, three):
            spoil(pages, noted)
        # the first source says nothing to the request that all others wait for, and nobody else holds it
        sources = [quick_peer(first), quick_peer(second), quick_peer(third)]
        pool = Pool(sources, in_all=100_000, per_source=10_000)
        async with pool.running():
            filling = asyncio.create_task(sync_store(target, pool, SOME))
            while len(set(asked)) < 6:
                assert not filling.done()
                await asyncio.sleep(0.01)
            # an answer that came is stored before the next one is asked for
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)
        assert await target.scan(META, b"sync headers")
        is_stuck = False
        come, asked[:] = asked[:], []
        await fill(target, [quick_peer(first), quick_peer(second), quick_peer(third)], SOME)
    await assert_whole(target)
    assert 1100 in asked
    # the last one of each source may have been on its way; the first source is asked again when it has been silent long
    assert not set(asked) & set(come[:-3])
    assert await target.scan(META, b"sync headers") == []


@pytest.mark.long
async def test_kill_9_at_any_point_repeats_at_most_one_batch_a_source(devnet: Store, tmp_path: Path) -> None:
    options = SyncOptions()
    whole = await reference(devnet, tmp_path / "whole", options, 3)
    chance = random.Random(9)
    ledger = Ledger()
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(giving(devnet)) for _ in range(3)]
        for number, (_, pages) in enumerate(servers):
            ledger.watch(number, pages)
        sources = ",".join(f"http://127.0.0.1:{server.port}" for server, _ in servers)
        for _ in range(20):
            killed = asyncio.Event()
            after = chance.randint(1, len(whole.entries) // 10)
            ledger.on_answer = lambda count, after=after, killed=killed: count >= after and killed.set()  # type: ignore[misc]
            process = start(tmp_path, sources, "--once")
            ended = asyncio.create_task(asyncio.to_thread(process.wait))
            reached = asyncio.create_task(killed.wait())
            await asyncio.wait({ended, reached}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(chance.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
            reached.cancel()
            await ended
            await output(process)
            ledger.run += 1
            if process.returncode == 0:
                break
        kills = ledger.run
        ledger.on_answer = None
        process = start(tmp_path, sources, "--once")
        text = await output(process)
        assert process.returncode == 0, text
    store = await LmdbStore.open(tmp_path / "store")
    await assert_whole(store)
    await store.close()
    again, wrong = ledger.repeated(whole.shared())
    print(f"{kills} kills: {again} objects were asked for again; {ledger.given()} given, of {whole.given()}")
    assert wrong == set()
