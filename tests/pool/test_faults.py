"""Workers that are killed and a queue that is emptied in the middle of a walk: real processes, a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockstore.lmdb.store import LmdbStore
from leader_bridge.pool.gaps import find_gaps
from leader_bridge.pool.job import Job
from leader_bridge.pool.redis_engine import RedisEngine
from leader_bridge.pool.reports import NULL_ROUND, reports_of
from leader_bridge.pool.tasks import DEFAULT
from leader_bridge.pool.wanted import Wanted, walk
from tests.pool.chain import pool_chain
from tests.pool.redis_server import RedisServer
from tests.support.processes import FollowerProcess, follower_process

TIPSETS = 400
NULLS = range(50, 60)
WORKERS = 4
#: the shortest limit there is: what a killed worker holds comes back within seconds
JOB_SECONDS = 1.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    async def make() -> None:
        store = await LmdbStore.open(tmp_path / "store", map_size=1 << 30, bulk=True)
        await pool_chain(store, TIPSETS, nulls=NULLS)
        await store.close()

    asyncio.run(make())
    return tmp_path / "store"


@contextlib.contextmanager
def workers(path: Path, redis: RedisServer, find_seconds: float) -> Iterator[list[FollowerProcess]]:
    with contextlib.ExitStack() as stack:
        options = ("--job-seconds", str(JOB_SECONDS), "--find-seconds", str(find_seconds), "--concurrency", "4")
        yield [
            stack.enter_context(follower_process("worker", "--store", f"lmdb://{path}", "--redis", redis.url, *options))
            for _ in range(WORKERS)
        ]


async def enqueue(path: Path, redis: RedisServer) -> None:
    store = await LmdbStore.open(path, map_size=1 << 30)
    engine = RedisEngine(redis.url, job_seconds=JOB_SECONDS)
    # one epoch a job: there is a middle to be killed in, however fast the machine is
    await walk(store, engine, Wanted(0, TIPSETS - 1, DEFAULT), span=1)
    await engine.close()
    await store.close()


async def state(path: Path) -> tuple[int, int, int]:
    """(epochs that lack something, successes of tipsets, successes that are double)."""
    store = await LmdbStore.open(path, map_size=1 << 30)
    try:
        gaps = await find_gaps(store, 0, TIPSETS - 1, DEFAULT)
        reports = [one async for one in reports_of(store, 0, TIPSETS) if one.status.is_done]
        done = [(one.height, one.task) for one in reports if one.tipset != NULL_ROUND]
        return len(gaps), len(done), len(done) - len(set(done))
    finally:
        await store.close()


def wait_for_gaps(path: Path, most: int, running: list[FollowerProcess]) -> None:
    deadline = time.monotonic() + 200
    while asyncio.run(state(path))[0] > most:
        assert any(one.process.poll() is None for one in running)
        assert time.monotonic() < deadline, running[-1].output()
        time.sleep(0.02)


@pytest.mark.long
def test_of_killed_workers_nothing_is_missing_and_nothing_double(path: Path, redis: RedisServer) -> None:
    # the search for gaps has no part in it: what the killed ones held comes back by the queue alone
    with workers(path, redis, find_seconds=10_000) as running:
        asyncio.run(enqueue(path, redis))
        wait_for_gaps(path, TIPSETS - 60, running)
        for one in running[: WORKERS // 2]:
            one.process.kill()
        wait_for_gaps(path, 0, running)
    assert asyncio.run(state(path)) == (0, (TIPSETS - len(NULLS)) * len(DEFAULT), 0)


@pytest.mark.long
def test_an_emptied_queue_loses_nothing(path: Path, redis: RedisServer) -> None:
    with workers(path, redis, find_seconds=0.5) as running:
        asyncio.run(enqueue(path, redis))
        wait_for_gaps(path, TIPSETS - 60, running)
        redis.empty()
        wait_for_gaps(path, 0, running)
    assert asyncio.run(state(path)) == (0, (TIPSETS - len(NULLS)) * len(DEFAULT), 0)


@pytest.mark.long
def test_a_worker_whose_store_lags_defers_until_it_is_there(tmp_path: Path, redis: RedisServer) -> None:
    """The jobs are for epochs that the store gets later."""

    async def grow(top: int) -> None:
        nonlocal chain
        if chain is None:
            chain = await pool_chain(await LmdbStore.open(tmp_path / "store", map_size=1 << 30), top)
        else:
            await chain.line(top)

    async def run() -> tuple[int, int]:
        engine = RedisEngine(redis.url, job_seconds=JOB_SECONDS)
        await grow(10)
        assert chain is not None
        url = f"lmdb://{tmp_path / 'store'}"
        with follower_process("worker", "--store", url, "--redis", redis.url, "--job-seconds", "5") as worker:
            await engine.put([Job("fill", low, low + 4, DEFAULT) for low in range(0, 40, 5)])
            while len(await find_gaps(chain.store, 0, 9, DEFAULT)):
                assert worker.process.poll() is None, worker.output()
                await asyncio.sleep(0.05)
            before = len([one async for one in reports_of(chain.store, 11, 100)])
            await grow(41)
            while len(await find_gaps(chain.store, 0, 39, DEFAULT)):
                assert worker.process.poll() is None, worker.output()
                await asyncio.sleep(0.05)
        await engine.close()
        failed = [one async for one in reports_of(chain.store, 0, 100) if not one.status.is_done]
        await chain.store.close()
        return before, len(failed)

    chain = None
    assert asyncio.run(run()) == (0, 0)
