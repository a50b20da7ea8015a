"""How long `follower extract` takes over a store of 20 ms a read, tipset after tipset and several at a time.

python -m benches.pool.extract [--epochs N] [--delay SECONDS] [--runs N]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import tempfile
import time
from pathlib import Path

from benches.pool.far_store import open_far
from blockstore.lmdb.store import LmdbStore
from leader_bridge.imports.importer import import_car
from leader_bridge.tables.ahead import TIPSETS
from leader_bridge.tables.catalogue import find_tasks
from leader_bridge.tables.extract import extract
from leader_bridge.tables.sinks.opening import open_sink
from tests.support.recorded import recorded

LOW = 100


async def run(folder: Path, name: str, args: argparse.Namespace, tipsets_ahead: int) -> str:
    """Extract once; what it took, and what came of it."""
    store = await open_far(folder / "store", args.delay)
    tasks = find_tasks(["all"])
    sink = await open_sink(f"parquet:{folder / name}", [task.table for task in tasks])
    began, cpu = time.monotonic(), time.process_time()
    done = await extract(store, sink, tasks, low=LOW, high=LOW + args.epochs - 1, tipsets_ahead=tipsets_ahead)
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    await sink.close()
    await store.close()
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted((folder / name).rglob("*.parquet")):
        digest.update(file.read_bytes())
    return f"{took:.1f} s ({cpu:.1f} s of CPU), {sum(done.rows.values())} rows, files {digest.hexdigest()}"


async def fill(folder: Path) -> None:
    """The recorded chain `busy`, in a store."""
    store = await LmdbStore.open(folder / "store", map_size=4 << 30, bulk=True)
    await import_car(store, recorded("busy/chain.car.zst"), network_file=recorded("busy/network.json"))
    await store.close()


def main() -> None:
    """Run both in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--runs", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        asyncio.run(fill(folder))
        for number in range(args.runs):
            for ahead in (1, TIPSETS):
                told = asyncio.run(run(folder, f"{ahead}-{number}", args, ahead))
                print(f"{args.epochs} epochs, {ahead} at a time: {told}", flush=True)


if __name__ == "__main__":
    main()
