"""A worker over a store that takes a while to read, as a process: `python -m benches.pool.far_store STORE REDIS`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockstore.lmdb.store import LmdbStore
from blockstore.store import Batch, HeadEntry, Table
from leader_bridge.pool.job import slots_of
from leader_bridge.pool.redis_engine import RedisEngine
from leader_bridge.pool.service import serve
from leader_bridge.pool.tasks import bound_tasks
from leader_bridge.pool.tasks.task import TaskContext
from leader_bridge.pool.worker import Worker


class FarStore(LmdbStore):
    """A database behind a network: an LMDB store, each read and write of which takes `delay` seconds longer.

    It does not wait for its disk: such a database has many.
    """

    delay = 0.0

    async def get(self, multihash: bytes) -> bytes | None:
        await asyncio.sleep(self.delay)
        return await super().get(multihash)

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        await asyncio.sleep(self.delay)
        return await super().get_many(multihashes)

    async def row(self, table: Table, partition: bytes, key: bytes) -> bytes | None:
        await asyncio.sleep(self.delay)
        return await super().row(table, partition, key)

    async def rows(self, table: Table, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        await asyncio.sleep(self.delay)
        return await super().rows(table, keys)

    async def scan(self, table: Table, partition: bytes, **options: Any) -> list[tuple[bytes, bytes]]:
        await asyncio.sleep(self.delay)
        return await super().scan(table, partition, **options)

    async def head(self) -> HeadEntry | None:
        await asyncio.sleep(self.delay)
        return await super().head()

    async def write(self, batch: Batch) -> None:
        await asyncio.sleep(self.delay)
        await super().write(batch)


async def open_far(path: Path, delay: float) -> FarStore:
    """The store in a folder, with each read delayed."""
    store = await FarStore.open(path, map_size=4 << 30, bulk=True)
    assert isinstance(store, FarStore)
    store.delay = delay
    return store


async def work(args: argparse.Namespace) -> None:
    """Work until SIGTERM."""
    store = await open_far(Path(args.store), args.delay)
    engine = RedisEngine(args.redis, job_seconds=args.job_seconds)
    context = TaskContext(store)
    worker = Worker(
        context,
        bound_tasks(context),
        f"bench {os.getpid()}",
        job_seconds=args.job_seconds,
        still_holds=engine.still_holds,
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    slots = slots_of(args.queues.split(","), args.concurrency)
    await serve(store, engine, worker, slots, stop, find_seconds=args.find_seconds)
    await engine.close()
    await store.close()


def main() -> None:
    """Read the arguments and work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("redis")
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--queues", default="walk")
    parser.add_argument("--job-seconds", type=float, default=60.0)
    parser.add_argument("--find-seconds", type=float, default=30.0)
    asyncio.run(work(parser.parse_args()))


if __name__ == "__main__":
    main()
