"""`python -m benches.gate.crowd`: others' response times beside 10,000 idle connections and 10,000 subscriptions.

A follower over LMDB serves a simulated chain. In each round it is measured in turns, beside nobody else; beside idle
connections, half of them WebSockets; beside those and subscriptions to new heads, logs and head changes, eight a
WebSocket; and beside the subscriptions alone. A process of clients asks the published mix at a fixed rate, on
connections of its own; a response time counts from the moment at which its request was due. In each turn the head
moves through the same changes. All rounds' times are pooled. Before the first round a turn fills the caches.

Fails (status 1) where p99 beside one of them is more than `--most` times that beside nobody, where an answer is no
result, where a connection was refused or closed, or where a subscription lacks a push.
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
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import aiohttp

from benches.heads.moving_mix import _children, _Prepared, _rss, _served, _start, _stop, served_chain
from tests.support.processes import free_port

_OPEN_SECONDS: Final = 300.0
#: seconds after the last head in which all pushes come
_LAST_PUSH_SECONDS: Final = 1.5
#: seconds after a head whose requests are looked at apart
_HEAD_SECONDS: Final = 0.25
#: share of the chain's calls of contracts that emit a log: one or two a head
_LOGGING_CALLS: Final = 0.15
#: in the order in which clients come and go: (idle connections, subscriptions)
_CASES: Final = ((False, False), (True, False), (True, True), (False, True))


@dataclass(slots=True)
class Turn:
    """What was measured in one turn: seconds of each answer, those due soon after a head, and what the crowd told."""

    took: list[float]
    after_head: list[float]
    errors: int
    heads: int
    #: of the follower's processes, seconds
    cpu: float
    memory: int
    pushes: int = 0
    pushed_bytes: int = 0
    spans: list[float] = field(default_factory=list)
    #: what is wrong with the pushes or the connections
    faults: list[str] = field(default_factory=list)


class Crowd:
    """A process of clients."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def tell(self, line: str) -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def read(self) -> dict[str, Any]:
        """The next line that it prints."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_OPEN_SECONDS):
            line = await self._process.stdout.readline()
        if not line:
            raise SystemExit("the clients have ended")
        found: dict[str, Any] = json.loads(line)
        return found


@contextlib.asynccontextmanager
async def crowd(port: int, idle: int, subscriptions: int) -> AsyncIterator[Crowd]:
    """The clients, all connected."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benches.gate.crowd_client", "--port", str(port), "--idle", str(idle),
        "--subscriptions", str(subscriptions),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
    )  # fmt: skip
    try:
        clients = Crowd(process)
        found = await clients.read()
        if (found.get("idle", 0), found.get("subscriptions", 0)) != (idle, subscriptions) or found.get("refused"):
            raise SystemExit(f"not all clients were taken: {found}")
        yield clients
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process and its children, all threads."""
    nanoseconds = 0
    for one in {pid, *_children(pid)}:
        for task in Path(f"/proc/{one}/task").iterdir():
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def quantile(times: Sequence[float], share: float) -> float:
    """In milliseconds."""
    return sorted(times)[int(len(times) * share)] * 1e3 if times else 0.0


class Judge:
    """Measures one follower."""

    def __init__(self, args: argparse.Namespace, store: _Prepared, port: int, pid: int, bodies: str) -> None:
        self._args = args
        self._store = store
        self._port = port
        self._pid = pid
        self._bodies = bodies

    async def warm_up(self) -> None:
        """Fill the caches: a turn that is not counted."""
        await self._turn(None, None)

    async def round(self) -> list[Turn]:
        """One turn of each case."""
        args, turns = self._args, []
        turns.append(await self._turn(None, None))
        async with crowd(self._port, args.idle, 0) as idle:
            turns.append(await self._turn(idle, None))
            async with contextlib.AsyncExitStack() as stack:
                subscribers = await stack.enter_async_context(crowd(self._port, 0, args.subscriptions))
                turns.append(await self._turn(idle, subscribers))
                leaving = stack.pop_all()
        async with leaving:
            turns.append(await self._turn(None, subscribers))
        return turns

    async def _turn(self, idle: Crowd | None, subscribers: Crowd | None) -> Turn:
        args, publisher = self._args, self._store.publisher
        heads: list[float] = []

        async def move() -> None:
            due = time.monotonic() + args.interval / 2
            for _ in range(args.changes):
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                heads.append(time.monotonic())
                await publisher.step()
                due += args.interval

        # back to where the changes begin, in one step, which is no part of the measurement
        await publisher.step()
        await asyncio.sleep(args.rest)
        for clients in (idle, subscribers):
            if clients is not None:
                await clients.tell("begin")
        cpu = _cpu_seconds(self._pid)
        moving = asyncio.create_task(move())
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benches.gate.crowd_asker", "--port", str(self._port), "--rate", str(args.rate),
            "--seconds", str(args.changes * args.interval), "--bodies", self._bodies,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        asked = json.loads((await process.communicate())[0])
        await moving
        await asyncio.sleep(_LAST_PUSH_SECONDS)
        cpu = _cpu_seconds(self._pid) - cpu
        soon = [took for due, took in asked["took"] if any(at <= due < at + _HEAD_SECONDS for at in heads)]
        memory = max(_rss(one) for one in _children(self._pid))
        turn = Turn([took for _, took in asked["took"]], soon, asked["errors"], len(heads), cpu, memory)
        for clients in (idle, subscribers):
            if clients is not None:
                await clients.tell("count")
                self._count(turn, await clients.read(), clients is subscribers)
        return turn

    def _count(self, turn: Turn, told: dict[str, Any], is_subscriber: bool) -> None:
        for name in ("closed", "refused"):
            if told.get(name):
                turn.faults.append(f"{told[name]} {name}")
        if not is_subscriber:
            return
        turn.pushes, turn.pushed_bytes, turn.spans = told["pushes"], told["bytes"], told["spans"]
        if told["kinds"]["ChainNotify"] != [turn.heads, turn.heads]:
            turn.faults.append(f"head changes told for {turn.heads} heads: {told['kinds']['ChainNotify']}")
        for kind, (fewest, most) in told["kinds"].items():
            if fewest != most or not fewest:
                turn.faults.append(f"pushes of {kind} to a subscription: {fewest} to {most}")


async def measure(args: argparse.Namespace) -> int:
    """Print the figures; the exit status."""
    port = free_port()
    async with _prepared(args) as (url, bodies):
        follower = _start(
            "serve", "--store", url, "--listen", f"127.0.0.1:{port}", "--workers", str(args.workers),
            "--max-connections", "20000", "--max-channels", "20000", "--max-waiting", "20000",
        )  # fmt: skip
        try:
            async with aiohttp.ClientSession() as session:
                await _served(session, port)
            store = await _Prepared.of(url, args.changes)
            judge = Judge(args, store, port, follower.pid, bodies)
            await judge.warm_up()
            rounds = _earlier(args.samples) + [await judge.round() for _ in range(args.rounds)]
            await store.store.close()
        finally:
            _stop(follower)
    if args.samples:
        Path(args.samples).write_text(json.dumps([[asdict(turn) for turn in turns] for turns in rounds]))
    return shown(args, rounds)


def _earlier(path: str) -> list[list[Turn]]:
    """The rounds of earlier runs."""
    if not path or not Path(path).exists():
        return []
    return [[Turn(**turn) for turn in turns] for turns in json.loads(Path(path).read_text())]


def shown(args: argparse.Namespace, rounds: list[list[Turn]]) -> int:
    """Print the table; the exit status."""
    names = []
    for idle, subscriptions in _CASES:
        parts = [f"{args.idle:,} idle connections"] * idle + [f"{args.subscriptions:,} subscriptions"] * subscriptions
        names.append(" and ".join(parts) or "nobody else")
    print(
        "| beside | p50 ms | p99 ms | rounds' p99 | p99.9 ms | longest ms | p99 by alone | p99 within 0.25 s of a head"
        " | pushes a round | all pushed within ms | CPU a push us | MB of a worker |\n" + "|---" * 12 + "|"
    )
    alone, alone_cpu, failed = 0.0, 0.0, False
    for name, turns in zip(names, zip(*rounds, strict=True), strict=True):
        took = [one for turn in turns for one in turn.took]
        p99, cpu = quantile(took, 0.99), sum(turn.cpu for turn in turns)
        alone, alone_cpu = alone or p99, alone_cpu or cpu
        pushes = sum(turn.pushes for turn in turns)
        spread = " ".join(f"{quantile(turn.took, 0.99):.2f}" for turn in turns)
        after = quantile([one for turn in turns for one in turn.after_head], 0.99)
        spans = [span for turn in turns for span in turn.spans]
        faults = [fault for turn in turns for fault in turn.faults]
        errors = sum(turn.errors for turn in turns)
        failed = failed or bool(faults or errors) or p99 > args.most * alone
        print(
            f"| {name} | {quantile(took, 0.5):.2f} | {p99:.2f} | {spread} | {quantile(took, 0.999):.2f} |"
            f" {max(took) * 1e3:.1f} | {p99 / alone:.2f} | {after:.2f} | {pushes // len(turns):,} |"
            f" {median(spans or [0.0]) * 1e3:.0f} | {(cpu - alone_cpu) / pushes * 1e6 if pushes else 0:.1f} |"
            f" {max(turn.memory for turn in turns) / 1e6:.0f} |"
            + (f" {errors} errors; {'; '.join(faults)}" if errors or faults else ""),
            flush=True,
        )
    return int(failed)


@contextlib.asynccontextmanager
async def _prepared(args: argparse.Namespace) -> AsyncIterator[tuple[str, str]]:
    """(URL of the store, file of the questions): those in `--folder`, made where they are not there."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        questions = folder / "questions"
        if not questions.exists():
            async with served_chain(args.epochs, args.changes, logging_calls=_LOGGING_CALLS) as (url, bodies):
                await asyncio.to_thread(shutil.copytree, url.removeprefix("lmdb://"), folder / "store")
                random.Random(1).shuffle(bodies)
                questions.write_bytes(b"\n".join(bodies))
        # a run that is cut short leaves the head among the changes: the next one begins anew
        store = Path(temporary) / "played"
        await asyncio.to_thread(shutil.copytree, folder / "store", store)
        yield f"lmdb://{store}", str(questions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benches.gate.crowd", description=__doc__)
    parser.add_argument("--idle", type=int, default=10_000, help="connections")
    parser.add_argument("--subscriptions", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second of the others")
    parser.add_argument("--rounds", type=int, default=3, help="of all four turns")
    parser.add_argument("--interval", type=float, default=4.0, help="seconds between heads")
    parser.add_argument("--most", type=float, default=2.0, help="times p99 beside nobody")
    parser.add_argument("--rest", type=float, default=2.0, help="seconds before each turn")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=170, help="of the chain below")
    parser.add_argument("--changes", type=int, default=12, help="head changes that are played")
    parser.add_argument("--samples", default="", help="file of earlier runs' rounds, pooled with these and written")
    parser.add_argument("--folder", default="", help="where the chain is kept for further runs; default: a new one")
    return asyncio.run(measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    raise SystemExit(main())
