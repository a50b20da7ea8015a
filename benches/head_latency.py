"""From a node's head change to the follower's answer: node, bridge and follower in three processes.

The node is the simulated one, with `--objects` new objects an epoch; a client asks `ChainHead` without pause
and notes when the new head first comes back.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from devnode.sim_chain import SimSettings
from devnode.simulate import start_simulated

_ASK = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "Filecoin.ChainHead", "params": []})


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "follower.cli", *arguments, "--log-level", "error"],
        stdout=subprocess.DEVNULL,
    )


async def _head(session: aiohttp.ClientSession, url: str) -> list[str] | None:
    try:
        async with session.post(url, data=_ASK) as answer:
            body: dict[str, Any] = orjson.loads(await answer.read())
    except (aiohttp.ClientError, OSError):
        return None
    return [cid["/"] for cid in body["result"]["Cids"]] if "result" in body else None


async def measure(objects: int, actors: int, changes: int, interval: float) -> str:
    """One line of figures."""
    node = await start_simulated(SimSettings.for_size(actors, objects))
    with tempfile.TemporaryDirectory() as folder:
        store, port = f"lmdb://{folder}/store", 20_000 + os.getpid() % 10_000
        bridge = _start("bridge", "--node", node.base, "--store", store)
        worker = _start("serve", "--store", store, "--listen", f"127.0.0.1:{port}")
        url = f"http://127.0.0.1:{port}/rpc/v1"
        waits: list[float] = []
        try:
            async with aiohttp.ClientSession() as session, asyncio.timeout(600):
                while await _head(session, url) is None:
                    await asyncio.sleep(0.05)
                before = (await node.store.stats())["objects"]
                cpu = cpu_seconds(bridge.pid)
                for _ in range(changes):
                    await node.advance()
                    moved = time.monotonic()
                    wanted = [str(cid) for cid in node.heads.head.key.cids]
                    while await _head(session, url) != wanted:
                        await asyncio.sleep(0.0005)
                    waits.append(time.monotonic() - moved)
                    await asyncio.sleep(interval)
                new = ((await node.store.stats())["objects"] - before) / changes
                cpu = (cpu_seconds(bridge.pid) - cpu) / changes
        finally:
            for process in (worker, bridge):
                process.send_signal(signal.SIGTERM)
                process.wait(30)
            await node.stop()
    return (
        f"head to answer, {new:,.0f} new objects a change: p50 {percentile(waits, 0.5) * 1e3:.1f} ms, "
        f"p99 {percentile(waits, 0.99) * 1e3:.1f} ms, most {max(waits) * 1e3:.1f} ms; "
        f"bridge CPU {cpu * 1e3:.1f} ms a change ({changes} changes)"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benches.head_latency", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--objects", type=int, default=200, help="new objects an epoch")
    parser.add_argument("--actors", type=int, default=180)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--interval", type=float, default=0.1, help="seconds between head changes")
    args = parser.parse_args(arguments)
    print(asyncio.run(measure(args.objects, args.actors, args.changes, args.interval)))


if __name__ == "__main__":
    main()
