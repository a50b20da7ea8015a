"""Snapshots of a recorded chain from an LMDB store: objects/s, MB/s and CPU time, for each form of file.

    python -m benches.stores.export [--chain busy] [--car FILE --network FILE] [--turns 3] [--seen 0]

`--seen N`: beside it, what remembering N objects takes, a fifth of them asked for again, in time, memory and disk.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Final

from benches.import_car import measured
from blockstore.car.snapshot_forms import Form
from blockstore.open import open_store
from leader_bridge.exports.exporter import export_snapshot, snapshot_scope
from leader_bridge.exports.seen_objects import SeenObjects
from leader_bridge.imports.importer import import_car
from tests.support.recorded import recorded

_ALL_STATES: Final = 1 << 40


async def run(car: Path, network: Path, folder: Path, turns: int) -> None:
    """Import the chain, and export it in each form."""
    store = await open_store(f"lmdb://{folder}/store", bulk=True)
    await import_car(store, car, network_file=network)
    scope = await snapshot_scope(store, state_roots=_ALL_STATES)
    print("| form | objects | MB of objects | MB of the file | objects/s | MB/s | CPU us an object |")
    print("|---|---|---|---|---|---|---|")
    for form in Form:
        for _ in range(turns):
            used: dict[str, float] = {}
            path = folder / f"made{form.value}"
            with measured(used):
                done = await export_snapshot(store, path, scope)
            if form is Form.CAR:
                content = done.size
            rate, cost = done.objects / used["wall"], used["cpu"] / done.objects * 1e6
            print(
                f"| `{form.value}` | {done.objects:,} | {content / 1e6:.1f} | {done.size / 1e6:.1f} | {rate:,.0f} | "
                f"{content / used['wall'] / 1e6:.1f} | {cost:.0f} |"
            )
    await store.close()


def remember(count: int, folder: Path) -> None:
    """Add keys to a set that spills, with questions for earlier ones between."""
    rng = random.Random(1)
    prefix = b"\x01\x71\xa0\xe4\x02\x20"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with SeenObjects(folder) as seen:
        began = time.perf_counter()
        for number in range(count):
            seen.add(prefix + rng.randbytes(32))
            if number % 1_000_000 == 999_999:
                # what was added in this stretch, early or late, is asked for again
                again = random.Random(1)
                asked = [prefix + again.randbytes(32) for _ in range(200_000)]
                assert not any(seen.add(cid) for cid in asked)
        took = time.perf_counter() - began
        disk = seen.file_bytes
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    each = took / count * 1e6
    print(f"{count:,} remembered: {each:.2f} us each, {memory / 1e6:,.0f} MB of memory, {disk / 1e6:,.0f} MB of disk")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.stores.export", description="Exports of a recorded chain.")
    parser.add_argument("--chain", default="busy", help="a recorded chain")
    parser.add_argument("--car", type=Path, help="another chain")
    parser.add_argument("--network", type=Path, help="its network file")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seen", type=int, default=0)
    args = parser.parse_args()
    car = args.car or recorded(f"{args.chain}/chain.car.zst")
    network = args.network or recorded(f"{args.chain}/network.json")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(car, network, Path(folder), args.turns))
        if args.seen:
            remember(args.seen, Path(folder))


if __name__ == "__main__":
    main()
