"""What a pool of workers does, loses and costs, on a real Redis (it must be installed) and with real processes.

python -m benches.pool.measure [PART ...] [--tipsets N] [--fills N] [--heights N] [--rows N]

speed     a walk over a store of 20 ms a read: one worker, then eight; how many times faster
kill      kill -9 of three of eight workers in the middle: what is missing, what is double, how long it takes
empty     Redis is emptied in the middle
watch     how long new tipsets wait while fills queue
enqueue   how long it takes to enqueue a range, an epoch a job
find      how long it takes to look through heights x 10 tasks
memory    what one worker takes in a walk over three times as many tipsets, without a delay
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from benches.pool.far_store import open_far
from blockstore.cid import cid_of
from blockstore.lmdb.store import LmdbStore
from blockstore.store import HEIGHTS, Batch, HeadEntry, Store, TipsetRef
from chain.index.chain_index import height_row
from leader_bridge.pool.gaps import find_gaps
from leader_bridge.pool.job import FILL, SHARES, WALK, WATCH, Job, slots_of
from leader_bridge.pool.redis_engine import RedisEngine
from leader_bridge.pool.reports import Report, Status, reports_of, save_reports
from leader_bridge.pool.tasks import DEFAULT, bound_tasks
from leader_bridge.pool.tasks.task import TaskContext
from leader_bridge.pool.wanted import Wanted, walk
from leader_bridge.pool.worker import Worker
from tests.pool.chain import pool_chain
from tests.pool.redis_server import RedisServer, redis_server
from tests.support.paths import ROOT

PARTS = ("speed", "kill", "empty", "watch", "enqueue", "find", "memory")
DELAY = 0.02


@contextlib.contextmanager
def workers(store: Path, redis: RedisServer, count: int, *options: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that work, all ready."""
    command = [sys.executable, "-m", "benches.pool.far_store", str(store), redis.url, *options]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        for one in running:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        yield running
    finally:
        for one in running:
            one.terminate()
        for one in running:
            one.wait()
            assert one.stdout is not None
            one.stdout.close()


async def make(path: Path, tipsets: int) -> None:
    """A store with a chain of so many tipsets, and one on top."""
    store = await LmdbStore.open(path, map_size=4 << 30, bulk=True)
    await pool_chain(store, tipsets)
    await store.close()


async def until_done(path: Path, high: int, began: float) -> float:
    """Wait until no gap is left; the seconds that took."""
    store = await LmdbStore.open(path, readonly=True)
    try:
        while await find_gaps(store, 0, high, DEFAULT):
            await asyncio.sleep(0.25)
        return time.monotonic() - began
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def enqueued(path: Path, redis: RedisServer, tipsets: int, job_seconds: float = 60.0) -> AsyncIterator[None]:
    """A walk over the whole chain, enqueued."""
    store = await LmdbStore.open(path, map_size=4 << 30)
    engine = RedisEngine(redis.url, job_seconds=job_seconds)
    await walk(store, engine, Wanted(0, tipsets - 1, DEFAULT, WALK))
    try:
        yield
    finally:
        await engine.close()
        await store.close()


async def walked(folder: Path, redis: RedisServer, tipsets: int, count: int) -> float:
    """Seconds that `count` workers take for a walk."""
    path = folder / f"walk-{count}"
    await make(path, tipsets)
    with workers(path, redis, count):
        began = time.monotonic()
        async with enqueued(path, redis, tipsets):
            return await until_done(path, tipsets - 1, began)


async def speed(folder: Path, redis: RedisServer, args: argparse.Namespace) -> None:
    one = await walked(folder, redis, args.tipsets, 1)
    eight = await walked(folder, redis, args.tipsets, 8)
    print(
        f"speed: {args.tipsets} tipsets at {DELAY * 1000:.0f} ms a read: 1 worker {one:.1f} s, 8 workers {eight:.1f} s,"
    )
    print(f"       {one / eight:.1f} times", flush=True)


