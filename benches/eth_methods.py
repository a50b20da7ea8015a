"""Requests a second, p99 and CPU time of the Ethereum methods, over HTTP from LMDB, with two workers.

    python -m benches.eth_methods [--seconds N] [--methods REGEX] [--events N] [--workers N]

First the recorded calls on the recorded chain; then `eth_getLogs` on a million events (1,000
contracts, 2,880 epochs): one contract, nine, one topic, a contract and a topic, and twenty epochs whole. The load
generator shares the machine. Store round trips are those of one answer when nothing is cached.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from benches.chain_methods import MAKING, import_chain, services_over, serving
from benches.made_events import CONTRACTS, EPOCHS, TRANSFER, account, contract, fill_events
from benches.rpc_load import free_port, load, recorded_bodies, server_process
from blockstore.open import open_store
from blockstore.store import Store
from tests.support.recorded import recorded

#: as their row is named: method, the parameters of which calls are taken
RECORDED: Final = {
    "receipt": ("eth_getTransactionReceipt", ""),
    "block receipts": ("eth_getBlockReceipts", "0x"),
    "storage of a contract": ("eth_getStorageAt", "contract"),
    "code of a contract": ("eth_getCode", "contract"),
    "logs": ("eth_getLogs", ""),
    "block, full": ("eth_getBlockByNumber", "true"),
    "transaction": ("eth_getTransactionByHash", ""),
    "balance": ("eth_getBalance", ""),
    "nonce": ("eth_getTransactionCount", ""),
    "fee history": ("eth_feeHistory", ""),
    "balance of an f4 address": ("eth_getBalance", "latest"),
}


class Counting:
    """A store that counts what it is asked: a burst is one round trip."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.trips = 0
        self.rows_read = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in ("get", "get_many", "row", "rows", "scan"):
            return found

        async def counted(*args: Any, **named: Any) -> Any:
            self.trips += 1
            value = await found(*args, **named)
            self.rows_read += len(value) if isinstance(value, list) else 1
            return value

        return counted


async def one_answer(url: str, body: bytes) -> str:
    """What one answer takes in a fresh process' caches, and again: CPU, round trips, rows, bytes."""
    from rpc.server.dispatch import Dispatcher

    opened = await open_store(url, readonly=True)
    store = Counting(opened)
    dispatcher = Dispatcher(await services_over(store), settings=MAKING)
    told: list[str] = []
    for kind in ("cold", "warm"):
        store.trips = store.rows_read = 0
        began = time.process_time()
        _, answer = await dispatcher.http(1, body)
        took = (time.process_time() - began) * 1e3
        told.append(f"{kind} {took:.2f} ms CPU, {store.trips} round trips, {store.rows_read} rows")
    found = orjson.loads(answer)
    if "error" in found:
        raise SystemExit(f"{body[:200]!r} was answered {found['error']}")
    results = len(found["result"]) if isinstance(found["result"], list) else 1
    await opened.close()
    return f"{'; '.join(told)}; {results} results, {len(answer):,} bytes"


@contextlib.contextmanager
def workers(url: str, count: int) -> Iterator[tuple[int, list[int]]]:
    """(port, process ids) of that many server processes on one port."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(server_process(serving(url, False), port)) for _ in range(count)]
        yield port, pids


def measure(url: str, asked: dict[str, Sequence[bytes]], seconds: float, count: int) -> None:
    """Print a row a name, then what its first answer takes."""
    with workers(url, count) as (port, pids):
        # until every worker takes connections: one alone would answer the first row
        load(f"http://127.0.0.1:{port}/rpc/v1", next(iter(asked.values()))[:1], seconds=3.0)
        for name, bodies in asked.items():
            # each worker's caches are filled: what an answer takes when they are not is told below
            load(f"http://127.0.0.1:{port}/rpc/v1", bodies, seconds=1.0)
            took = load(f"http://127.0.0.1:{port}/rpc/v1", bodies, pids=pids, seconds=seconds)
            print(took.row(f"{name} ({len(bodies)} questions)"), flush=True)
    for name, bodies in asked.items():
        print(f"  one answer, {name}: {asyncio.run(one_answer(url, bodies[0]))}", flush=True)


def recorded_questions(wanted: re.Pattern[str]) -> dict[str, Sequence[bytes]]:
    """The recorded calls by row, without those of `pending`."""
    folder = recorded("devnet")
    contracts = [text.encode() for text in orjson.loads((folder / "meta.json").read_bytes())["Contracts"]]
    found: dict[str, Sequence[bytes]] = {}
    for name, (method, needs) in RECORDED.items():
        bodies = [
            body
            for body in recorded_bodies(folder / "rpc.jsonl.zst", method, limit=5000)
            if b"pending" not in body
            and (any(one in body for one in contracts) if needs == "contract" else needs.encode() in body)
        ]
        if bodies and wanted.search(method):
            found[name] = bodies[:500]
    return found


def log_questions() -> dict[str, Sequence[bytes]]:
    """`eth_getLogs` on the million events."""

    def ask(**named: Any) -> bytes:
        given = {"fromBlock": "0x0", "toBlock": hex(EPOCHS - 1), **named}
        return orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_getLogs", "params": [given]})

    def address(number: int) -> str:
        return "0x" + contract(number % CONTRACTS).hex()

    def topic(number: int) -> str:
        return "0x" + account(number).hex()

    transfer = "0x" + TRANSFER.hex()
    return {
        "1 contract of 1,000": [ask(address=address(number)) for number in range(50)],
        "9 contracts, about 9,000 results": [ask(address=[address(9 * n + k) for k in range(9)]) for n in range(5)],
        "1 topic of 20,000": [ask(topics=[None, topic(number)]) for number in range(50)],
        "1 contract and 1 topic": [ask(address=address(n), topics=[transfer, topic(n)]) for n in range(50)],
        "20 epochs, everything": [ask(fromBlock=hex(100 * n), toBlock=hex(100 * n + 19)) for n in range(EPOCHS // 100)],
    }


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.eth_methods", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row (default 3)")
    parser.add_argument("--methods", default="", metavar="REGEX", help="only methods in which this is found")
    parser.add_argument("--events", type=int, default=1_000_000, help="0 leaves them out")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(arguments)
    from rpc.methods import register_all

    register_all()
    with tempfile.TemporaryDirectory() as folder:
        asked = recorded_questions(re.compile(args.methods))
        if asked:
            measure(asyncio.run(import_chain(Path(folder))), asked, args.seconds, args.workers)
        if args.events and re.search(args.methods, "eth_getLogs"):
            url = f"lmdb://{folder}/events"

            async def fill() -> None:
                store = await open_store(url, map_size=16 << 30, bulk=True)
                began, clock = time.monotonic(), time.process_time()
                await fill_events(store, args.events)
                took, used = time.monotonic() - began, time.process_time() - clock
                print(f"{args.events:,} events indexed in {took:.0f} s, {used:.0f} s CPU", flush=True)
                print(f"the store takes {(await store.stats())['bytes'] / 1e6:,.0f} MB", flush=True)
                await store.close()

            asyncio.run(fill())
            measure(url, log_questions(), args.seconds, args.workers)


if __name__ == "__main__":
    main()
