"""What a pass that begins a generation costs readers: times of single reads while it runs, and while it does not.

python -m benches.stores.retention [--epochs N] [--objects N] [--cassandra]

A leader in a process of its own publishes a head of so many objects every 0.2 s, and keeps 60 epochs. This process
reads random objects of the head's state, 500 a second, as a follower would, and tells the percentiles apart by what
the pass was doing. `--cassandra`: over a real server, that which `CASSANDRA_HOSTS` names or one started here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
from pathlib import Path
from time import perf_counter

from blockstore.cid import Cid
from blockstore.store import Store
from chain.block import decode_header
from chain.tipset import TipsetKey
from devnode.sim_chain import SimSettings
from leader_bridge.store.mirror import walked_links
from tests.retention.simulated import SimulatedLeader
from tests.support.cassandra.stores import emptied, keyspace_url

_POLICY = 60
_EVERY = 0.2
_KNOWN = 20_000


async def state_objects(store: Store) -> list[bytes]:
    """Multihashes of objects of the head's state."""
    head = await store.head()
    assert head is not None
    cid = TipsetKey(head.head.key).cids[0]
    raw = await store.get(cid.multihash)
    assert raw is not None
    waiting: list[Cid] = [decode_header(cid, raw).parent_state_root]
    found: list[bytes] = []
    while waiting and len(found) < _KNOWN:
        part, waiting = waiting[:512], waiting[512:]
        found += [one.multihash for one in part]
        for one, data in zip(part, await store.get_many([one.multihash for one in part]), strict=True):
            waiting += walked_links(one, data or b"")
    return found


async def measure(epochs: int, objects: int, url: str) -> dict[str, dict[str, float]]:
    """Seconds of reads, by whether the pass was at work."""
    settings = SimSettings.for_size(max(30, objects * 4), objects, seed=3)
    leader = SimulatedLeader(url, _POLICY, settings)
    await leader.start()
    await leader.advance()
    await leader.settle()
    store = await leader.opened()
    seconds: dict[str, list[float]] = {"pass": [], "none": []}
    stop = asyncio.Event()
    known = await state_objects(store)

    async def read() -> None:
        nonlocal known
        rng = random.Random(1)
        due = perf_counter()
        while not stop.is_set():
            due = max(due + 0.002, perf_counter() - 0.1)
            await asyncio.sleep(max(0.0, due - perf_counter()))
            step = leader.step
            began = perf_counter()
            await store.get(rng.choice(known))
            seconds["pass" if step in ("copying", "removing") else "none"].append(perf_counter() - began)

    reading = asyncio.create_task(read())
    for at in range(epochs):
        began = perf_counter()
        await leader.advance()
        if at % 20 == 0:
            known = await state_objects(store)
        await asyncio.sleep(max(0.0, _EVERY - (perf_counter() - began)))
    stop.set()
    await reading
    await store.close()
    await leader.stop()
    return {name: percentiles(found) for name, found in seconds.items()}


async def _emptied() -> str:
    """A keyspace of a Cassandra with nothing in it."""
    url = keyspace_url("follower_bench_retention")
    await (await emptied(url, delta_ms=200, epsilon_ms=20, every=True)).close()
    return url


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Microseconds of the median, the 99th percentile and the most, and how many."""
    seconds = sorted(seconds) or [0.0]
    at = {"p50": 0.5, "p99": 0.99}
    found = {name: round(seconds[int(len(seconds) * share)] * 1e6, 1) for name, share in at.items()}
    return {**found, "most": round(seconds[-1] * 1e6, 1), "reads": len(seconds)}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--cassandra", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = asyncio.run(_emptied()) if options.cassandra else f"lmdb://{Path(folder) / 'store'}"
        found = asyncio.run(measure(options.epochs, options.objects, url))
    print(json.dumps(found, indent=1))
    print(f"p99 while a pass runs: {found['pass']['p99'] / max(found['none']['p99'], 1e-9):.2f} times that without")


if __name__ == "__main__":
    main()