async def count_reports(path: Path, high: int) -> tuple[int, int, int]:
    """(gaps, successes, successes that are double)."""
    store = await LmdbStore.open(path, readonly=True)
    gaps = await find_gaps(store, 0, high, DEFAULT)
    done = [(one.height, one.task) async for one in reports_of(store, 0, high) if one.status.is_done]
    await store.close()
    return len(gaps), len(done), len(done) - len(set(done))


async def kill(folder: Path, redis: RedisServer, args: argparse.Namespace) -> None:
    path = folder / "kill"
    await make(path, args.tipsets)
    job_seconds = 3.0
    window = job_seconds * 5 * 1.5
    # the search for gaps does not help here: what was lost comes back by the queue alone
    options = ("--job-seconds", str(job_seconds), "--find-seconds", "100000")
    with workers(path, redis, 8, *options) as running:
        began = time.monotonic()
        async with enqueued(path, redis, args.tipsets, job_seconds):
            await asyncio.sleep(args.tipsets / 400)
            for one in running[:3]:
                one.kill()
            killed = time.monotonic()
            took = await until_done(path, args.tipsets - 1, began)
    missing, done, double = await count_reports(path, args.tipsets - 1)
    after = took - (killed - began)
    print(f"kill: 3 of 8 killed after {killed - began:.1f} s; done {after:.1f} s later (window {window:.1f} s):")
    print(f"      {missing} missing, {double} double of {done} reports", flush=True)


async def empty(folder: Path, redis: RedisServer, args: argparse.Namespace) -> None:
    path = folder / "empty"
    await make(path, args.tipsets)
    with workers(path, redis, 8, "--find-seconds", "2", "--queues", "walk,fill", "--concurrency", "16"):
        began = time.monotonic()
        async with enqueued(path, redis, args.tipsets):
            await asyncio.sleep(args.tipsets / 400)
            left = redis.ask("XLEN", "follower:pool:walk").decode().strip(":\r\n")
            redis.empty()
            took = await until_done(path, args.tipsets - 1, began)
    missing, done, double = await count_reports(path, args.tipsets - 1)
    print(f"empty: Redis emptied with {left} jobs in it; done after {took:.1f} s in all:")
    print(f"       {missing} missing, {double} double of {done} reports", flush=True)


async def watch(folder: Path, redis: RedisServer, args: argparse.Namespace) -> None:
    path = folder / "watch"
    await make(path, 200)
    store = await open_far(path, DELAY)
    engine = RedisEngine(redis.url)
    context = TaskContext(store)
    worker = Worker(context, bound_tasks(context), "bench")
    put_at: dict[str, float] = {}
    waits: list[float] = []
    fills = 0

    async def handle(job: Job, tries: int):  # type: ignore[no-untyped-def]
        nonlocal fills
        if job.queue == WATCH:
            waits.append(time.monotonic() - put_at[job.id])
        else:
            fills += 1
        return await worker.handle(job, tries)

    # different jobs over the same epochs: each set of tasks is another one
    jobs = [Job(FILL, number % 190, number % 190, (*DEFAULT, f"none{number}")) for number in range(args.fills)]
    for at in range(0, len(jobs), 500):
        await engine.put(jobs[at : at + 500])
    stop = asyncio.Event()
    running = asyncio.create_task(engine.run(handle, slots_of(tuple(SHARES), 10), stop))
    await asyncio.sleep(1)
    for number in range(args.heads):
        job = Job(WATCH, number % 190, number % 190, ("messages", f"head{number}"))
        put_at[job.id] = time.monotonic()
        await engine.put([job])
        await asyncio.sleep(0.1)
    async with asyncio.timeout(60):
        while len(waits) < args.heads:
            await asyncio.sleep(0.1)
    left = (await engine.waiting())[FILL]
    stop.set()
    await running
    await engine.close()
    await store.close()
    redis.empty()
    p95 = statistics.quantiles(waits, n=20)[-1]
    print(f"watch: {args.heads} tipsets while {args.fills:,} fills queue ({fills:,} done, {left.waiting:,} left):")
    print(f"       wait p50 {statistics.median(waits) * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms, max {max(waits):.2f} s")
    sys.stdout.flush()


