"""Snapshots of a recorded chain from an LMDB store: objects/s, MB/s and CPU time, for each form of file.

    python -m benches.stores.export [--chain busy] [--car FILE --network FILE] [--turns 3] [--serving] [--seen 0]

`--serving`: then, how long reads of states take that a follower answers from the store (200 a second, for some seconds)
while nothing is exported, and while the command exports again and again with the percentages given.
`--seen N`: beside it, what remembering N objects takes, a fifth of them asked for again, in time, memory and disk.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp

from benches.import_car import measured
from blockstore.car.snapshot_forms import Form
from blockstore.open import open_store
from leader_bridge.exports.exporter import export_snapshot
from leader_bridge.exports.scope import snapshot_scope
from leader_bridge.exports.seen_objects import SeenObjects
from leader_bridge.imports.importer import import_car
from tests.support.processes import clean_environment, follower_process, free_port
from tests.support.recorded import recorded

_ALL_STATES: Final = 1 << 40
#: pairs of requests a second: a tipset, and an actor in its state
_PAIRS: Final = 100


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


async def serving(car: Path, network: Path, folder: Path, percents: Sequence[int], seconds: float) -> None:
    """Percentiles of a follower's answers, without an export and with one after another."""
    store = f"lmdb://{folder}/served"
    opened = await open_store(store, bulk=True)
    await import_car(opened, car, network_file=network)
    head = await opened.head()
    assert head is not None
    await opened.close()
    port = free_port()
    url = f"http://127.0.0.1:{port}/rpc/v1"
    print("| export | requests | p50 ms | p99 ms | longest ms | exports |")
    print("|---|---|---|---|---|---|")
    with follower_process("serve", "--one", "--store", store, "--listen", f"127.0.0.1:{port}"):
        async with aiohttp.ClientSession() as session:
            await _until_served(session, url)
            await _latencies(session, url, head.head.height, 2)
            for percent in (0, *percents):
                exports = 0
                stop = asyncio.Event()

                async def again(percent: int, stop: asyncio.Event) -> int:
                    count = 0
                    while not stop.is_set():
                        command = ["-m", "follower.cli", "store", "export", "--store", store, "--force"]
                        command += ["--percent", str(percent), f"{folder}/served.forest.car.zst"]
                        quiet = asyncio.subprocess.DEVNULL
                        child = await asyncio.create_subprocess_exec(
                            sys.executable, *command, stdout=quiet, stderr=quiet, env=clean_environment()
                        )
                        assert not await child.wait()
                        count += 1
                    return count

                running = asyncio.create_task(again(percent, stop)) if percent else None
                took = sorted(await _latencies(session, url, head.head.height, seconds))
                stop.set()
                if running is not None:
                    exports = await running
                p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
                name = f"{percent} % of the time" if percent else "none"
                print(
                    f"| {name} | {len(took):,} | {p50 * 1e3:.1f} | {p99 * 1e3:.1f} | {took[-1] * 1e3:.1f} | {exports} |"
                )


async def _until_served(session: aiohttp.ClientSession, url: str) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "Filecoin.ChainHead", "params": []}
    for _ in range(600):
        try:
            async with session.post(url, json=body) as answer:
                if "result" in await answer.json():
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.1)
    raise RuntimeError("the follower does not serve")


async def _latencies(session: aiohttp.ClientSession, url: str, top: int, seconds: float) -> list[float]:
    """Seconds from when a request was due to its answer."""
    rng = random.Random(1)
    took: list[float] = []
    began = time.perf_counter()

    async def ask(due: float) -> None:
        body = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "Filecoin.ChainGetTipSetByHeight",
            "params": [rng.randrange(top), []],
        }
        async with session.post(url, json=body) as answer:
            found = (await answer.json())["result"]
        body.update(method="Filecoin.StateGetActor", params=[f"f0{rng.randrange(100, 110)}", found["Cids"]])
        async with session.post(url, json=body) as answer:
            await answer.read()
        took.append(time.perf_counter() - due)

    tasks: list[asyncio.Task[None]] = []
    for number in range(int(seconds * _PAIRS)):
        due = began + number / _PAIRS
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(due)))
    await asyncio.gather(*tasks)
    return took


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
    parser.add_argument("--serving", action="store_true")
    parser.add_argument("--seen", type=int, default=0)
    args = parser.parse_args()
    car = args.car or recorded(f"{args.chain}/chain.car.zst")
    network = args.network or recorded(f"{args.chain}/network.json")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(car, network, Path(folder), args.turns))
        if args.serving:
            asyncio.run(serving(car, network, Path(folder), (50, 100), 15))
        if args.seen:
            remember(args.seen, Path(folder))


if __name__ == "__main__":
    main()
