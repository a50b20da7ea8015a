"""A piece sent in shards beside each follower reading it from the store: bytes, CPU and time, by size.

    python -m benches.stores.dispersal [--followers 2 8] [--kb 16 256 4096] [--cassandra HOST:PORT]

Followers are receivers with real servers and disks, all in this process; the store is a real Cassandra, its CPU is not
counted. CPU is that of all of them together. On one machine the network costs nothing: the bytes tell what it would.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path

from blockstore.cid import Cid
from blockstore.open import SharedStoreOptions, open_store
from blockstore.shards.erasure import cut
from blockstore.shards.manifest import proven
from blockstore.shards.objects import pack
from blockstore.store import Store
from tests.shards.region import Follower, objects_of, region, sending
from tests.support.cassandra.server import own_node

_OBJECT_BYTES = 700
_BATCH = 256
_KEYSPACE = "bench_dispersal"


async def _read_all(one: Follower, objects: list[tuple[Cid, bytes]]) -> None:
    """As a follower reads: batches, one behind the other, kept on its disk."""
    for at in range(0, len(objects), _BATCH):
        await one.tier.get_many([cid.multihash for cid, _ in objects[at : at + _BATCH]])


async def _row(store: Store, folder: Path, followers: int, kilobytes: int) -> str:
    objects = objects_of(max(1, (kilobytes << 10) // (_OBJECT_BYTES + 41)), _OBJECT_BYTES, random.randrange(1 << 60))
    await store.put_many(((cid.multihash, data) for cid, data in objects), closed=True)
    size = sum(len(data) for _, data in objects)
    async with region(store, folder / "read", followers, disk_bytes=256 << 20) as there:
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(_read_all(one, objects) for one in there))
        read, read_cpu = time.perf_counter() - began, time.process_time() - cpu
    async with (
        region(store, folder / "sent", followers, disk_bytes=256 << 20) as there,
        sending(store, [one.url for one in there]) as sender,
    ):
        # connections are there when a head comes
        await sender.send(pack(objects_of(1, seed=followers)))
        before = sender.sent_bytes
        began, cpu = time.perf_counter(), time.process_time()
        await sender.send(await asyncio.to_thread(pack, objects))
        while not all(one.receiver.pieces == 2 for one in there):
            await asyncio.sleep(0.001)
        took, took_cpu = time.perf_counter() - began, time.process_time() - cpu
        sent = sender.sent_bytes - before
    return (
        f"{followers:9d} {kilobytes:7,d} {len(objects):8,d} | {size * followers / 1024:9,.0f} {read * 1e3:8.1f} "
        f"{read_cpu * 1e3:8.1f} | {sent / 1024:9,.0f} {took * 1e3:8.1f} {took_cpu * 1e3:8.1f} | "
        f"{sent / (size * followers):6.2f} {took_cpu / read_cpu:6.2f}"
    )


async def _run(url: str, args: argparse.Namespace) -> None:
    piece = random.randbytes(4 << 20)
    began = time.process_time()
    root, _ = proven(cut(piece))
    print(f"cutting and proving 4 MiB: {(time.process_time() - began) * 1e3:.1f} ms of CPU ({root.hex()[:8]})")
    store = await open_store(url, shared=SharedStoreOptions(may_create_tables=True))
    print(f"{'followers':>9} {'KiB':>7} {'objects':>8} | {'read: KiB':>9} {'ms':>8} {'CPU ms':>8} | "
          f"{'sent: KiB':>9} {'ms':>8} {'CPU ms':>8} | {'bytes':>6} {'CPU':>6}")  # fmt: skip
    try:
        for followers in args.followers:
            for kilobytes in args.kb:
                with tempfile.TemporaryDirectory() as folder:
                    print(await _row(store, Path(folder), followers, kilobytes), flush=True)
    finally:
        await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--followers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--kb", type=int, nargs="+", default=[16, 64, 256, 1024, 4096, 16384])
    parser.add_argument("--cassandra", default="", metavar="HOST:PORT", help="a server that runs, not one started here")
    args = parser.parse_args()
    if args.cassandra:
        asyncio.run(_run(f"cassandra://{args.cassandra}/{_KEYSPACE}", args))
        return
    with own_node() as node:
        asyncio.run(_run(f"cassandra://{node.address}:{node.port}/{_KEYSPACE}", args))


if __name__ == "__main__":
    main()
