"""A CAR file of a simulated chain, of a size that is asked for: what imports and walks of big files run on.

    python -m benches.simulated_car --out sim.car [--gigabytes 2] [--actors 100000] [--objects 20000] [--seed 1]

Unlike the CAR of `benches.import_car`, which has the sizes of mainnet's objects and is written faster, every
object of this one is what it seems: states that decode, messages, receipts, events. It holds everything under
the head's block down to genesis, children before parents; beside it is written `OUT.network.json`, which says
what the chain cannot tell.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import orjson

from blockstore.car.writer import CarWriter
from blockstore.cid import Cid, uvarint
from devnode.sim_chain import SimSettings, SimulatedChain

#: sections that are written at once
_RUN = 4096


def write_car(path: Path, size: int, settings: SimSettings) -> tuple[SimulatedChain, int]:
    """Write a CARv1 of at least `size` bytes; the chain, and how many objects. Errors: OSError."""
    waiting: list[bytes] = []
    count = 0

    with path.open("wb", buffering=1 << 20) as file:

        def put(cid: Cid, data: bytes) -> None:
            nonlocal count
            waiting.append(uvarint(len(cid) + len(data)) + cid + data)
            if len(waiting) >= _RUN:
                count += len(waiting)
                file.write(b"".join(waiting))
                waiting.clear()

        # the root is known at the end: its place is kept, every root of one block takes the same room
        CarWriter(file, [Cid(bytes(38))])
        chain = SimulatedChain(settings, put)
        while file.tell() < size:
            chain.extend()
        chain.extend(blocks=1)
        count += len(waiting)
        file.write(b"".join(waiting))
        file.seek(0)
        CarWriter(file, list(chain.head.key.cids))
    path.with_name(path.name + ".network.json").write_bytes(
        orjson.dumps(chain.network.to_json(), option=orjson.OPT_INDENT_2)
    )
    return chain, count


def main() -> None:
    """Write one and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write; replaced if there")
    parser.add_argument("--gigabytes", type=float, default=2.0, metavar="N", help="10^9 bytes at least (default 2)")
    parser.add_argument("--actors", type=int, default=100_000, metavar="N", help="actors in the state")
    parser.add_argument("--objects", type=int, default=20_000, metavar="N", help="new objects an epoch")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same file")
    args = parser.parse_args()
    began, cpu = time.monotonic(), time.process_time()
    settings = SimSettings.for_size(args.actors, args.objects, seed=args.seed)
    chain, count = write_car(args.out, int(args.gigabytes * 1e9), settings)
    took, size = time.monotonic() - began, args.out.stat().st_size
    print(
        f"{args.out}: {size / 1e6:.0f} MB, {count} objects, head at epoch {chain.head.height}; {took:.1f} s "
        f"({time.process_time() - cpu:.1f} s CPU): {size / 1e6 / took:.0f} MB/s, {count / took:.0f} objects/s"
    )


if __name__ == "__main__":
    main()
