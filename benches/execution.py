"""Calls that are executed, over HTTP, with no full node: requests a second, p99, CPU time of workers and executor.

    python -m benches.execution [--seconds N] [--workers N] [--threads N] [--followers N]

* "distinct": recorded calls, each with other data at its end, so that no kept answer serves.
* "as recorded": the recorded calls again and again, as clients ask; answers at a fixed tipset are kept.
* "the whole mix": `mix.jsonl`, the calls of a provider by their shares.
* 1, 2 and 3 followers (`--followers`), each with an executor of its own and a fixed rate: CPU time a call.

Needs the extension (`make execution`) and `wrk`. The load generator shares the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from benches.rpc_load import cpu_seconds, free_port, load, recorded_bodies
from follower.executor.child import MODULE
from tests.support.paths import ROOT
from tests.support.recorded import recorded

#: requests a second, more than are seen: each is made up before the run
_RATE: Final = 8_000
#: distinct calls a second that each of several followers gets
_FOLLOWER_RATE: Final = 150
#: seconds to compile the actors' code
_READY_SECONDS: Final = 300.0
_FIRST: Final = b'{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[{"data":"0x00"},"latest"]}'
_FOLLOWER: Final = (sys.executable, "-m", "follower.cli")


def made_different(bodies: Sequence[bytes], count: int) -> list[bytes]:
    """`count` calls, each with eight bytes of its own behind the data of a recorded one."""
    calls = [orjson.loads(body) for body in bodies]
    out = []
    for number in range(count):
        one = calls[number % len(calls)]
        asked, *rest = one["params"]
        name = "input" if asked.get("input") else "data"
        asked = {**asked, name: (asked.get(name) or "0x") + number.to_bytes(8, "big").hex()}
        out.append(orjson.dumps({**one, "params": [asked, *rest]}))
    return out


def ask(port: int, body: bytes) -> dict[str, Any]:
    """One answer. Errors: OSError."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/rpc/v1", body, timeout=60) as answer:
        found: dict[str, Any] = orjson.loads(answer.read())
        return found


@contextmanager
def serving(store: str, workers: int, threads: int) -> Iterator[tuple[int, list[int]]]:
    """(port, process ids) of a follower of so many workers and its executor. Errors: TimeoutError."""
    port = free_port()
    options = ["--workers", str(workers), "--execution", "on", "--execution-threads", str(threads)]
    command = [*_FOLLOWER, "serve", "--store", store, "--listen", f"127.0.0.1:{port}", "--log-level", "error", *options]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        end = time.monotonic() + _READY_SECONDS
        while True:
            try:
                if "result" in ask(port, _FIRST):
                    break
            except OSError:
                pass
            if process.poll() is not None or time.monotonic() > end:
                raise TimeoutError("the follower executes nothing")
            time.sleep(0.2)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield port, [process.pid, *map(int, children)]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def mix_bodies() -> list[bytes]:
    """The calls of a provider by their shares."""
    calls = map(orjson.loads, recorded("mix.jsonl").read_bytes().splitlines())
    return [
        orjson.dumps({"jsonrpc": "2.0", "id": number, "method": call["method"], "params": call["params"]})
        for number, call in enumerate(calls)
    ]


