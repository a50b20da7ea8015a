"""Requests a second, p99 and CPU time of calls that are executed, over HTTP: two workers and one executor.

    python -m benches.execution [--seconds N] [--workers N] [--threads N]

The calls are recorded ones. Each request has other data at its end, so that no kept answer serves. Needs the extension
(`make execution`) and `wrk`. The load generator shares the machine; CPU time is that of workers and executor together.
"""

from __future__ import annotations

import argparse
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

from benches.rpc_load import free_port, load, recorded_bodies
from follower.executor.child import MODULE
from tests.support.paths import ROOT
from tests.support.recorded import recorded

#: requests a second, more than are seen: each is made up before the run
_RATE: Final = 6_000
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


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.execution", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row (default 10)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of the executor (default 2)")
    args = parser.parse_args(arguments)
    if importlib.util.find_spec(MODULE) is None:
        print("nothing is measured: the virtual machine is not installed (make execution)")
        return
    with tempfile.TemporaryDirectory() as folder:
        store = f"lmdb://{folder}/store"
        chain = [str(recorded("busy/chain.car.zst")), "--network", str(recorded("busy/network.json"))]
        subprocess.run([*_FOLLOWER, "import", *chain, "--store", store], cwd=ROOT, check=True, capture_output=True)
        count = 1_000 + round(_RATE * args.seconds)
        questions = {
            method: made_different(recorded_bodies(recorded("busy/vm.jsonl.zst"), method), count)
            for method in ("eth_call", "eth_estimateGas")
        }
        with serving(store, args.workers, args.threads) as (port, pids):
            url = f"http://127.0.0.1:{port}/rpc/v1"
            for method, bodies in questions.items():
                good = sum("result" in ask(port, body) for body in bodies[:50])
                load(url, bodies[50:550], seconds=2.0)
                took = load(url, bodies[1000:], pids=pids, seconds=args.seconds)
                print(took.row(f"{method} ({good} of 50 give a result)"), flush=True)


if __name__ == "__main__":
    main()
