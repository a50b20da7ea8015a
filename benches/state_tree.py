"""What `StateGetActor` costs on a state tree of a million actors on LMDB, the tree alone, and a walk over all.

    python -m benches.state_tree [--actors 1000000] [--store DIR] [--json]

CPU time is this process' own. The rows:

    method_cold   the whole method through the dispatcher, bytes in, bytes out, the tipset named by its key; nothing is
                  cached but the file system's pages
    method_warm   the same for a few hundred actors asked for again and again, with a follower's caches
    method_mixed  the same for actors anywhere in the tree, each asked for once: the upper levels are in the caches
    tree_…        `StateTree.load` and `get` alone: without caches, with objects cached, with decoded nodes cached
    walk          every actor

Objects and store round trips are counted at the reader. A cold look-up reads the tipset's header and the state root,
then one node a level. The methods are asked by the keys of two tipsets in turn, so that no cache of one keeps either.
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
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import orjson

from benches.chain_methods import MAKING, services_over
from blockstore.cid import Cid, cid_of
from blockstore.open import open_store
from blockstore.store import Batch, HeadEntry, Store, TipsetRef
from chain.address import from_id
from chain.block import BlockHeader, decode_header, encode_header
from chain.index.chain_index import HELD_ALL, index_rows
from chain.ipld.bigint import encode_bigint
from chain.ipld.dag_cbor import encode
from chain.ipld.hamt import hamt_build
from chain.ipld.objects import Objects
from chain.ipld.tree_nodes import NodeCache
from chain.network import NetworkRecord, save_network
from chain.state.state_tree import StateTree
from chain.tipset import Tipset
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from rpc.services import Services

_BATCH = 20_000
_NOWHERE = cid_of(b"")


async def fill(store: Store, actors: int) -> Cid:
    """Write a state tree of so many actors, a tipset on it, published as the head; return the tree's root."""
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
    await publish(store, cid_of(root))
    return cid_of(root)


async def publish(store: Store, root: Cid) -> None:
    """A genesis and a tipset whose messages are executed on this state: the head of the store."""
    nothing = cid_of(encode([]))
    parents: tuple[Cid, ...] = ()
    row = None
    batch = Batch()
    for height in (0, 1):
        made = BlockHeader(
            _NOWHERE, from_id(1000), b"ticket", (1, b"proof"), (), (), parents, height, height, root, nothing, nothing,
            (2, b"bls"), 1_700_000_000 + 30 * height, (2, b"signature"), 0, 100,
        )  # fmt: skip
        raw = encode_header(made)
        header = decode_header(cid_of(raw), raw)
        await store.put_many([(header.cid.multihash, raw)], closed=True)
        tipset = Tipset.of([header])
        if row is None:
            save_network(batch, NetworkRecord("made", header.cid, "f", 314, 30, ((-1, 29),)))
        row = index_rows(batch, tipset, row, HELD_ALL)
        parents = (header.cid,)
    await store.write(batch)
    ref = TipsetRef(tipset.height, tipset.key)
    await store.append_head(HeadEntry(1, await store.new_term("bench"), (), (ref,), ref))


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


async def methods(services: Services, ids: list[int]) -> dict[str, float]:
    """`StateGetActor` of many actors, from the bytes of a request to the bytes of its answer."""
    dispatcher, objects = Dispatcher(services, settings=MAKING), services.objects
    head = (await services.head_source.current()).tipset
    keys = [[{"/": str(cid)} for cid in key.cids] for key in (head.key, head.parents)]
    bodies = [
        orjson.dumps(
            {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "Filecoin.StateGetActor",
                "params": [str(from_id(number)), keys[at % 2]],
            }
        )
        for at, number in enumerate(ids)
    ]
    reads, trips = objects.reads, objects.round_trips
    times = []
    for body, number in zip(bodies, ids, strict=True):
        begin = time.thread_time()
        _, answer = await dispatcher.http(1, body)
        times.append(time.thread_time() - begin)
        if b'"Nonce":%d,' % (number % 97) not in answer:
            raise SystemExit(f"{body!r} answered {answer[:300]!r}")
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
    few = some[:300]
    cold = await services_over(store, cold=True)
    cold.cache_sizes = replace(cold.cache_sizes, nodes=1)
    result["method_cold"] = await methods(cold, some)
    warm = await services_over(store)
    await methods(warm, few)
    result["method_warm"] = await methods(warm, few * 10)
    mixed = await services_over(store)
    await methods(mixed, [pick.randrange(actors) for _ in range(3000)])
    result["method_mixed"] = await methods(mixed, some)

    no_cache = Objects(store, cache_bytes=0)
    result["tree_cold"] = await look_ups(no_cache, root, some, None)
    objects = Objects(store, cache_bytes=256 << 20)
    await look_ups(objects, root, few, None)
    result["tree_warm_objects"] = await look_ups(objects, root, few * 10, None)
    objects = Objects(store, cache_bytes=256 << 20)
    nodes = NodeCache(256 << 20)
    await look_ups(objects, root, few, nodes)
    result["tree_warm_nodes"] = await look_ups(objects, root, few * 10, nodes)

    await store.close()
    return result


def main() -> None:
    """The command line."""
    register_all()
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
        print(f"{name:18} {value}")


if __name__ == "__main__":
    main()
