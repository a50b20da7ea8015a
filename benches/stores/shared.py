"""The same questions to a follower over Cassandra and to one over LMDB: CPU a request, latencies, cold and warm.

    python -m benches.stores.shared [--seconds N] [--turns N] [--methods REGEX] [--mix FILE] [--no-cold]

The recorded chain is imported into both. On the Cassandra that `CASSANDRA_HOSTS` names, else one started here. Both
followers are whole `follower serve` processes; they are measured in turn. CPU is the follower's own; that of a server
which is started here stands beside it. First answers are those of a process that has just been started, over LMDB, over
Cassandra without and with an empty object tier, and with the tier that a process before it has filled.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from benches import eth_methods, state_methods
from benches.chain_methods import import_chain
from benches.head_reads import cpu_of
from benches.rpc_load import Load, free_port, load
from blockstore.cassandra import schema as cassandra_schema
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.store import CassandraStore
from leader_bridge.imports.importer import import_car
from tests.support.cassandra.server import own_node
from tests.support.paths import ROOT
from tests.support.processes import follower_process
from tests.support.recorded import recorded

#: what the mix asks that is answered from the store
EXECUTED: Final = (b'"eth_call"', b'"trace_block"')
#: rows of the other benchmarks, by their names there
STATE_ROWS: Final = ("StateGetActor", "StateReadState", "StateSearchMsg", "StateMinerPower", "WalletBalance")
_KEYSPACE: Final = "bench_shared"


def mix_bodies(path: Path) -> list[bytes]:
    """The calls of a mix (one JSON object a line: method, params) that are answered from the store."""
    calls = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    bodies = [
        orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": call["method"], "params": call["params"]}) for call in calls
    ]
    return [body for body in bodies if not any(name in body for name in EXECUTED)]


async def questions(url: str, mix: Path) -> dict[str, Sequence[bytes]]:
    """Request bodies by row."""
    state = await state_methods.questions(url)
    found: dict[str, Sequence[bytes]] = {"mix": mix_bodies(mix)}
    found |= eth_methods.recorded_questions(re.compile(""))
    return found | {name: state[name] for name in STATE_ROWS if name in state}


async def import_shared(url: str) -> None:
    """The recorded chain in an emptied keyspace."""
    store = await CassandraStore.open(url, replication=1, may_create_tables=True)
    await store.close()
    address = CassandraAddress.parse(url)
    names = cassandra_schema.tables()
    cassandra_schema.run(address, [f"TRUNCATE {address.keyspace}.{name}" for name in names])
    store = await CassandraStore.open(url)
    await import_car(store, recorded("devnet/chain.car.zst"), network_file=recorded("devnet/network.json"))
    await store.close()


@contextmanager
def serving(url: str, settings: Mapping[str, str], root: Path = ROOT) -> Iterator[tuple[int, int]]:
    """(port, process id) of a follower of the checkout at `root`, once it answers."""
    port = free_port()
    arguments = ["serve", "--store", url, "--listen", f"127.0.0.1:{port}", "--status-page", "off"]
    for name, value in settings.items():
        arguments += [f"--{name.replace('_', '-')}", value]
    with follower_process(*arguments, root=root) as running:
        asked = [b'{"jsonrpc":"2.0","id":1,"method":"Filecoin.ChainHead","params":[]}']
        end = time.monotonic() + 30
        while True:
            try:
                one_by_one(port, asked)
                break
            except OSError:
                if running.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the follower does not answer:\n{running.output()}") from None
                time.sleep(0.05)
        yield port, running.process.pid


@dataclass(frozen=True, slots=True)
class Row:
    """What one row took over one store; `server_cpu`: seconds of the database's processor time a request."""

    took: Load
    server_cpu: float


def one_by_one(port: int, bodies: Sequence[bytes]) -> list[float]:
    """Seconds of each answer, one question after the other, each once."""
    return asyncio.run(_one_by_one(port, bodies))


