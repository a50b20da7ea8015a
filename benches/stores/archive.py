"""Reads from an archive that is served in place, on this machine and over HTTP, beside LMDB's: cold and warm.

    python -m benches.stores.archive [--car FILE --network FILE] [--objects N] [--questions N] [--latency-ms N]

A `.forest.car.zst` file is written with the objects of the CAR (default: the recorded busy chain). `cold`: a process
that has read nothing yet; for files on this machine, none of their pages are in memory; over HTTP, the cache on disk is
empty. `disk`: over HTTP, in a new process with the cache on disk that the one before left. `warm`: the same questions
again. The HTTP server is another process; `--latency-ms` is added to each of its answers. CPU is that of the reading
process.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from benches.chain_methods import MAKING
from benches.rpc_load import free_port
from blockstore.archive.tier import ArchivedObjects, ArchiveOptions, Archives
from blockstore.car.reader import CarFile
from blockstore.car.snapshot_forms import Form, open_writer
from blockstore.lmdb.store import LmdbStore
from blockstore.store import Store
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import load_network
from follower.head import StoreHeads
from rpc.services import Services

#: objects of one get_many
_MANY = 1000
#: actors of every state
_ACTORS = ("f00", "f01", "f02", "f03", "f04", "f05", "f06", "f07", "f010", "f099")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the chain is: an LMDB store with all of it, or one with rows and an archive."""

    name: str
    store: Path
    archive: str = ""
    cache: Path | None = None


def write_forest(car: Path, path: Path) -> list[bytes]:
    """Write the archive; the multihashes of its objects."""
    keys: list[bytes] = []
    with CarFile(car) as reader, path.open("wb") as out:
        writer = open_writer(out, Form.FOREST, reader.roots)
        for run in reader.runs():
            writer.write(run)
            keys += [cid[2:] for cid, _ in run if cid[:2] == b"\x01\x71"]
        writer.finish()
        writer.close()
    return keys


