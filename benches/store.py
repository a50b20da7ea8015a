"""Stores: objects/s and MB/s of batches put, closed and read, microseconds of a single read; CPU beside wall time.

    python -m benches.store [--store URL] [--objects N] [--size BYTES]

Without a URL: LMDB in a temporary directory, durable and in bulk. With `cassandra://…`: that store, and the
point reads of the two drivers side by side (its objects stay there: use a keyspace of its own).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

from blockstore.cid import multihash_of
from blockstore.lmdb.store import LmdbStore
from blockstore.open import open_store
from blockstore.store import Store

BATCH = 20_000


async def timed(label: str, work: Awaitable[object], count: int, size: int = 0) -> None:
    """Run `work` and print what `count` operations on `size` bytes each took."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rate = f"{count * size / wall / 1e6:8.0f} MB/s" if size else " " * 13
    print(f"{label:34} {count / wall:10.0f}/s {rate} {wall / count * 1e6:8.1f} us wall {cpu / count * 1e6:8.1f} us CPU")


async def measure(store: Store, count: int, size: int) -> list[bytes]:
    """Every figure of one store; returns the keys that it put."""
    rng = random.Random(1)
    half = rng.randbytes(size // 2)
    keys: list[bytes] = []
    batches = []
    for start in range(0, count, BATCH):
        # half of an object compresses: chain objects are of that kind
        objects = [rng.randbytes(size - len(half)) + half for _ in range(min(BATCH, count - start))]
        batches.append([(multihash_of(data), data) for data in objects])
        keys += [multihash for multihash, _ in batches[-1]]

    async def put() -> None:
        for batch in batches:
            await store.put_many(batch, closed=False)

    async def get() -> None:
        for key in some:
            await store.get(key)

    await timed("put_many", put(), count, size)
    batches.clear()
    some = rng.sample(keys, min(len(keys), 5_000))
    await timed("get, one by one", get(), len(some), size)
    await timed("get_many of 5,000", store.get_many(some), len(some), size)
    await timed("held_many of 5,000", store.held_many(some), len(some))
    await timed("close_many", store.close_many(keys), count)
    return keys


async def drivers(url: str, keys: list[bytes]) -> None:
    """Point reads, 64 at a time, through acsylla and through cassandra-driver (libev)."""
    from cassandra import ConsistencyLevel
    from cassandra.cluster import Cluster
    from cassandra.concurrent import execute_concurrent_with_args

    from blockstore.cassandra.address import CassandraAddress
    from blockstore.cassandra.session import AcsyllaSession

    place = CassandraAddress.parse(url)
    cql = f"SELECT d FROM {place.keyspace}.objects WHERE m = ?"
    session = await AcsyllaSession.open(place)
    await session.execute(cql, [keys[0]])

    async def with_acsylla() -> None:
        for start in range(0, len(keys), 64):
            await asyncio.gather(*(session.execute(cql, [key]) for key in keys[start : start + 64]))

    await timed("acsylla, 64 at a time", with_acsylla(), len(keys))
    await session.close()
    cluster = Cluster(list(place.hosts), port=place.port, protocol_version=4)
    other = await asyncio.to_thread(cluster.connect)
    prepared = other.prepare(cql)
    prepared.consistency_level = ConsistencyLevel.QUORUM
    reads = asyncio.to_thread(execute_concurrent_with_args, other, prepared, [(key,) for key in keys], concurrency=64)
    await timed(f"cassandra-driver ({cluster.connection_class.__name__})", reads, len(keys))
    await asyncio.to_thread(cluster.shutdown)


async def run(url: str | None, count: int, size: int) -> None:
    """All that was asked for."""
    if url is not None:
        store = await open_store(url)
        print(f"{store.url}, {count} objects of {size} bytes")
        keys = await measure(store, count, size)
        if url.startswith("cassandra:"):
            await drivers(url, keys[:10_000])
        await store.close()
        return
    for bulk in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            store = await LmdbStore.open(Path(folder) / "store", bulk=bulk)
            print(f"LMDB, {'bulk' if bulk else 'durable'}, {count} objects of {size} bytes")
            await measure(store, count, size)
            await store.close()


def main() -> None:
    """Parse the flags and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="a store URL; default: LMDB in a temporary directory")
    parser.add_argument("--objects", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=1000, help="bytes an object")
    given = parser.parse_args()
    asyncio.run(run(given.store, given.objects, given.size))


if __name__ == "__main__":
    main()
