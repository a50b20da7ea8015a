"""What the shared store costs: its data path, an import into it beside one into LMDB, and followers behind HAProxy.

    python -m benches.fleet [path] [import] [followers] [--megabytes N] [--turns N] [--requests N] [--interval S]
                            [--rate N]

On the Cassandra that `CASSANDRA_HOSTS` names, else one started here. Server, followers and clients share this machine:
on two cores a ratio of rates says nothing, so CPU time stands beside each.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from benches.import_car import make_car, write_network
from benches.same_work import Probe
from blockstore.cassandra import schema as cassandra_schema
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.session import AcsyllaSession
from blockstore.cassandra.store import CassandraStore
from blockstore.cassandra.values import pack
from blockstore.cid import multihash_of
from blockstore.open import open_store
from blockstore.store import Store
from leader_bridge.imports.importer import import_car
from tests.fleet.fleet import Clients, Fleet, Process
from tests.support.cassandra.server import cassandra_hosts

SIZE = 1000
OBJECTS = 20_000
#: for each follower, so that each has as many requests at a time whatever their number
CLIENTS = 8


def _cpu() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(kind).ru_utime + resource.getrusage(kind).ru_stime for kind in kinds)


async def _emptied(keyspace: str) -> str:
    url = f"cassandra://{cassandra_hosts()}/{keyspace}"
    store = await CassandraStore.open(url)
    await store.close()
    names = cassandra_schema.tables()
    cassandra_schema.run(CassandraAddress.parse(url), [f"TRUNCATE {keyspace}.{name}" for name in names])
    store = await CassandraStore.open(url)
    await store.close()
    return url


async def _at_once(work: Callable[[bytes], Awaitable[object]], keys: list[bytes], concurrency: int) -> None:
    source = iter(keys)

    async def worker() -> None:
        for key in source:
            await work(key)

    await asyncio.gather(*(worker() for _ in range(concurrency)))


async def _told(label: str, work: Awaitable[object], count: int) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    await work
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    each = f"{wall / count * 1e6:8.1f} us wall {cpu / count * 1e6:6.1f} us CPU"
    print(f"{label:36} {count / wall:9,.0f}/s {each}", flush=True)


async def data_path() -> None:
    """Single operations through the seam, one at a time and 64 at once; then through the store."""
    url = await _emptied("bench_path")
    place = CassandraAddress.parse(url)
    rng = random.Random(1)
    objects = [rng.randbytes(SIZE // 2) + bytes(SIZE // 2) for _ in range(OBJECTS)]
    pairs = [(multihash_of(data), data) for data in objects]
    packed = {multihash: pack(data) for multihash, data in pairs}
    keys = list(packed)
    session = await AcsyllaSession.open(place)
    insert = f"INSERT INTO {place.keyspace}.objects (m, d) VALUES (?, ?)"
    select = f"SELECT d FROM {place.keyspace}.objects WHERE m = ?"
    for concurrency, some in ((1, keys[:2000]), (64, keys)):
        at_once = f"{concurrency} at a time"
        await _told(
            f"seam: write, {at_once}",
            _at_once(lambda key: session.execute(insert, [key, packed[key]]), some, concurrency),
            len(some),
        )
        await _told(
            f"seam: read, {at_once}",
            _at_once(lambda key: session.execute(select, [key]), some, concurrency),
            len(some),
        )
    await session.close()
    store = await CassandraStore.open(url)
    await _told("store: put_many, loose", store.put_many(pairs, closed=False), len(pairs))
    await _told("store: put_many, closed", store.put_many(pairs, closed=True), len(pairs))
    await _told("store: get_many", store.get_many(keys), len(keys))
    await store.close()


async def _import(store: Store, car: Path, network: Path) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), _cpu()
    try:
        await import_car(store, car, network_file=network)
    finally:
        await store.close()
    return time.perf_counter() - wall, _cpu() - cpu


async def imports(megabytes: int, turns: int) -> None:
    """One CAR into each store, one after the other, several times: a server that has just been started is slow."""
    url = await _emptied("bench_import")
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as made:
        folder = Path(made)
        car = folder / "made.car"
        _, objects, length = make_car(car, megabytes * 1_000_000, 10_000)
        network = write_network(car)
        print(f"a CAR of {length / 1e6:.0f} MB, {objects:,} objects, with indices", flush=True)
        for turn in range(turns):
            taken = {}
            await _emptied("bench_import")
            for name, place in (("LMDB", f"lmdb://{folder / str(turn)}"), ("Cassandra", url)):
                store = await open_store(place, bulk=True)
                taken[name] = await _import(store, car, network)
                wall, cpu = taken[name]
                print(f"{name:10} {objects / wall:9,.0f} objects/s {wall:6.1f} s wall {cpu:6.1f} s CPU of ours")
            ratios = [taken["Cassandra"][at] / taken["LMDB"][at] for at in (0, 1)]
            print(f"Cassandra takes {ratios[0]:.1f} times LMDB's wall time, {ratios[1]:.1f} times its CPU", flush=True)


def _used(processes: list[Process]) -> float:
    return sum(process.cpu_seconds() for process in processes)


async def followers(requests: int, interval: float, together: int, rate: float) -> None:
    """1, 2 and 3 followers behind HAProxy, a head each `interval` seconds.

    8 clients for each follower, or `together` for all of them; `rate` requests a second for each follower, if given.
    """
    for count in (1, 2, 3):
        url = await _emptied("bench_fleet")
        with tempfile.TemporaryDirectory(prefix="fleet-bench-") as made:
            async with Fleet(Path(made), url, followers=count, interval=interval) as fleet:
                idle = _used(fleet.followers)
                await asyncio.sleep(5)
                idle = (_used(fleet.followers) - idle) / 5
                clients = Clients(fleet.proxy.port, fleet.truth, together or CLIENTS * count, rate=rate * count)
                probe = Probe()
                async with clients.asking():
                    await clients.until(requests // 10)
                    with probe.measuring():
                        before, answered = _used(fleet.followers), clients.report.answered
                        woken = sum(process.wake_ups() for process in fleet.followers)
                        wall = time.perf_counter()
                        await clients.until(answered + requests)
                        answered = clients.report.answered - answered
                        wall = time.perf_counter() - wall
                        cpu = _used(fleet.followers) - before
                        woken = sum(process.wake_ups() for process in fleet.followers) - woken
                each = cpu / answered * 1e6
                print(
                    f"{count} followers {answered / wall:7,.0f} requests/s {each:6.0f} us of the followers' CPU a "
                    f"request, {woken / answered:.2f} wake-ups; a fixed piece of work beside it {probe.micros:.0f} us; "
                    f"{idle * 1e3:.0f} ms a second when nobody asks; {clients.report.text}",
                    flush=True,
                )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["path", "import", "followers"], metavar="PART")
    parser.add_argument("--megabytes", type=int, default=60, help="of the CAR that is imported")
    parser.add_argument("--turns", type=int, default=5, help="imports into each store")
    parser.add_argument("--requests", type=int, default=20_000, help="asked of each number of followers")
    parser.add_argument("--interval", type=float, default=0.3, help="seconds between heads (default 0.3)")
    parser.add_argument("--together", type=int, default=0, help="clients of all followers (default: 8 for each)")
    parser.add_argument("--rate", type=float, default=0, help="requests a second of each follower (default: all)")
    args = parser.parse_args()
    parts = args.parts or ["path", "import", "followers"]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if "path" in parts:
            runner.run(data_path())
        if "import" in parts:
            runner.run(imports(args.megabytes, args.turns))
        if "followers" in parts:
            runner.run(followers(args.requests, args.interval, args.together, args.rate))


if __name__ == "__main__":
    main()