async def enqueue(folder: Path, redis: RedisServer, args: argparse.Namespace) -> None:
    store = await LmdbStore.open(folder / "enqueue", map_size=1 << 30)
    engine = RedisEngine(redis.url)
    for span in (1, 10):
        began = time.monotonic()
        new = await walk(store, engine, Wanted(0, args.heights - 1, DEFAULT, WALK), span=span)
        took = time.monotonic() - began
        print(f"enqueue: {args.heights:,} heights, {span} a job: {new:,} jobs in {took:.1f} s", flush=True)
        redis.empty()
    await engine.close()
    await store.close()


async def synthetic(store: Store, heights: int, tasks: list[str], gaps: set[int]) -> None:
    """HEIGHTS rows and reports of made-up tipsets; those of `gaps` lack the last task."""
    top = heights - 1
    for low in range(0, heights, 1000):
        batch, reports = Batch(), []
        for height in range(low, min(low + 1000, heights)):
            cid = cid_of(height.to_bytes(8, "big"))
            partition, prefix = height_row(height)
            batch.put(HEIGHTS, partition, prefix + cid, bytes(cid))
            told = tasks[:-1] if height in gaps else tasks
            reports += [Report(height, bytes(cid[-32:]), task, Status.OK, "bench", height, height + 1) for task in told]
        await store.write(batch)
        await save_reports(store, reports)
    ref = TipsetRef(top, bytes(cid_of(top.to_bytes(8, "big"))))
    term = await store.new_term("bench")
    await store.append_head(HeadEntry(1, term, (), (ref,), ref))


async def find(folder: Path, redis: RedisServer, args: argparse.Namespace) -> None:
    store = await LmdbStore.open(folder / "find", map_size=8 << 30, bulk=True)
    tasks = [f"task{number}" for number in range(10)]
    gaps = set(random.Random(1).sample(range(args.rows), 50))
    await synthetic(store, args.rows, tasks, gaps)
    began, cpu = time.monotonic(), time.process_time()
    found = await find_gaps(store, 0, args.rows - 1, tasks)
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    assert {height for height, _ in found} == gaps
    print(
        f"find: {args.rows:,} heights x {len(tasks)} tasks in {took:.2f} s ({cpu:.2f} s of CPU), {len(found)} gaps",
        flush=True,
    )
    await store.close()


async def gaps_left(path: Path, high: int) -> int:
    """Epochs that lack something."""
    store = await LmdbStore.open(path, readonly=True)
    try:
        return len(await find_gaps(store, 0, high, DEFAULT))
    finally:
        await store.close()


def own_memory_mb(process: int) -> float:
    """Memory that a process has of its own: pages of the store's file are not counted."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise ValueError("the kernel does not tell RssAnon")


async def memory(folder: Path, redis: RedisServer, args: argparse.Namespace) -> None:
    path, tipsets = folder / "memory", 3 * args.tipsets
    await make(path, tipsets)
    with workers(path, redis, 1, "--delay", "0") as (worker,):
        print(f"memory: {tipsets} tipsets; MB after each tenth:", end="", flush=True)
        async with enqueued(path, redis, tipsets):
            tenth = 1
            while tenth <= 10:
                if tipsets - await gaps_left(path, tipsets - 1) >= tipsets * tenth // 10:
                    print(f" {own_memory_mb(worker.pid):.0f}", end="", flush=True)
                    tenth += 1
                else:
                    await asyncio.sleep(0.2)
    print()


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--tipsets", type=int, default=2880)
    parser.add_argument("--fills", type=int, default=50_000)
    parser.add_argument("--heads", type=int, default=200)
    parser.add_argument("--heights", type=int, default=80_000)
    parser.add_argument("--rows", type=int, default=100_000)
    args = parser.parse_args()
    for name in args.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as redis:
            asyncio.run(globals()[name](Path(folder), redis, args))


if __name__ == "__main__":
    main()