async def _one_by_one(port: int, bodies: Sequence[bytes]) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took: list[float] = []
    for body in bodies:
        began = time.perf_counter()
        writer.write(b"POST /rpc/v1 HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"Content-Length: (\d+)", head)
        assert found is not None, head
        await reader.readexactly(int(found[1]))
        took.append(time.perf_counter() - began)
    writer.close()
    return took


def measure(port: int, pid: int, server: int, bodies: Sequence[bytes], seconds: float) -> Row:
    url = f"http://127.0.0.1:{port}/rpc/v1"
    # every question once, for the caches; then for as many as come at once
    one_by_one(port, bodies)
    load(url, bodies, seconds=0.5)
    before = cpu_of(server) if server else 0.0
    took = load(url, bodies, pids=[pid], seconds=seconds)
    return Row(took, ((cpu_of(server) if server else 0.0) - before) / max(1, took.requests))


def cold(name: str, url: str, settings: Mapping[str, str], bodies: Sequence[bytes]) -> None:
    """Print what the first answers of a new process take: each question alone, and of another one 32 at a time."""
    with serving(url, settings) as (port, _):
        took = sorted(one_by_one(port, bodies))
    with serving(url, settings) as (port, pid):
        loaded = load(f"http://127.0.0.1:{port}/rpc/v1", bodies, pids=[pid], seconds=1.0)
    times = [took[int(len(took) * share)] * 1e3 for share in (0.5, 0.99)]
    print(
        f"{name:22} first answers, one by one: p50 {times[0]:6.2f} ms p99 {times[1]:6.2f} ms; 32 at a time: "
        f"{loaded.rate:7,.0f}/s p50 {loaded.p50 * 1e3:6.2f} ms p99 {loaded.p99 * 1e3:7.2f} ms "
        f"{loaded.cpu_each * 1e6:6.0f} us CPU",
        flush=True,
    )


def run(shared: str, server: int, args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        local = asyncio.run(import_chain(Path(folder)))
        if not args.imported:
            asyncio.run(import_shared(shared))
        wanted = re.compile(args.methods)
        asked = {
            name: some for name, some in asyncio.run(questions(local, args.mix)).items() if wanted.search(name) and some
        }
        more = dict(pair.split("=", 1) for pair in args.set)
        own_settings = {name: value for name, value in more.items() if not name.startswith("object_")}
        if not args.no_cold:
            bodies = next(iter(asked.values()))
            cold("LMDB", local, own_settings, bodies)
            kept = f"{folder}/tier"
            cold("Cassandra, no tier", shared, {**more, "object_tier_dir": "off"}, bodies)
            cold("Cassandra, empty tier", shared, {**more, "object_tier_dir": kept}, bodies)
            cold("Cassandra, restarted", shared, {**more, "object_tier_dir": kept}, bodies)
        with serving(local, own_settings) as (local_port, local_pid), serving(shared, more) as (port, pid):
            for name, bodies in asked.items():
                own, others = [], []
                for _ in range(args.turns):
                    own.append(measure(local_port, local_pid, 0, bodies, args.seconds))
                    others.append(measure(port, pid, server, bodies, args.seconds))
                _print(name, own, others)


def _print(name: str, own: Sequence[Row], others: Sequence[Row]) -> None:
    def middle(rows: Sequence[Row], figure: str) -> float:
        found: float = statistics.median(getattr(row.took, figure) for row in rows)
        return found

    errors = sum(row.took.errors for row in (*own, *others))
    print(
        f"{name:22} LMDB {middle(own, 'rate'):7,.0f}/s {middle(own, 'cpu_each') * 1e6:7.1f} us p99 "
        f"{middle(own, 'p99') * 1e3:7.2f} ms | Cassandra {middle(others, 'rate'):7,.0f}/s "
        f"{middle(others, 'cpu_each') * 1e6:7.1f} us p99 {middle(others, 'p99') * 1e3:7.2f} ms, the server's "
        f"{statistics.median(row.server_cpu for row in others) * 1e6:6.1f} us | CPU ratio "
        f"{middle(others, 'cpu_each') / middle(own, 'cpu_each'):.2f}" + (f"  {errors} ERRORS" if errors else ""),
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.stores.shared", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row and turn (default 2)")
    parser.add_argument("--turns", type=int, default=3, help="of which the middle counts (default 3)")
    parser.add_argument("--methods", default="", metavar="REGEX", help="only rows in which this is found")
    parser.add_argument("--mix", type=Path, help="a file of calls (default: the recorded mix)")
    parser.add_argument("--no-cold", action="store_true", help="leave out the first answers of a new process")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of both followers (object_...: over Cassandra alone)",
    )
    parser.add_argument("--cassandra", default="", metavar="HOST:PORT", help="a server that runs, not one started here")
    parser.add_argument("--pid", type=int, default=0, help="the process of that server, for its CPU")
    parser.add_argument("--imported", action="store_true", help="the chain is in that server already")
    args = parser.parse_args(arguments)
    args.mix = args.mix or recorded("mix.jsonl")
    from rpc.methods import register_all

    register_all()
    if args.cassandra:
        run(f"cassandra://{args.cassandra}/{_KEYSPACE}", args.pid, args)
        return
    with own_node() as node:
        assert node.process is not None
        run(f"cassandra://127.0.0.1:{node.port}/{_KEYSPACE}", node.process.pid, args)


if __name__ == "__main__":
    main()
