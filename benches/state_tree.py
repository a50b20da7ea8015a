"""What one look-up of an actor costs in a state tree of a million actors on LMDB, and a walk over all.

    python -m benches.state_tree [--actors 1000000] [--store DIR] [--json]

CPU time is this process' own; "cold" is a state tree that was never read by this process: nothing is cached but
the file system's pages. Objects and round trips are counted at the reader.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from blockstore.cid import Cid, cid_of
from blockstore.open import open_store
from blockstore.store import Store
from chain.address import from_id
from chain.bigint import encode_bigint
from chain.dagcbor import encode
from chain.hamt import hamt_build
from chain.nodes import NodeCache
from chain.objects import Objects
from chain.state_tree import StateTree

_BATCH = 20_000


async def fill(store: Store, actors: int) -> Cid:
    """Write a state tree of so many actors and return its root."""
    code = cid_of(b"account", 0x55)
    pending: list[tuple[bytes, bytes]] = []

    def put(cid: Cid, data: bytes) -> None:
        pending.append((cid.multihash, data))

    values: dict[bytes, Any] = {}
    for number in range(actors):
        head = cid_of(number.to_bytes(8, "big"))
        values[from_id(number)] = [code, head, number % 97, encode_bigint(number * 10**15), None]
    tree = hamt_build(put, values)
    values.clear()
    put(cid_of(encode([])), encode([]))
    root = encode([5, tree, cid_of(encode([]))])
    put(cid_of(root), root)
    for at in range(0, len(pending), _BATCH):
        await store.put_many(pending[at : at + _BATCH], closed=True)
    return cid_of(root)


def fill_store(actors: int, store_dir: str) -> bytes:
    """`fill`, in a store of its own making."""

    async def work() -> Cid:
        store = await open_store(f"lmdb://{store_dir}/store", map_size=8 << 30)
        try:
            return await fill(store, actors)
        finally:
            await store.close()

    return bytes(asyncio.run(work()))


def report(times: list[float], objects: Objects, reads: int, trips: int) -> dict[str, float]:
    """Microseconds of CPU and reads for each look-up."""
    times.sort()
    return {
        "p50_us": round(times[len(times) // 2] * 1e6, 1),
        "p99_us": round(times[int(len(times) * 0.99)] * 1e6, 1),
        "mean_us": round(sum(times) / len(times) * 1e6, 1),
        "objects": round((objects.reads - reads) / len(times), 2),
        "round_trips": round((objects.round_trips - trips) / len(times), 2),
    }


async def look_ups(objects: Objects, root: Cid, ids: list[int], cache: NodeCache | None) -> dict[str, float]:
    """`StateTree.load` and `get`, as `StateGetActor` does them, of many actors."""
    reads, trips = objects.reads, objects.round_trips
    times = []
    for number in ids:
        address = from_id(number)
        begin = time.thread_time()
        tree = await StateTree.load(objects, root, cache)
        actor = await tree.get(address)
        times.append(time.thread_time() - begin)
        assert actor.nonce == number % 97
    return report(times, objects, reads, trips)


async def run(actors: int, store_dir: str) -> dict[str, Any]:
    """All measurements."""
    begin = time.monotonic()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # so that its memory is not counted here
        root = Cid(pool.submit(fill_store, actors, store_dir).result())
    result: dict[str, Any] = {"actors": actors, "fill_seconds": round(time.monotonic() - begin, 1)}
    store = await open_store(f"lmdb://{store_dir}/store", readonly=True, map_size=8 << 30)
    objects = Objects(store, cache_bytes=0)
    tracemalloc.start()
    tree = await StateTree.load(objects, root)
    async for _ in tree.items():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    objects = Objects(store, cache_bytes=0)
    clock, begin = time.thread_time(), time.monotonic()
    tree = await StateTree.load(objects, root)
    seen = 0
    async for _ in tree.items():
        seen += 1
    assert seen == actors
    result["walk"] = {
        "actors_per_second": round(seen / (time.monotonic() - begin)),
        "cpu_seconds": round(time.thread_time() - clock, 2),
        "round_trips": objects.round_trips,
        "objects": objects.reads,
        "peak_heap_mib": round(peak / (1 << 20), 1),
    }

    pick = random.Random(7)
    some = [pick.randrange(actors) for _ in range(3000)]
    no_cache = Objects(store, cache_bytes=0)
    result["cold"] = await look_ups(no_cache, root, some, None)
    few = some[:300]
    objects = Objects(store, cache_bytes=256 << 20)
    await look_ups(objects, root, few, None)
    result["warm_objects"] = await look_ups(objects, root, few * 10, None)
    objects = Objects(store, cache_bytes=256 << 20)
    nodes = NodeCache(256 << 20)
    await look_ups(objects, root, few, nodes)
    result["warm_nodes"] = await look_ups(objects, root, few * 10, nodes)

    await store.close()
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--actors", type=int, default=1_000_000)
    parser.add_argument("--store", help="a folder to make the store in (a temporary one)")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        result = asyncio.run(run(args.actors, str(Path(args.store or made))))
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:14} {value}")


if __name__ == "__main__":
    main()