def forget(folder: Path) -> None:
    """Drop the pages of every file from memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def serve_file(folder: str, port: int, latency: float) -> None:
    """What the HTTP server's process runs."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(latency)
        return web.FileResponse(Path(folder) / request.match_info["name"])

    app = web.Application()
    app.router.add_get("/{name}", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


async def timed(what: str, calls: Sequence[Callable[[], Awaitable[Any]]], each: int = 1) -> None:
    """Await the calls one after another, and print a row; `each`: objects of one call."""
    took: list[float] = []
    cpu = time.process_time()
    began = time.perf_counter()
    for call in calls:
        before = time.perf_counter()
        await call()
        took.append(time.perf_counter() - before)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    took.sort()
    count = len(calls) * each
    median, last = took[len(took) // 2] * 1e6 / each, took[len(took) * 99 // 100] * 1e6 / each
    print(
        f"{what:52} {wall * 1e6 / count:9.0f} us  median {median:9.0f}  p99 {last:9.0f}  CPU {cpu * 1e6 / count:7.0f}",
        flush=True,
    )


async def questions(store: Store, count: int, seed: int) -> dict[str, list[list[Any]]]:
    """Parameters of each method, spread over the chain."""
    network = await load_network(store)
    objects = Objects(store)
    index = ChainIndex(store, objects, network)
    head = (await StoreHeads(store, index).current()).tipset
    rng = random.Random(seed)
    out: dict[str, list[list[Any]]] = {}
    epochs = rng.sample(range(2, head.height - 2), min(count, head.height - 4))
    for epoch in epochs:
        tipset = await index.at_height(head, epoch)
        key = [{"/": str(cid)} for cid in tipset.key.cids]
        out.setdefault("Filecoin.ChainGetBlock", []).append([key[0]])
        out.setdefault("Filecoin.StateGetActor", []).append([rng.choice(_ACTORS), key])
        out.setdefault("eth_getBlockByNumber", []).append([hex(tipset.height), False])
    return out


async def open_place(place: Place) -> tuple[LmdbStore, Archives | None, Services]:
    """What a new process has after its start."""
    store = await LmdbStore.open(place.store, readonly=True)
    archives = None
    if place.archive:
        archives = await Archives.open([place.archive], ArchiveOptions(cache_folder=place.cache))
    network = await load_network(store)
    assert network is not None
    objects = Objects(store if archives is None else ArchivedObjects(store, archives))
    index = ChainIndex(store, objects, network)
    heads = StoreHeads(store, index)
    return store, archives, Services(store=store, index=index, objects=objects, network=network, head_source=heads)


async def read_objects(place: Place, state: str, what: str, calls: Sequence[Sequence[bytes]], each: int) -> None:
    """A row for the first time in a process, and one for the same again."""
    store, archives, _ = await open_place(place)
    reads: Any = store if archives is None else ArchivedObjects(store, archives)
    for now in (state, "warm"):
        await timed(f"{place.name}, {now}: {what}", [partial(reads.get_many, keys) for keys in calls], each)
    if archives is not None:
        await archives.close()
    await store.close()


async def answered(dispatcher: Any, body: bytes) -> None:
    """Ask, and end the run where the answer is an error."""
    _, answer = await dispatcher.http(1, body)
    if b'"error"' in answer:
        raise SystemExit(f"{body!r} answered {answer[:300]!r}")


async def ask_methods(place: Place, state: str, asked: dict[str, list[list[Any]]]) -> None:
    """Rows for each method."""
    from rpc.methods import register_all
    from rpc.server.dispatch import Dispatcher

    register_all()
    for method, params in asked.items():
        store, archives, services = await open_place(place)
        dispatcher = Dispatcher(services, settings=MAKING)
        bodies = [orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": some}) for some in params]
        for now in (state, "warm"):
            await timed(
                f"{place.name}, {now}: {method}",
                [partial(answered, dispatcher, body) for body in bodies],
            )
        if archives is not None:
            await archives.close()
        await store.close()


def size_of(folder: Path) -> int:
    """Bytes of a store's files."""
    return sum(path.stat().st_size for path in folder.rglob("data.mdb"))


async def fill(car: Path, network: Path, folder: Path) -> Sequence[bytes]:
    """Make the archive and both stores; the multihashes of the objects."""
    from leader_bridge.imports.importer import import_car
    from leader_bridge.imports.in_place import index_archives

    (folder / "files").mkdir()
    archive = folder / "files" / "chain.forest.car.zst"
    keys = write_forest(car, archive)
    whole = await LmdbStore.open(folder / "whole")
    await import_car(whole, car, network_file=network)
    await whole.close()
    rows = await LmdbStore.open(folder / "rows")
    for trusted in (False, True):
        if trusted:
            await rows.close()
            rows = await LmdbStore.open(folder / "trusted")
        archives = await Archives.open([str(archive)])
        began, cpu = time.perf_counter(), time.process_time()
        done = await index_archives(rows, archives, network_file=network, trusted=trusted)
        print(
            f"rows of {done.tipsets:,} tipsets{', trusted' if trusted else ''}:"
            f" {time.perf_counter() - began:.1f} s, CPU {time.process_time() - cpu:.1f} s"
        )
        await archives.close()
    await rows.close()
    print(
        f"{len(keys):,} objects; archive {archive.stat().st_size / 1e6:.1f} MB, whole store"
        f" {size_of(folder / 'whole') / 1e6:.1f} MB, rows alone {size_of(folder / 'rows') / 1e6:.1f} MB"
    )
    return keys


async def measure(folder: Path, keys: Sequence[bytes], url: str, objects: int, count: int) -> None:
    """Every row."""
    whole = await LmdbStore.open(folder / "whole", readonly=True)
    asked = await questions(whole, count, 1)
    await whole.close()
    archive = str(folder / "files" / "chain.forest.car.zst")
    rng = random.Random(2)
    some, many = rng.sample(keys, min(objects, len(keys))), rng.sample(keys, min(_MANY, len(keys)))
    places = (
        Place("LMDB", folder / "whole"),
        Place("archive", folder / "rows", archive),
        Place("HTTP", folder / "rows", url, folder / "cache"),
    )
    work = {"one object": ([[key] for key in some], 1), f"{len(many):,} at once, an object": ([many], len(many))}
    for place in places:
        for what, (calls, each) in work.items():
            here = replace(place, cache=place.cache and place.cache / str(each))
            for state in ("cold", "disk") if place.cache else ("cold",):
                if state == "cold":
                    forget(folder)
                await read_objects(here, state, what, calls, each)
    for place in places:
        forget(folder)
        await ask_methods(replace(place, cache=place.cache and place.cache / "methods"), "cold", asked)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    from tests.support.recorded import recorded

    parser = argparse.ArgumentParser(
        prog="python -m benches.stores.archive", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--car", type=Path, metavar="FILE", help="a chain (default: the recorded busy one)")
    parser.add_argument("--network", type=Path, metavar="FILE", help="its network file")
    parser.add_argument("--objects", type=int, default=2000, metavar="N", help="objects that are read (default 2000)")
    parser.add_argument("--questions", type=int, default=200, metavar="N", help="of each method (default 200)")
    parser.add_argument("--latency-ms", type=float, default=0.0, metavar="N", help="added to each answer over HTTP")
    args = parser.parse_args(arguments)
    car = args.car or recorded("busy/chain.car.zst")
    network = args.network or recorded("busy/network.json")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = asyncio.run(fill(car, network, folder))
        port = free_port()
        server = multiprocessing.get_context("spawn").Process(
            target=serve_file, args=(str(folder / "files"), port, args.latency_ms / 1000), daemon=True
        )
        server.start()
        time.sleep(1.5)
        try:
            url = f"http://127.0.0.1:{port}/chain.forest.car.zst"
            asyncio.run(measure(folder, keys, url, args.objects, args.questions))
        finally:
            server.terminate()
            server.join()


if __name__ == "__main__":
    main()
