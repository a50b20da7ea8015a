"""Whether a bridge keeps up with a chain of mainnet's size: seconds, processor time and bytes of each tipset.

    python -m benches.load.keep_up [--actors 1000000] [--objects 20000-60000] [--block-time 10]
                                    [--seconds 120] [--store DIR]

The genesis is written into the bridge's LMDB store directly: mirroring a whole state is another measurement. Then
`follower simulate --mainnet` serves the same chain (same seed and genesis time), and `follower bridge` follows it, each
in a process of its own. What a head costs the bridge comes from its metrics. `--store DIR` keeps the store there, for
`python -m benches.load.stalls`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benches.rpc_load import cpu_seconds, free_port
from blockstore.cid import Cid
from blockstore.lmdb.store import LmdbStore
from devnode.sim_chain import SimSettings, SimulatedChain
from follower.commands.simulate import objects_range

_BATCH = 20_000
_METRICS = ("tipsets_total", "objects_total", "object_bytes_total", "tipset_seconds_sum", "tipset_seconds_count",
            "lag_epochs", "head_height")  # fmt: skip


async def write_genesis(folder: Path, settings: SimSettings) -> tuple[int, int]:
    """Write the state of a chain's genesis; (objects, bytes)."""
    store = await LmdbStore.open(folder, bulk=True)
    waiting: list[tuple[bytes, bytes]] = []
    done = asyncio.get_running_loop()
    total = [0, 0]

    def flush() -> None:
        asyncio.run_coroutine_threadsafe(store.put_many(waiting, closed=True), done).result()
        waiting.clear()

    def put(cid: Cid, data: bytes) -> None:
        waiting.append((cid.multihash, data))
        total[0] += 1
        total[1] += len(data)
        if len(waiting) >= _BATCH:
            flush()

    await asyncio.to_thread(SimulatedChain, settings, put)
    await asyncio.to_thread(flush)
    await store.flush()
    await store.close()
    return total[0], total[1]


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A subcommand in a process of its own; its log is printed where it ends by itself."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FOLLOWER_", "FULLNODE_"))}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "follower.cli", *arguments],
            stdout=log, stderr=log, env={**environment, "FOLLOWER_EXECUTION": "off"},
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is not None:
                log.seek(0)
                print(log.read().decode(errors="replace")[-2000:])
            process.terminate()
            process.wait()


def metrics(port: int) -> dict[str, float]:
    """The bridge's metrics that are of use here."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("follower_bridge_"))
    return {name: float(found.get(f"follower_bridge_{name}", 0)) for name in _METRICS}


def private_mb(pid: int) -> float:
    """Private memory of a process, MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1e3


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 400) -> None:
    """Until somebody listens. Errors: SystemExit."""
    import socket

    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.2)
    raise SystemExit("it does not listen")


def measure(folder: Path, args: argparse.Namespace) -> None:
    """Follow for a while, and print a line a tipset."""
    least, most = args.objects
    settings = SimSettings.for_size(args.actors, least, most, seed=args.seed)
    port, metrics_port = free_port(), free_port()
    simulate = [
        "simulate", "--mainnet", "--actors", str(args.actors), "--objects", f"{least}-{most}" if most else str(least),
        "--seed", str(args.seed), "--block-time", str(args.block_time), "--listen", f"127.0.0.1:{port}",
    ]  # fmt: skip
    bridge = [
        "bridge", "--node", f"http://127.0.0.1:{port}", "--store", f"lmdb://{folder}", "--backfill-epochs", "0",
        "--metrics-listen", f"127.0.0.1:{metrics_port}",
    ]  # fmt: skip
    with running(*simulate) as node:
        # both make the same state, each on a core of its own
        began, cpu = time.perf_counter(), time.process_time()
        objects, size = asyncio.run(write_genesis(folder, settings))
        print(
            f"genesis: {args.actors:,} actors, {objects:,} objects, {size / 1e6:,.0f} MB in "
            f"{time.perf_counter() - began:.0f} s ({time.process_time() - cpu:.0f} s CPU)",
            flush=True,
        )
        wait_for(port, node)
        with running(*bridge) as follower:
            wait_for(metrics_port, follower)
            follow(metrics_port, node.pid, follower.pid, args.seconds)


def follow(port: int, node: int, bridge: int, seconds: float) -> None:
    """Print what each published head cost, then the means."""
    end = time.monotonic() + seconds
    first = before = metrics(port)
    started = cpu = cpu_seconds([bridge])
    slowest = lag = 0.0
    while time.monotonic() < end:
        time.sleep(0.1)
        now = metrics(port)
        if now["tipset_seconds_count"] == before["tipset_seconds_count"]:
            continue
        used = cpu_seconds([bridge])
        tipsets = now["tipset_seconds_count"] - before["tipset_seconds_count"]
        took = (now["tipset_seconds_sum"] - before["tipset_seconds_sum"]) / tipsets
        slowest, lag = max(slowest, took), max(lag, now["lag_epochs"])
        print(
            f"head {now['head_height']:5.0f}: {now['objects_total'] - before['objects_total']:7,.0f} objects "
            f"{(now['object_bytes_total'] - before['object_bytes_total']) / 1e6:6.1f} MB, published after "
            f"{took:5.2f} s, {used - cpu:5.2f} s CPU; private memory of the bridge {private_mb(bridge):,.0f} MB, "
            f"of the node {private_mb(node):,.0f} MB",
            flush=True,
        )
        before, cpu = now, used
    tipsets = before["tipset_seconds_count"] - first["tipset_seconds_count"]
    if not tipsets:
        raise SystemExit("no head was published")
    made = before["objects_total"] - first["objects_total"]
    size = before["object_bytes_total"] - first["object_bytes_total"]
    print(
        f"{tipsets:.0f} tipsets: {made / tipsets:,.0f} objects, {size / tipsets / 1e6:.1f} MB and "
        f"{(cpu - started) / tipsets:.2f} s CPU each ({(cpu - started) / made * 1e6:.0f} us an object); slowest "
        f"{slowest:.2f} s, lag at most {lag:.0f} epochs"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--objects", type=objects_range, default=(20_000, 60_000), metavar="N[-M]")
    parser.add_argument("--block-time", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="N", help="of following (default 120)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", type=Path, metavar="DIR", help="keep the store there")
    args = parser.parse_args()
    if args.store is not None:
        measure(args.store, args)
        return
    with tempfile.TemporaryDirectory(prefix="keep-up-") as folder:
        measure(Path(folder) / "store", args)


if __name__ == "__main__":
    main()
