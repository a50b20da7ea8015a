"""The queue on a real Redis: redelivery, emptied and stopped servers, jobs that come back, chunks."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from leader_bridge.pool.engine import Again, Handle, QueueUnavailable
from leader_bridge.pool.job import FILL, WALK, WATCH, Job
from leader_bridge.pool.redis_engine import RedisEngine
from tests.pool.redis_server import RedisServer

SLOTS = {WATCH: 2, FILL: 1, WALK: 1}


def job(number: int, queue: str = WALK) -> Job:
    return Job(queue, number, number, ("events",))


class Seen:
    """Counts the jobs that it is given; `gate` closed, it holds them."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, job: Job, tries: int) -> Again | None:
        self.counts[job.low] += 1
        await self.gate.wait()
        return None

    async def until(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.counts) < count:
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def engine_at(server: RedisServer, job_seconds: float = 60) -> AsyncIterator[RedisEngine]:
    engine = RedisEngine(server.url, job_seconds=job_seconds)
    try:
        yield engine
    finally:
        await engine.close()


@contextlib.asynccontextmanager
async def working(engine: RedisEngine, handle: Handle) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(engine.run(handle, SLOTS, stop))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await running


async def drained(engine: RedisEngine) -> None:
    async with asyncio.timeout(60):
        while any(one.waiting or one.taken for one in (await engine.waiting()).values()):
            await asyncio.sleep(0.01)


async def test_each_job_is_given_out_once_and_leaves_nothing_behind(redis: RedisServer) -> None:
    seen = Seen()
    async with engine_at(redis) as engine:
        # before any worker is there
        assert await engine.put([job(number) for number in range(30)]) == 30
        assert await engine.put([job(number) for number in range(20, 40)]) == 10
        assert (await engine.waiting())[WALK].waiting == 40
        async with working(engine, seen):
            await seen.until(40)
            await drained(engine)
        assert set(seen.counts.values()) == {1}
        assert redis.ask("XLEN", "follower:pool:walk") == b":0\r\n"
        # it is done, so it may be asked for again
        assert await engine.put([job(1)]) == 1


async def test_a_job_of_a_worker_that_is_killed_goes_to_another_though_nothing_new_comes(redis: RedisServer) -> None:
    held, seen = Seen(), Seen()
    held.gate.clear()
    async with engine_at(redis, job_seconds=0.2) as dead, engine_at(redis, job_seconds=0.2) as alive:
        stop = asyncio.Event()
        killed = asyncio.create_task(dead.run(held, SLOTS, stop))
        await dead.put([job(1), job(2, WATCH)])
        await held.until(2)
        killed.cancel()
        await asyncio.gather(killed, return_exceptions=True)
        async with working(alive, seen):
            await seen.until(2)
            await drained(alive)
    assert set(seen.counts) == {1, 2}


async def test_a_job_comes_back_with_its_tries_and_a_deferred_one_at_no_cost(redis: RedisServer) -> None:
    tries_seen: dict[int, list[int]] = {1: [], 2: []}

    async def handle(job: Job, tries: int) -> Again | None:
        tries_seen[job.low].append(tries)
        done = len(tries_seen[job.low]) == 3
        return None if done else Again(0.01, is_try=job.low == 1)

    async with engine_at(redis) as engine, working(engine, handle):
        await engine.put([job(1), job(2)])
        async with asyncio.timeout(60):
            while sum(map(len, tries_seen.values())) < 6:
                await asyncio.sleep(0.01)
        await drained(engine)
    assert tries_seen == {1: [0, 1, 2], 2: [0, 0, 0]}


async def test_a_worker_that_stops_leaves_what_was_put_off_to_others(redis: RedisServer) -> None:
    async def defer(job: Job, tries: int) -> Again | None:
        seen.counts[job.low] += 1
        return Again(3600, is_try=False)

    seen = Seen()
    async with engine_at(redis) as engine, engine_at(redis) as other:
        async with working(engine, defer):
            await engine.put([job(1)])
            await seen.until(1)
        async with asyncio.timeout(60):
            while (await other.waiting())[WALK].waiting != 1:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["emptied", "stopped"])
