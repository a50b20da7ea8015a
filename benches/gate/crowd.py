"""`python -m benches.gate.crowd`: others' response times beside 10,000 idle connections and 10,000 subscriptions.

A follower over LMDB serves a simulated chain; a head comes each `--interval` seconds. A process of clients asks
the published mix at a fixed rate, on connections of its own; a response time counts from the moment at which its
request was due. Measured in turns: nobody else there; idle connections, half of them WebSockets; subscriptions to new
heads, logs and head changes, eight a WebSocket; both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import aiohttp
import uvloop

from benches.heads.moving_mix import _children, _Prepared, _rss, _served, _start, _stop, served_chain
from tests.support.processes import free_port

_CONNECTIONS: Final = 32
_OPEN_SECONDS: Final = 300.0


class Asker(asyncio.Protocol):
    """One connection of the measuring client: one request at a time."""

    def __init__(self) -> None:
        #: answers that were no results; the first is printed
        self.errors = 0
        self._rest = b""
        self._answer: asyncio.Future[bool] | None = None
        self._transport: asyncio.Transport = None  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    async def ask(self, body: bytes) -> bool:
        """Whether the answer is a result."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, end, body = self._rest.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]):
            return
        self._rest = b""
        assert self._answer is not None
        is_result = b'"error"' not in body[:80] and b" 200 " in head[:16]
        if not is_result and not self.errors:
            print(head.decode(), body[:300].decode(), file=sys.stderr)
        self.errors += not is_result
        self._answer.set_result(is_result)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(False)


async def ask_at(rate: float, seconds: float, port: int, bodies: Sequence[bytes]) -> tuple[list[float], int]:
    """(seconds of each answer from the moment at which it was due, errors) of `rate` requests a second."""
    loop = asyncio.get_running_loop()
    free = deque([(await loop.create_connection(Asker, "127.0.0.1", port))[1] for _ in range(_CONNECTIONS)])
    took: list[float] = []
    errors = 0
    freed = asyncio.Event()

    async def one(asker: Asker, due: float, body: bytes) -> None:
        nonlocal errors
        errors += not await asker.ask(body)
        took.append(loop.time() - due)
        free.append(asker)
        freed.set()

    began = loop.time()
    running: set[asyncio.Task[None]] = set()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        while not free:
            freed.clear()
            await freed.wait()
        task = asyncio.create_task(one(free.popleft(), due, bodies[number % len(bodies)]))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    for asker in free:
        asker._transport.close()
    return took, errors


