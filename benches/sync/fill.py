"""How fast a store is filled from one source, from four, and from four of which one stalls, is silent or lies.

    python -m benches.sync.fill [--per-second 4] [--actors 60000] [--cases NAMES] [--json]

Each source is a process of its own, with the same store and the same limit: `--per-second` requests in any second.
The store holds a simulated state, so almost all that is filled is objects in batches. Told are the seconds of each
case, its ratio to one source (with a bad one: to three good ones), and the most requests of a source in any second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from aiohttp.web_request import BaseRequest

from benches.simulated_car import write_car
from blockstore.lmdb.store import LmdbStore
from devnode.sim_chain import SimSettings
from leader_bridge.imports.importer import import_car
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.run import SyncOptions, sync_store
from leader_bridge.sync.sources.peer import PeerSource
from leader_bridge.upkeep.check import check_store
from leader_bridge.upkeep.damage import CheckReport
from rpc.methods import register_all
from rpc.server.ranges.page import RangeLimits, RangePages
from rpc.server.server import serve
from tests.support.served import services_over
from tests.sync.faults import lie, spoil, stall

TOKEN: Final = "a-token-of-some-length"
#: "silent" does not even tell its head
_FAULTS: Final = {"stall": stall, "silent": stall, "lie": lie}


def source_process(folder: str, per_second: int, fault: str, pipe: Connection) -> None:
    """A follower that gives; it tells its port, then, when asked, when it has answered."""
    asyncio.run(_give(Path(folder), per_second, fault, pipe))


async def _give(folder: Path, per_second: int, fault: str, pipe: Connection) -> None:
    register_all()
    store = await LmdbStore.open(folder, readonly=True)
    services = await services_over(store)
    server = await serve(services, "127.0.0.1", 0)
    pages = RangePages(services, store, {"bench": TOKEN}, RangeLimits(per_second, 10 * per_second, 8))
    times: list[float] = []
    answer = pages.answer

    async def timed(request: BaseRequest) -> web.Response:
        times.append(time.monotonic())
        return await answer(request)

    pages.answer = timed  # type: ignore[method-assign]
    if fault:
        spoil(pages, _FAULTS[fault], spares_offers=fault != "silent")
    pages.serve_on(server)
    pipe.send(server.port)
    await asyncio.to_thread(pipe.recv)
    pipe.send((times, pages.given.requests, pages.given.limited))
    await server.stop(0)
    await store.close()


def most_in_a_second(times: list[float]) -> int:
    """The most of these within any second."""
    most = first = 0
    for at, now in enumerate(times):
        while times[first] <= now - 1:
            first += 1
        most = max(most, at - first + 1)
    return most


@contextlib.asynccontextmanager
async def sources(
    folder: Path, per_second: int, faults: list[str]
) -> AsyncIterator[tuple[list[PeerSource], list[Any]]]:
    """Processes that give; what they tell at the end is in the list."""
    context = multiprocessing.get_context("spawn")
    told: list[Any] = []
    processes = []
    for fault in faults:
        ours, theirs = context.Pipe()
        process = context.Process(target=source_process, args=(str(folder), per_second, fault, theirs), daemon=True)
        process.start()
        processes.append((process, ours))
    try:
        ports = [await asyncio.to_thread(pipe.recv) for _, pipe in processes]
        yield [PeerSource(f"http://127.0.0.1:{port}", TOKEN) for port in ports], told
    finally:
        for process, pipe in processes:
            pipe.send(None)
            told.append(await asyncio.to_thread(pipe.recv))
            await asyncio.to_thread(process.join, 20)


async def measure(folder: Path, per_second: int, faults: list[str]) -> dict[str, Any]:
    """One case: seconds, damages, and what each source was asked at most in a second."""
    with tempfile.TemporaryDirectory() as new:
        async with sources(folder, per_second, faults) as (peers, told):
            target = await LmdbStore.open(Path(new) / "store", bulk=True)
            pool = Pool(peers, in_all=10_000, per_source=10_000)
            began = time.monotonic()
            async with pool.running():
                await sync_store(target, pool, SyncOptions(states=0))
            seconds = time.monotonic() - began
        report = CheckReport()
        await check_store(target, report)
        await target.close()
    return {
        "seconds": round(seconds, 2),
        "objects": sum(one.objects for one in pool.standings.values()),
        "damages": len(report.damages),
        "bad": sum(one.bad for one in pool.standings.values()),
        "requests": [requests for _, requests, _ in told],
        "limited": [limited for _, _, limited in told],
        "most in a second": [most_in_a_second(times) for times, _, _ in told],
    }


async def make_store(folder: Path, actors: int) -> None:
    """A store with a large state: a simulated chain, written as a CAR and imported."""
    car = folder / "chain.car"
    write_car(car, 0, SimSettings(accounts=actors))
    store = await LmdbStore.open(folder / "store", bulk=True)
    await import_car(store, car, network_file=Path(f"{car}.network.json"), process=False)
    await store.close()


async def run(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        await make_store(folder, args.actors)
        cases = {
            "one": [""],
            "three": [""] * 3,
            "four": [""] * 4,
            "one of four stalls": ["stall", "", "", ""],
            "one of four is silent": ["silent", "", "", ""],
            "one of four lies": ["lie", "", "", ""],
        }
        found: dict[str, Any] = {}
        for name, faults in cases.items():
            if args.cases and name not in args.cases.split(","):
                continue
            found[name] = await measure(folder / "store", args.per_second, faults)
            print(f"{name}: {found[name]}", flush=True)
        seconds = {name: one["seconds"] for name, one in found.items()}
        summary = {}
        if {"one", "four"} <= set(seconds):
            summary["four are faster than one by"] = round(seconds["one"] / seconds["four"], 2)
        for name in [name for name in cases if name.startswith("one of four")]:
            if {"three", name} <= set(seconds):
                summary[f"{name}: costs, of three good ones"] = round(seconds[name] / seconds["three"] - 1, 3)
        print(summary, flush=True)
        return {**found, "summary": summary}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-second", type=int, default=4)
    parser.add_argument("--actors", type=int, default=60_000)
    parser.add_argument("--cases", help="some of them, by name, with commas between")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = asyncio.run(run(args))
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