async def test_a_server_that_is_emptied_or_started_again_is_used_again(redis: RedisServer, how: str) -> None:
    seen = Seen()
    async with engine_at(redis) as engine, working(engine, seen):
        await engine.put([job(1)])
        await seen.until(1)
        if how == "emptied":
            redis.empty()
        else:
            redis.stop()
            with pytest.raises(QueueUnavailable):
                await engine.put([job(2)])
            redis.start()
        async with asyncio.timeout(60):
            while len(seen.counts) < 2:
                with contextlib.suppress(QueueUnavailable):
                    await engine.put([job(2)])
                await asyncio.sleep(0.05)


async def test_a_class_with_much_to_do_keeps_no_other_waiting(redis: RedisServer) -> None:
    seen = Seen()
    seen.gate.clear()
    async with engine_at(redis) as engine:
        await engine.put([job(number, FILL) for number in range(500)])
        async with working(engine, seen):
            await engine.put([job(1000, WATCH), job(1001, WATCH)])
            # one fill holds its one slot, and the watch jobs have theirs
            async with asyncio.timeout(60):
                while not {1000, 1001} <= set(seen.counts):
                    await asyncio.sleep(0.01)
            assert sum(seen.counts[number] for number in range(500)) <= 1
            seen.gate.set()


async def test_what_is_no_job_is_left_out(redis: RedisServer) -> None:
    seen = Seen()
    async with engine_at(redis) as engine, working(engine, seen):
        odd = '{"task_id":"x","task_name":"job","labels":{},"args":[{"queue":"?"},0,0],"kwargs":{}}'
        for data in ("not JSON", odd):
            redis.ask("XADD", "follower:pool:walk", "*", "data", data)
        await engine.put([job(1)])
        await seen.until(1)
        await drained(engine)
    assert set(seen.counts) == {1}


async def test_one_process_at_a_time_has_its_turn(redis: RedisServer) -> None:
    async with engine_at(redis) as one, engine_at(redis) as other:
        assert await one.claim_turn("find", 60)
        assert not await other.claim_turn("find", 60)
        assert await other.claim_turn("another", 60)


async def test_the_age_of_the_oldest_job_that_waits_is_known(redis: RedisServer) -> None:
    seen = Seen()
    seen.gate.clear()
    async with engine_at(redis) as engine:
        assert (await engine.waiting())[WALK].oldest_seconds == 0
        await engine.put([job(1), job(2)])
        async with asyncio.timeout(60):
            while not (before := (await engine.waiting())[WALK].oldest_seconds):
                await asyncio.sleep(0.2)
            while (await engine.waiting())[WALK].oldest_seconds <= before:
                await asyncio.sleep(0.2)
            async with working(engine, seen):
                await seen.until(1)
                # what a worker holds waits no more
                assert (await engine.waiting())[WALK].taken >= 1
                seen.gate.set()
                await drained(engine)
        assert (await engine.waiting())[WALK].oldest_seconds == 0


async def test_a_walk_borrows_slots_that_nobody_needs_and_new_tipsets_have_theirs(redis: RedisServer) -> None:
    seen = Seen()
    seen.gate.clear()
    async with engine_at(redis) as engine:
        stop = asyncio.Event()
        running = asyncio.create_task(engine.run(seen, {WATCH: 5, FILL: 3, WALK: 2}, stop))
        await engine.put([job(number) for number in range(50)])
        # all but what the others keep: two and one
        await seen.until(7)
        await engine.put([job(number, WATCH) for number in (1000, 1001)])
        async with asyncio.timeout(60):
            while not {1000, 1001} <= set(seen.counts):
                await asyncio.sleep(0.01)
        assert sum(number < 1000 for number in seen.counts) == 7
        # no slot is lost, whatever came of a message
        redis.ask("XADD", "follower:pool:walk", "*", "data", "not JSON")
        seen.gate.set()
        await drained(engine)
        assert set(seen.counts.values()) == {1}
        seen.gate.clear()
        await engine.put([job(number) for number in range(100, 150)])
        await seen.until(52 + 7)
        stop.set()
        seen.gate.set()
        async with asyncio.timeout(60):
            await running