class Parts:
    """CPU time of the workers and of the executor since the start."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._executors = [pid for pid in pids if b"\0execute\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        self._workers = [pid for pid in pids if pid not in self._executors]
        self._before = self._now()

    def _now(self) -> tuple[float, float]:
        return cpu_seconds(self._workers), cpu_seconds(self._executors)

    def text(self, requests: int) -> str:
        """Microseconds a request."""
        workers, executor = (now - then for now, then in zip(self._now(), self._before, strict=True))
        return f"  workers {workers / requests * 1e6:.0f}, executor {executor / requests * 1e6:.0f}"


def measure(name: str, port: int, pids: Sequence[int], bodies: Sequence[bytes], seconds: float) -> None:
    """Print a row; the first bodies warm up."""
    url = f"http://127.0.0.1:{port}/rpc/v1"
    good = sum("result" in ask(port, body) for body in bodies[:50])
    load(url, bodies[50:550], seconds=2.0)
    parts = Parts(pids)
    took = load(url, bodies[min(1000, len(bodies) // 2) :], pids=pids, seconds=seconds)
    print(took.row(f"{name} ({good} of 50 results)") + parts.text(took.requests), flush=True)


async def paced(port: int, bodies: Sequence[bytes], rate: float) -> None:
    """Post each body once, so many a second, on one connection after another answer has come or not."""
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def one(body: bytes) -> None:
        reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
        free.append((reader, writer))

    began = asyncio.get_running_loop().time()
    tasks = []
    for number, body in enumerate(bodies):
        await asyncio.sleep(began + number / rate - asyncio.get_running_loop().time())
        tasks.append(asyncio.create_task(one(body)))
    await asyncio.gather(*tasks)
    for _, writer in free:
        writer.close()


def measure_followers(store: str, most: int, bodies: Sequence[bytes], seconds: float) -> None:
    """Print a row for each number of followers, all of one worker and one thread, at the same rate each."""

    async def all_of(ports: Sequence[int], calls: Sequence[bytes]) -> None:
        share = len(calls) // len(ports)
        parts = [calls[at * share : (at + 1) * share] for at in range(len(ports))]
        await asyncio.gather(*(paced(port, part, _FOLLOWER_RATE) for port, part in zip(ports, parts, strict=True)))

    for count in range(1, most + 1):
        with contextlib.ExitStack() as stack:
            running = [stack.enter_context(serving(store, 1, 1)) for _ in range(count)]
            ports, pids = [port for port, _ in running], [pid for _, some in running for pid in some]
            asyncio.run(all_of(ports, bodies[: 200 * count]))
            asked = bodies[1000 : 1000 + round(_FOLLOWER_RATE * seconds) * count]
            before, parts, began = cpu_seconds(pids), Parts(pids), time.monotonic()
            asyncio.run(all_of(ports, asked))
            each, rate = (cpu_seconds(pids) - before) / len(asked), len(asked) / (time.monotonic() - began)
            name = f"eth_call, distinct, {count} followers"
            print(f"{name:44} {rate:10,.0f}/s{each * 1e6:44.1f} us CPU each{parts.text(len(asked))}", flush=True)


def import_chain(folder: Path, name: str) -> str:
    """The URL of a store with a recorded chain. Errors: CalledProcessError."""
    store = f"lmdb://{folder}/{name}"
    chain = [str(recorded(f"{name}/chain.car.zst")), "--network", str(recorded(f"{name}/network.json"))]
    subprocess.run([*_FOLLOWER, "import", *chain, "--store", store], cwd=ROOT, check=True, capture_output=True)
    return store


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.execution", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row (default 10)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of the executor (default 2)")
    parser.add_argument("--followers", type=int, default=3, help="the most of them (default 3)")
    args = parser.parse_args(arguments)
    if importlib.util.find_spec(MODULE) is None:
        print("nothing is measured: the virtual machine is not installed (make execution)")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = import_chain(folder, "busy")
        count = 1_000 + round(_RATE * args.seconds)
        calls = {
            method: recorded_bodies(recorded("busy/vm.jsonl.zst"), method) for method in ("eth_call", "eth_estimateGas")
        }
        distinct = {method: made_different(bodies, count) for method, bodies in calls.items()}
        with serving(store, args.workers, args.threads) as (port, pids):
            for method, bodies in distinct.items():
                measure(f"{method}, distinct", port, pids, bodies, args.seconds)
            for method, bodies in calls.items():
                measure(f"{method}, as recorded", port, pids, bodies, args.seconds)
        with serving(import_chain(folder, "devnet"), args.workers, args.threads) as (port, pids):
            measure("the whole mix", port, pids, mix_bodies(), args.seconds)
        measure_followers(store, args.followers, distinct["eth_call"], args.seconds)


if __name__ == "__main__":
    main()
