"""Round trips to a far store that each of a process' first answers waits for, one after another.

    python -m benches.stores.round_trips [--store URL] [--mix FILE] [--longest N]

Every read of the store takes one second of a clock that jumps, so an answer's seconds are the reads that it waits for
in series; nothing depends on the machine. Each call of the mix is asked once, in its order, of one process that has
read rows ahead as a follower of a shared store does. "Near": objects come from a full object tier, so that only rows
are far. "Far": objects are too.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from benches.chain_methods import import_chain, services_over
from benches.stores.shared import mix_bodies
from blockstore.open import open_store
from blockstore.store import Store
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from follower.ahead.rows_ahead import read_rows_ahead
from rpc.server.dispatch import Dispatcher
from tests.support.recorded import recorded
from tests.support.virtual_time import run_virtual

_READS: Final = frozenset({"get", "get_many", "row", "rows", "scan", "held_many", "head_entries"})


class FarStore:
    """A store each read of which takes a second. `trips`: the reads so far."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.trips: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in _READS:
            return found

        async def read(*arguments: Any, **named: Any) -> Any:
            self.trips.append(f"{name} {getattr(arguments[0], 'name', '')}".strip())
            await asyncio.sleep(1)
            return await found(*arguments, **named)

        return read


def _tail(values: Sequence[int], share: float) -> int:
    return sorted(values)[int(len(values) * share)]


async def measure(url: str, bodies: Sequence[bytes], *, near: bool, longest: int) -> None:
    """Print a line for all calls and one for each method."""
    store = await open_store(url, readonly=True)
    far = FarStore(store)
    services = await services_over(far)
    if near:
        services.objects = Objects(store)
        services.index = ChainIndex(far, services.objects, services.network)
    await read_rows_ahead(far, services.index, 1e9)
    name = "near" if near else "far"
    print(f"{name}: objects; {len(far.trips)} reads of rows ahead")
    dispatcher = Dispatcher(services)
    loop = asyncio.get_running_loop()
    waits: dict[str, list[int]] = defaultdict(list)
    reads: dict[str, int] = defaultdict(int)
    made: list[tuple[int, str, list[str]]] = []
    for body in bodies:
        before, began = len(far.trips), loop.time()
        await dispatcher.http(1, body)
        took = round(loop.time() - began)
        method = orjson.loads(body)["method"]
        waits[method].append(took)
        reads[method] += len(far.trips) - before
        made.append((took, body.decode(), far.trips[before:]))
    every = [took for some in waits.values() for took in some]
    rows = [("all", every, sum(reads.values())), *((one, waits[one], reads[one]) for one in sorted(waits))]
    for one, some, count in rows:
        print(
            f"  {one:32} {len(some):5} calls  in series: mean {sum(some) / len(some):6.2f} p99 {_tail(some, 0.99):4}"
            f" most {max(some):4}   reads {count:5}"
        )
    for took, body_text, trips in sorted(made, reverse=True)[:longest]:
        print(f"    {took:3} {body_text[:120]} {trips}")
    await store.close()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benches.stores.round_trips", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--store", metavar="URL", help="a store with a chain in it (default: the recorded chain)")
    parser.add_argument("--mix", type=Path, help="a file of calls (default: the recorded mix)")
    parser.add_argument("--longest", type=int, default=0, metavar="N", help="also print the N calls that wait longest")
    args = parser.parse_args(arguments)
    from rpc.methods import register_all

    register_all()
    bodies = mix_bodies(args.mix or recorded("mix.jsonl"))
    with tempfile.TemporaryDirectory() as folder:
        url = args.store or asyncio.run(import_chain(Path(folder)))
        for near in (True, False):
            run_virtual(measure(url, bodies, near=near, longest=args.longest))


if __name__ == "__main__":
    main()
