"""The mix of calls while the head moves, with reorgs, beside the same with a head that stands still.

    python -m benches.heads.moving_mix [--interval 0.3] [--seconds 5] [--rounds 3] [--epochs 1000] [--changes 60]

A simulated chain of `--epochs` and `--changes` further head changes, a fifth of them reorgs, is mirrored into an LMDB
store. Then the node and the bridge end, so that they take no part of the machine: only entries of the head log are
written, forth and, in one step, back again. Every object and row is there before the first measurement. Two followers
serve it, one of them without reading ahead; both are measured in turns, standing still and moving.

`--minutes N` instead: the moving mix for so long, and the memory of each process at each minute.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import aiohttp
import orjson

from benches.rpc_load import Load, free_port, load
from blockstore.open import open_store
from blockstore.store import HeadEntry, Store, TipsetRef
from chain.address import Address
from chain.eth.types import masked_id
from devnode.sim_chain import SimSettings
from devnode.simulate import SimulatedNode, start_simulated

_HEAD: Final = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "Filecoin.ChainHead", "params": []})
#: shares of the mix that an RPC provider published, without what a full node executes
_SHARES: Final = (
    ("eth_getBlockByNumber", 28), ("Filecoin.StateGetActor", 15), ("Filecoin.WalletBalance", 6), ("eth_chainId", 5),
    ("eth_getLogs", 5), ("eth_blockNumber", 5), ("Filecoin.ChainHead", 4), ("eth_getBalance", 3),
)  # fmt: skip
_CALLS: Final = 2000


def mix_of(node: SimulatedNode, accounts: int) -> list[bytes]:
    """Calls about the head and the newest hundred epochs of a chain, in any order."""
    dice = random.Random(5)
    top = node.head.height

    def account() -> Address:
        return Address(node.chain._maker.account_id(dice.randrange(accounts)))

    def block() -> str:
        return "latest" if dice.random() < 0.5 else hex(top - dice.randrange(60, 160))

    def params(method: str) -> list[Any]:
        match method:
            case "eth_getBlockByNumber":
                return [block(), dice.random() < 0.5]
            case "Filecoin.StateGetActor":
                return [account().text(), []]
            case "Filecoin.WalletBalance":
                return [account().text()]
            case "eth_getBalance":
                tag = dice.choice(("latest", "safe", "finalized"))
                return ["0x" + masked_id(account().id).hex(), tag]
            case "eth_getLogs":
                at = block()
                return [{"fromBlock": at, "toBlock": at}]
        return []

    names = [name for name, share in _SHARES for _ in range(share)]
    calls = [dice.choice(names) for _ in range(_CALLS)]
    return [orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": name, "params": params(name)}) for name in calls]


class Publisher:
    """Moves the head of a store along entries that it has, to the last one and in one step back to the first.

    `parent`: the head before the first of them.
    """

    def __init__(self, store: Store, entries: Sequence[HeadEntry], parent: TipsetRef, term: int) -> None:
        self._store = store
        self._entries = entries
        self._parent = parent
        self._term = term
        self._at = len(entries)
        self.published = 0

    async def step(self) -> None:
        """Publish the next head."""
        last = await self._store.head()
        assert last is not None
        if self._at == len(self._entries):
            # back to the state before the first of them: what they applied and none of them has reverted
            held: list[TipsetRef] = []
            for entry in self._entries:
                held = [one for one in held if one not in entry.reverts] + list(entry.applies)
            reverts, head = tuple(reversed(held)), self._parent
            applies: tuple[TipsetRef, ...] = ()
            self._at = 0
        else:
            entry = self._entries[self._at]
            reverts, applies, head = tuple(entry.reverts), tuple(entry.applies), entry.head
            self._at += 1
        await self._store.append_head(HeadEntry(last.seq + 1, self._term, reverts, applies, head))
        self.published += 1

    @classmethod
    async def over(cls, store: Store, changes: int) -> Publisher:
        """With the store's newest head changes."""
        last = await store.head()
        assert last is not None
        entries = await store.head_entries(last.seq - changes - 1, changes + 1)
        return cls(store, entries[1:], entries[0].head, await store.new_term("bench"))

    async def run(self, interval: float) -> None:
        """Publish a head each `interval` seconds until cancelled."""
        due = time.monotonic()
        while True:
            due += interval
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self.step()


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "follower.cli", *arguments, "--log-level", "error"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(30)


