"""What a dead worker held is taken over within its life, and one that only stood still reports nothing twice.

The worker is a real process that stops itself in the middle of a job; a job's limit is an hour, so nothing comes back
by that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blockstore.lmdb.store import LmdbStore
from leader_bridge import metrics
from leader_bridge.pool.gaps import find_gaps
from leader_bridge.pool.job import WALK, Job
from leader_bridge.pool.redis_engine import RedisEngine
from leader_bridge.pool.reports import Report, reports_of
from leader_bridge.pool.tasks import DEFAULT
from tests.pool.chain import pool_chain
from tests.pool.redis_server import RedisServer
from tests.pool.stopping_worker import JOB_SECONDS, worker_named
from tests.support.paths import ROOT

LIFE_SECONDS = 1.0
HELD = Job(WALK, 0, 4, DEFAULT)
LATER = Job(WALK, 5, 9, DEFAULT)


class Scene:
    """A store with a chain, a queue with one job, and a worker that has stopped in the middle of it."""

    def __init__(self, path: Path, store: LmdbStore, redis: RedisServer) -> None:
        self.store = store
        self.redis = redis
        self.engine = RedisEngine(redis.url, job_seconds=JOB_SECONDS, life_seconds=LIFE_SECONDS)
        command = [sys.executable, "-m", "tests.pool.stopping_worker", str(path), redis.url, str(LIFE_SECONDS)]
        self.stopped = subprocess.Popen(command, cwd=ROOT)

    async def until_stopped(self) -> None:
        how = await asyncio.to_thread(os.waitid, os.P_PID, self.stopped.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert how is not None
        assert how.si_code == os.CLD_STOPPED

    async def until_done(self, job: Job) -> None:
        async with asyncio.timeout(120):
            while await find_gaps(self.store, job.low, job.high, DEFAULT):
                await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def survivor(self) -> AsyncIterator[None]:
        """Another worker, while the block runs; its jobs are finished then."""
        stop = asyncio.Event()
        handle = worker_named("survivor", self.store, self.engine).handle
        running = asyncio.create_task(self.engine.run(handle, {WALK: 1}, stop))
        try:
            yield
        finally:
            stop.set()
            await running

    async def reports(self) -> list[Report]:
        return [one async for one in reports_of(self.store, 0, 100)]


@pytest.fixture
async def scene(tmp_path: Path, redis: RedisServer) -> AsyncIterator[Scene]:
    store = await LmdbStore.open(tmp_path / "store", map_size=1 << 30)
    await pool_chain(store, 12)
    made = Scene(tmp_path / "store", store, redis)
    try:
        await made.engine.put([HELD])
        await made.until_stopped()
        yield made
    finally:
        made.stopped.kill()
        made.stopped.wait()
        await made.engine.close()
        await store.close()


async def test_a_killed_worker_is_replaced_long_before_the_limit_of_its_job(scene: Scene) -> None:
    scene.stopped.kill()
    scene.stopped.wait()
    before = metrics.POOL_TAKEN_OVER.labels(WALK)._value.get()
    async with scene.survivor():
        await scene.until_done(HELD)
    reports = await scene.reports()
    assert len(reports) == 5 * len(DEFAULT)
    assert {one.reporter for one in reports} == {"survivor"}
    # nothing is left of the job, and monitoring hears of it
    assert scene.redis.ask("XLEN", "follower:pool:walk") == b":0\r\n"
    assert metrics.POOL_TAKEN_OVER.labels(WALK)._value.get() == before + 1


async def test_one_that_stood_still_reports_nothing_of_what_another_one_did(scene: Scene) -> None:
    async with scene.survivor():
        await scene.until_done(HELD)
    before = await scene.reports()
    assert {one.reporter for one in before} == {"survivor"}
    scene.stopped.send_signal(signal.SIGCONT)
    # it works on, and its reports of the next job tell that it is through with the first one
    await scene.engine.put([LATER])
    await scene.until_done(LATER)
    after = await scene.reports()
    assert [one for one in after if one.height <= HELD.high] == before
    assert {one.reporter for one in after if one.height > HELD.high} == {"stopped"}


async def test_one_that_stood_still_goes_on_where_nobody_took_its_job(scene: Scene) -> None:
    async with asyncio.timeout(120):
        while scene.redis.ask("KEYS", "follower:pool:alive:*") != b"*0\r\n":
            await asyncio.sleep(0.05)
    scene.stopped.send_signal(signal.SIGCONT)
    await scene.until_done(HELD)
    reports = await scene.reports()
    assert len(reports) == 5 * len(DEFAULT)
    assert {one.reporter for one in reports} == {"stopped"}
    async with asyncio.timeout(120):
        while scene.redis.ask("XLEN", "follower:pool:walk") != b":0\r\n":
            await asyncio.sleep(0.05)


async def test_readers_that_died_are_forgotten(scene: Scene) -> None:
    scene.stopped.kill()
    scene.stopped.wait()
    async with scene.survivor():
        await scene.until_done(HELD)
        async with asyncio.timeout(120):
            # one reader is left: the survivor's
            while not scene.redis.ask("XINFO", "CONSUMERS", "follower:pool:walk", "workers").startswith(b"*1\r\n"):
                await asyncio.sleep(0.05)