def _ask(arguments: Sequence[str]) -> int:
    """The measuring process: port, rate, seconds, file of bodies. Prints p50, p99, the longest, and errors."""
    port, rate, seconds, path = arguments
    bodies = Path(path).read_bytes().splitlines()
    took, errors = uvloop.run(ask_at(float(rate), float(seconds), int(port), bodies))
    took.sort()
    print(json.dumps([took[len(took) // 2], took[int(len(took) * 0.99)], took[-1], errors]))
    return 0


@contextlib.asynccontextmanager
async def crowd(port: int, idle: int, subscriptions: int) -> AsyncIterator[_Crowd]:
    """The clients, all connected."""
    command = [
        sys.executable, "-m", "benches.gate.crowd_client", "--port", str(port), "--idle", str(idle),
        "--subscriptions", str(subscriptions),
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    found = _Crowd(process)
    reading = asyncio.create_task(found.read())
    try:
        if idle or subscriptions:
            await found.wait_for(idle, subscriptions)
        yield found
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await reading


class _Crowd:
    """What the clients tell."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.counts: dict[str, int] = {}

    async def read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.counts = json.loads(line)

    async def wait_for(self, idle: int, subscriptions: int) -> None:
        deadline = time.monotonic() + _OPEN_SECONDS
        while (self.counts.get("idle", 0), self.counts.get("subscriptions", 0)) != (idle, subscriptions):
            if time.monotonic() > deadline or self.counts.get("refused") or self._process.returncode is not None:
                raise SystemExit(f"not all clients were taken: {self.counts}")
            await asyncio.sleep(0.2)


async def measure(args: argparse.Namespace) -> int:
    """Print the figures."""
    cases = (
        ("nobody else", 0, 0),
        (f"{args.idle:,} idle connections", args.idle, 0),
        (f"{args.subscriptions:,} subscriptions", 0, args.subscriptions),
        ("both", args.idle, args.subscriptions),
    )
    async with _prepared(args) as (url, bodies):
        print("| beside | p50 ms | p99 ms | longest ms | p99 by alone | pushes | MB of a worker |")
        print("|---|---|---|---|---|---|---|", flush=True)
        alone = 0.0
        for name, idle, subscriptions in cases:
            port = free_port()
            follower = _start(
                "serve", "--store", url, "--listen", f"127.0.0.1:{port}", "--workers", str(args.workers),
                "--max-connections", "20000", "--max-channels", "20000", "--max-waiting", "20000",
            )  # fmt: skip
            try:
                async with aiohttp.ClientSession() as session:
                    await _served(session, port)
                alone = await _case(args, url, port, follower.pid, bodies, (name, idle, subscriptions), alone)
            finally:
                _stop(follower)
    return 0


@contextlib.asynccontextmanager
async def _prepared(args: argparse.Namespace) -> AsyncIterator[tuple[str, str]]:
    """(URL of the store, file of the questions): those in `--folder`, made where they are not there."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        questions = folder / "questions"
        if not questions.exists():
            async with served_chain(args.epochs, args.changes) as (url, bodies):
                await asyncio.to_thread(shutil.copytree, url.removeprefix("lmdb://"), folder / "store")
                random.Random(1).shuffle(bodies)
                questions.write_bytes(b"\n".join(bodies))
        yield f"lmdb://{folder}/store", str(questions)


async def _case(
    args: argparse.Namespace, url: str, port: int, pid: int, bodies: str, case: tuple[str, int, int], alone: float
) -> float:
    name, idle, subscriptions = case
    store = await _Prepared.of(url, args.changes)
    async with crowd(port, idle, subscriptions) as clients:
        moving = asyncio.create_task(store.publisher.run(args.interval))
        runs: list[list[float]] = []
        before = clients.counts.get("pushes", 0)
        try:
            for _ in range(args.rounds + 1):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "benches.gate.crowd", "ask", str(port), str(args.rate), str(args.seconds),
                    bodies, stdout=asyncio.subprocess.PIPE,
                )  # fmt: skip
                runs.append(json.loads((await process.communicate())[0]))
        finally:
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)
        await asyncio.sleep(1.5)
        pushes = clients.counts.get("pushes", 0) - before
        closed, refused = clients.counts.get("closed", 0), clients.counts.get("refused", 0)
        memory = max(_rss(one) for one in _children(pid))
    await store.store.close()
    # the first run fills the caches
    p50, p99, longest = (median(run[at] for run in runs[1:]) * 1e3 for at in range(3))
    errors = sum(run[3] for run in runs)
    alone = alone or p99
    print(
        f"| {name} | {p50:.2f} | {p99:.2f} | {longest:.1f} | {p99 / alone:.2f} | {pushes:,} | {memory / 1e6:.0f} |"
        + (f" {errors:.0f} errors, {closed} closed, {refused} refused" if errors or closed or refused else ""),
        flush=True,
    )
    return alone


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["ask"]:
        return _ask(given[1:])
    parser = argparse.ArgumentParser(prog="python -m benches.gate.crowd", description=__doc__)
    parser.add_argument("--idle", type=int, default=10_000, help="connections")
    parser.add_argument("--subscriptions", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second of the others")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--interval", type=float, default=4.0, help="seconds between heads")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=170, help="of the chain below")
    parser.add_argument("--changes", type=int, default=12, help="head changes that are played")
    parser.add_argument("--folder", default="", help="where the chain is kept for further runs; default: a new one")
    return asyncio.run(measure(parser.parse_args(given)))


if __name__ == "__main__":
    raise SystemExit(main())