async def _served(session: aiohttp.ClientSession, port: int) -> list[str]:
    """The head that a follower serves, once it does."""
    while True:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with session.post(f"http://127.0.0.1:{port}/rpc/v1", data=_HEAD) as answer:
                found = orjson.loads(await answer.read())
            if "result" in found:
                return [cid["/"] for cid in found["result"]["Cids"]]
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def served_chain(
    epochs: int, changes: int, *, logging_calls: float = 0.0
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """(URL of a store with a simulated chain in it, the mix). `logging_calls`: see `SimSettings`."""
    accounts = 1200
    settings = SimSettings(
        accounts=accounts, miners=60, messages=12, reorg_rate=0.0, late_rate=0.0, seed=3, logging_calls=logging_calls
    )
    with tempfile.TemporaryDirectory() as folder:
        url = f"lmdb://{folder}/store"
        node = await start_simulated(settings)
        bridge, port = _start("bridge", "--node", node.base, "--store", url), free_port()
        served = _start("serve", "--store", url, "--listen", f"127.0.0.1:{port}")
        try:
            async with aiohttp.ClientSession() as session, asyncio.timeout(900):
                # what comes while the bridge is busy is told in one step: each head is waited for
                await _served(session, port)
                for at in range(epochs):
                    await node.extend()
                    if at % 50 == 49:
                        await _wait(session, port, node)
                for number in range(changes):
                    await (node.reorg(1 + number % 3) if number % 5 == 4 else node.extend())
                    await _wait(session, port, node)
            calls = mix_of(node, accounts)
        finally:
            for process in (served, bridge):
                _stop(process)
            await node.stop()
        # the chain in memory goes with the node
        del node
        gc.collect()
        yield url, calls


async def _wait(session: aiohttp.ClientSession, port: int, node: SimulatedNode) -> None:
    wanted = [str(cid) for cid in node.head.key.cids]
    while await _served(session, port) != wanted:
        await asyncio.sleep(0.002)


@contextlib.contextmanager
def follower(url: str, actors: int, workers: int) -> Iterator[tuple[int, list[int]]]:
    """(port, process ids) of a follower that reads so many actors ahead."""
    port = free_port()
    process = _start(
        "serve", "--store", url, "--listen", f"127.0.0.1:{port}", "--workers", str(workers),
        "--read-ahead-actors", str(actors),
    )  # fmt: skip
    try:
        yield port, [process.pid]
    finally:
        _stop(process)


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in found] or [pid]


async def _measured(
    publisher: Publisher | None, interval: float, port: int, bodies: list[bytes], seconds: float
) -> Load:
    moving = None if publisher is None else asyncio.create_task(publisher.run(interval))
    try:
        return await asyncio.to_thread(load, f"http://127.0.0.1:{port}/rpc/v1", bodies, seconds=seconds)
    finally:
        if moving is not None:
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)


async def measure(args: argparse.Namespace) -> None:
    """Print the figures."""
    async with served_chain(args.epochs, args.changes) as (url, bodies):
        pass_on = await _Prepared.of(url, args.changes)
        with contextlib.ExitStack() as stack:
            kinds = {"reading ahead": 1024, "without": 0}
            ports = {kind: stack.enter_context(follower(url, most, args.workers))[0] for kind, most in kinds.items()}
            async with aiohttp.ClientSession() as session:
                for port in ports.values():
                    await _served(session, port)
            found: dict[tuple[str, bool], list[Load]] = {}
            for port in ports.values():
                await _measured(None, 0, port, bodies, 1.0)
            for _ in range(args.rounds):
                for kind, port in ports.items():
                    for moves in (False, True):
                        took = await _measured(
                            pass_on.publisher if moves else None, args.interval, port, bodies, args.seconds
                        )
                        found.setdefault((kind, moves), []).append(took)
        await pass_on.store.close()
    for (kind, moves), runs in found.items():
        rate, p50, p99 = (median(getattr(run, name) for run in runs) for name in ("rate", "p50", "p99"))
        errors = sum(run.errors for run in runs)
        print(
            f"{kind}, {'a head each ' + format(args.interval, 'g') + ' s' if moves else 'a still head':24} "
            f"{rate:9,.0f}/s  p50 {p50 * 1e3:6.2f} ms  p99 {p99 * 1e3:6.2f} ms  {errors} errors",
            flush=True,
        )
    for kind in kinds:
        still, moving = (median(run.p99 for run in found[kind, moves]) for moves in (False, True))
        print(f"{kind}: p99 {moving / still:.2f} times that of a still head")


class _Prepared:
    """The store, opened to move its head."""

    def __init__(self, store: Store, publisher: Publisher) -> None:
        self.store = store
        self.publisher = publisher

    @classmethod
    async def of(cls, url: str, changes: int) -> _Prepared:
        store = await open_store(url, map_size=16 << 30)
        return cls(store, await Publisher.over(store, changes))


def _rss(pid: int) -> int:
    """Bytes of memory that a process has of its own: without the pages of the store's file."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


async def soak(args: argparse.Namespace) -> None:
    """The moving mix for minutes: a line a minute with the memory of each process."""
    async with served_chain(args.epochs, args.changes) as (url, bodies):
        made = await _Prepared.of(url, args.changes)
        with follower(url, 1024, args.workers) as (port, pids):
            async with aiohttp.ClientSession() as session:
                await _served(session, port)
            print(
                "minute," + ",".join(f"MB of worker {at}" for at in range(args.workers)) + ",requests/s,p99 ms",
                flush=True,
            )
            for minute in range(args.minutes + 1):
                took = await _measured(made.publisher, args.interval, port, bodies, 60.0 if minute else 1.0)
                memory = [f"{_rss(pid) / 1e6:.1f}" for pid in _children(pids[0])]
                print(f"{minute},{','.join(memory)},{took.rate:.0f},{took.p99 * 1e3:.2f}", flush=True)
        await made.store.close()


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benches.heads.moving_mix", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--interval", type=float, default=0.3, help="seconds between heads (default 0.3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default 5)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=1000, help="of the chain below")
    parser.add_argument("--changes", type=int, default=60, help="head changes that are played")
    parser.add_argument("--minutes", type=int, default=0, help="instead: so long, with the memory at each minute")
    args = parser.parse_args(arguments)
    asyncio.run(soak(args) if args.minutes else measure(args))


if __name__ == "__main__":
    main()
