"""Measures what followers cost: requests by method, heads, round trips, cache hits. `benches.load.fit` fits a model.

    python -m benches.load.costs --out costs.json [--seconds 0.8] [--turns 2] [--parts PART ...]
                                 [--big lmdb:///store/of/a/large/chain]

methods   each of a list of methods, asked alone of 1 and of 3 followers over one LMDB store whose head stands still:
          recorded calls, but for the methods of the usual mix, whose calls are those of the mix
heads     the usual mix, of 1 follower, with a head each 0.3 s and each 3 s: the difference is what a head costs
check     the usual mix with a head each second, of 1, 2 and 3 followers. No model is fitted to these figures
turns     the methods of the usual mix alone, of 1 and of 3 followers, all of them in equal shares, and the whole mix of
          1, 2 and 3, turn by turn, instead of `check`: for a machine with other work
trips     store round trips and bytes of an answer, with fresh caches and again
balancer  HAProxy before one follower: its processor time a request
database  a Cassandra of its own: its processor time for a read and a write of an object, 64 at a time
cache     hit rates of the object cache by its size, and of a skewed choice of actors, over `--big`

The chain is the recorded one. Followers are `follower serve` with one worker each; every follower has 32 connections,
so that all cores are full. CPU time is that of the followers' processes. Beside each figure stands what a fixed piece
of work took meanwhile: on a machine with other work the same code costs more at one time than at another.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import random
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson
import uvloop

from benches.chain_methods import import_chain, services_over
from benches.eth_methods import Counting
from benches.load.keep_up import running, wait_for
from benches.rpc_load import cpu_seconds, free_port, recorded_bodies
from benches.same_work import work
from blockstore.cassandra.store import CassandraStore
from blockstore.cid import multihash_of
from blockstore.open import open_store
from chain.tipset import EMPTY_KEY
from follower.commands.load.connection import Tally, load, requests_of
from follower.commands.load.local_cpu import listening_pids, with_children
from follower.commands.load.made_mix import SHARES, make_mix
from follower.commands.load.mix import Call
from follower.commands.load.target import parse_target
from rpc.context import Context
from rpc.lookup.actor_states import states_at
from rpc.methods import register_all
from rpc.registry import REGISTRY, V1
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings
from rpc.services import CacheSizes
from tests.support.cassandra.server import cassandra_hosts
from tests.support.recorded import recorded

METHODS = (
    "eth_chainId", "eth_blockNumber", "Filecoin.ChainHead", "Filecoin.Version",
    "eth_getBlockByNumber", "Filecoin.ChainGetTipSetByHeight", "Filecoin.ChainGetMessage", "Filecoin.ChainReadObj",
    "Filecoin.ChainGetBlock", "Filecoin.ChainGetParentMessages",
    "Filecoin.StateGetActor", "Filecoin.WalletBalance", "eth_getBalance", "eth_getTransactionReceipt",
    "eth_getTransactionByHash", "Filecoin.StateReadState", "Filecoin.StateMinerInfo", "Filecoin.StateMinerPower",
    "Filecoin.StateSearchMsg", "Filecoin.StateLookupID",
    "eth_getLogs", "eth_getBlockReceipts", "eth_feeHistory", "Filecoin.StateMinerActiveSectors",
    "Filecoin.StateListActors",
)  # fmt: skip
CONNECTIONS = 32
#: seconds between heads where there are none
STANDING = 1e9
#: more arguments of each follower; `main` fills it
SERVE: list[str] = []
#: seconds between two pieces of the fixed work
_PAUSE = 0.03
#: actors that are asked for in the cache's trace, and the exponent of their popularity (Zipf)
_TRACE = 10_000
_SKEW = 1.0
#: objects that a database reads and writes in a turn
_OBJECTS = 20_000


@contextlib.contextmanager
def followers(url: str, count: int) -> Iterator[tuple[list[str], list[int]]]:
    """(addresses, process ids) of that many followers over a store."""
    ports = [free_port() for _ in range(count)]
    with contextlib.ExitStack() as stack:
        processes = []
        for port in ports:
            listen = f"127.0.0.1:{port}"
            arguments = ("serve", "--store", url, "--listen", listen, "--ready-head-age-epochs", "0", *SERVE)
            processes.append(stack.enter_context(running(*arguments)))
        for port, process in zip(ports, processes, strict=True):
            wait_for(port, process)
        yield [f"http://127.0.0.1:{port}" for port in ports], with_children([one.pid for one in processes])


async def ask(targets: Sequence[str], pids: Sequence[int], calls: Sequence[Call], seconds: float) -> dict[str, float]:
    """Load all targets at once. CPU in microseconds a request, wall in requests a second."""
    infos = [parse_target(target) for target in targets]
    requests = requests_of(infos[0], calls)

    async def all_of(length: float) -> list[Tally]:
        return await asyncio.gather(
            *(
                load(info, requests, seconds=length, concurrency=CONNECTIONS, first=7 * at)
                for at, info in enumerate(infos)
            )
        )

    await all_of(max(0.2, seconds / 3))
    pieces: list[float] = []
    probe = asyncio.create_task(same_work(pieces))
    before, own, began = cpu_seconds(pids), time.process_time(), time.perf_counter()
    tallies = await all_of(seconds)
    used, wall = cpu_seconds(pids) - before, time.perf_counter() - began
    probe.cancel()
    whole = Tally()
    for tally in tallies:
        whole.merge(tally)
    asked = whole.answers + whole.errors + whole.limited
    return {
        "requests": asked,
        "errors": whole.errors,
        "seconds": wall,
        "cpu_us": used / max(1, asked) * 1e6,
        "cpu_seconds": used,
        "rate": asked / wall,
        "p99_ms": (whole.latencies.percentile(99) or 0) * 1e3,
        "bytes": whole.bytes / max(1, whole.answers),
        "generator": (time.process_time() - own) / wall,
        "probe_us": sum(pieces) / max(1, len(pieces)) * 1e6,
    }


async def same_work(pieces: list[float]) -> None:
    """CPU seconds of a fixed piece of work, now and then: how fast the machine is meanwhile."""
    while True:
        before = time.thread_time()
        work()
        pieces.append(time.thread_time() - before)
        await asyncio.sleep(_PAUSE)


async def methods(url: str, counts: Sequence[int], seconds: float, turns: int) -> list[dict[str, Any]]:
    """Each method alone."""
    records = recorded("devnet/rpc.jsonl.zst")
    asked = {name: [Call("/rpc/v1", name, body) for body in recorded_bodies(records, name)] for name in METHODS}
    found = []
    for count in counts:
        with followers(url, count) as (targets, pids):
            # what a call costs depends on what it asks for: these as the usual mix has them
            for name in SHARES:
                asked[name] = []
            for call in await make_mix(parse_target(targets[0])):
                asked[call.method].append(call)
            for turn in range(turns):
                for name, calls in asked.items():
                    row = await ask(targets, pids, calls, seconds)
                    found.append({"followers": count, "turn": turn, "method": name, **row})
            print(f"{count} followers: {len(asked)} methods measured", flush=True)
    return found


async def in_turns(url: str, seconds: float, turns: int) -> dict[str, list[dict[str, Any]]]:
    """The methods of the usual mix alone, of 1 and of 3 followers, and the whole mix of 1, 2 and 3, in short turns.

    What the machine does meanwhile concerns all alike. `methods`: rows as of that part; `check`: as of `with_heads`
    with no head; `among`: of 1 and 3 followers, the same methods in equal shares.
    """
    alone, mixes, among = [], [], []
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(followers(url, 1)) for _ in range(3)]
        calls = await make_mix(parse_target(started[0][0][0]))
        shares = {name: sum(call.method == name for call in calls) / len(calls) for name in SHARES}
        by_name = {name: [call for call in calls if call.method == name] for name in SHARES}
        evenly = [some[at % len(some)] for at in range(len(calls) // len(SHARES)) for some in by_name.values()]
        equal = dict.fromkeys(SHARES, 1 / len(SHARES))
        first = {
            count: (
                [one for some, _ in started[:count] for one in some],
                [pid for _, some in started[:count] for pid in some],
            )
            for count in (1, 2, 3)
        }
        for turn in range(turns):
            for name in SHARES:
                for count in (1, 3):
                    row = await ask(*first[count], by_name[name], seconds)
                    alone.append({"followers": count, "turn": turn, "method": name, **row})
            for count in (1, 3):
                row = await ask(*first[count], evenly, 2 * seconds)
                among.append({"followers": count, "turn": turn, "interval": STANDING, "shares": equal, **row})
            for count in (1, 2, 3):
                row = await ask(*first[count], calls, 2 * seconds)
                mixes.append({"followers": count, "turn": turn, "interval": STANDING, "shares": shares, **row})
    return {"methods": alone, "check": mixes, "among": among}


@contextlib.asynccontextmanager
async def moving(folder: Path, interval: float, count: int) -> AsyncIterator[tuple[list[str], list[int]]]:
    """Followers of a chain with a head each `interval` seconds, after its first 40 heads."""
    car = recorded("devnet/chain.car.zst")
    node_port = free_port()
    store = f"lmdb://{folder / f'moving-{interval:g}-{count}'}"
    with contextlib.ExitStack() as stack:
        replay = ("replay", str(car.parent), "--listen", f"127.0.0.1:{node_port}", "--interval", f"{interval:g}")
        wait_for(node_port, stack.enter_context(running(*replay)))
        network = str(recorded("devnet/network.json"))
        bridge = ("bridge", "--node", f"http://127.0.0.1:{node_port}", "--store", store, "--network-file", network,
                  "--backfill-epochs", "150")  # fmt: skip
        stack.enter_context(running(*bridge))
        # the bridge makes the store; a follower waits for a head
        await asyncio.sleep(6)
        targets, pids = stack.enter_context(followers(store, count))
        await asyncio.sleep(2)
        yield targets, pids


async def with_heads(folder: Path, interval: float, count: int, seconds: float, turns: int) -> list[dict[str, Any]]:
    """The usual mix while heads come."""
    found = []
    async with moving(folder, interval, count) as (targets, pids):
        calls = await make_mix(parse_target(targets[0]))
        for turn in range(turns):
            row = await ask(targets, pids, calls, seconds)
            shares = {
                name: sum(call.method == name for call in calls) / len(calls) for name in {c.method for c in calls}
            }
            found.append({"followers": count, "turn": turn, "interval": interval, "shares": shares, **row})
    print(f"{count} followers, a head each {interval:g} s: {found[-1]['cpu_us']:.0f} us a request", flush=True)
    return found


async def trips(url: str) -> dict[str, Any]:
    """Round trips and answer bytes by method, with fresh caches and again: means over 20 calls."""
    records = recorded("devnet/rpc.jsonl.zst")
    found = {}
    for name in METHODS:
        cold: list[int] = []
        warm: list[int] = []
        size: list[int] = []
        for body in random.Random(1).sample(asked := recorded_bodies(records, name), min(20, len(asked))):
            store = await open_store(url, readonly=True)
            counting = Counting(store)
            settings = ServerSettings(answer_cache_bytes=0)
            dispatcher = Dispatcher(await services_over(counting), settings=settings)
            # a follower has read the head before
            await dispatcher.context(1).head()
            for some in (cold, warm):
                counting.trips = 0
                answer = (await dispatcher.http(1, body))[1]
                some.append(counting.trips)
            size.append(len(answer))
            await store.close()
        found[name] = {key: sum(some) / len(some) for key, some in (("cold", cold), ("warm", warm), ("bytes", size))}
    return found


async def balancer(url: str, folder: Path, seconds: float, turns: int) -> list[float]:
    """Microseconds of HAProxy's CPU a request."""
    calls = [Call.of("eth_blockNumber", []), Call.of("eth_getBlockByNumber", ["0x187", True])]
    port, bind, file = free_port(), free_port(), folder / "haproxy.cfg"
    serve = ("serve", "--store", url, "--listen", f"127.0.0.1:{port}", "--ready-head-age-epochs", "0", "--fleet", "on")
    with running(*serve) as follower:
        wait_for(port, follower)
        made = ("loadbalancer", "haproxy", "--store", url, "--bind", f"127.0.0.1:{bind}", "--output", str(file))
        for _ in range(50):
            with running(*made) as written:
                written.wait()
            if file.exists() and str(port) in file.read_text():
                break
            await asyncio.sleep(0.2)
        process = subprocess.Popen(["haproxy", "-f", str(file)], stderr=subprocess.DEVNULL)
        try:
            await asyncio.sleep(3)
            pids = with_children([process.pid])
            target = [f"http://127.0.0.1:{bind}"]
            return [(await ask(target, pids, calls, 2 * seconds))["cpu_us"] for _ in range(turns + 1)][1:]
        finally:
            process.terminate()
            process.wait()


async def database(turns: int) -> dict[str, list[float]]:
    """Microseconds of a Cassandra node's CPU for each object that is read and written; the first turns do not count."""
    hosts = cassandra_hosts()
    url = f"cassandra://{hosts}/bench_costs"
    port = int(hosts.rpartition(":")[2]) if ":" in hosts else 9042
    pids = listening_pids(port)
    store = await CassandraStore.open(url)
    chance = random.Random()
    found: dict[str, list[float]] = {"read_us": [], "write_us": []}
    for turn in range(turns + 3):
        pairs = [(multihash_of(data), data) for data in (chance.randbytes(500) for _ in range(_OBJECTS))]
        before = cpu_seconds(pids)
        await store.put_many(pairs, closed=True)
        written = cpu_seconds(pids)
        await store.get_many([multihash for multihash, _ in pairs])
        read = cpu_seconds(pids)
        if turn >= 3:
            found["write_us"].append((written - before) / _OBJECTS * 1e6)
            found["read_us"].append((read - written) / _OBJECTS * 1e6)
    await store.close()
    print(found, flush=True)
    return found


async def cache(url: str) -> list[dict[str, float]]:
    """Hit rates of objects for `StateGetActor` of actors by Zipf's law, by the cache's size."""
    store = await open_store(url, readonly=True)
    ctx = Context(await services_over(store))
    _, states = await states_at(ctx, EMPTY_KEY)
    count = 0
    some: list[str] = []
    async for entry in states.tree.items():
        count += 1
        # in the order of their hashes, so by chance
        if len(some) < 200_000:
            some.append(str(entry[0]))
    chance = random.Random(1)
    weights = list(accumulate(1 / (rank + 1) ** _SKEW for rank in range(len(some))))
    asked = chance.choices(some, cum_weights=weights, k=_TRACE)
    found = []
    for megabytes in (4, 16, 64, 256):
        services = await services_over(store)
        services.objects = type(services.objects)(store, cache_bytes=megabytes << 20)
        # decoded nodes and kept answers would hide what the object cache does
        services.cache_sizes = CacheSizes(nodes=1)
        dispatcher = Dispatcher(services, settings=ServerSettings(answer_cache_bytes=0))
        half = reads = 0
        for number, address in enumerate(asked):
            if number == _TRACE // 2:
                half, reads = services.objects.round_trips, services.objects.reads
            body = b'{"jsonrpc":"2.0","id":1,"method":"Filecoin.StateGetActor","params":["%s",[]]}' % address.encode()
            await dispatcher.http(1, body)
        found.append({
            "megabytes": megabytes, "actors": count,
            "trips": (services.objects.round_trips - half) / (_TRACE - _TRACE // 2),
            "reads": (services.objects.reads - reads) / (_TRACE - _TRACE // 2),
        })  # fmt: skip
        print(found[-1], flush=True)
    await store.close()
    return found


async def run(args: argparse.Namespace) -> None:
    """Measure the parts that are wanted, and write the file."""
    register_all()
    classes = {name: REGISTRY.names(V1)[name].cost.value for name in METHODS}
    result: dict[str, Any] = orjson.loads(args.out.read_bytes()) if args.out.exists() else {}
    result["machine"] = {"cores": os.cpu_count(), "arch": platform.machine(), "python": platform.python_version()}
    result["measured"] = time.strftime("%Y-%m-%d", time.gmtime())
    result["classes"] = classes
    with tempfile.TemporaryDirectory(prefix="costs-") as made:
        folder = Path(made)
        url = await import_chain(folder)

        async def part(name: str, work: Callable[[], Awaitable[Any]]) -> None:
            if name in args.parts:
                result[name] = await work()
                # at once: a part that fails later loses nothing
                args.out.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))

        async def mixes(cases: Sequence[tuple[float, int]]) -> list[dict[str, Any]]:
            return [
                row
                for every, count in cases
                for row in await with_heads(folder, every, count, 6 * args.seconds, args.turns)
            ]

        await part("methods", lambda: methods(url, (1, 3), args.seconds, args.turns))
        if "turns" in args.parts:
            others = [row for row in result.get("methods", []) if row["method"] not in SHARES]
            result |= await in_turns(url, args.seconds, args.turns)
            result["methods"] = others + result["methods"]
            args.out.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
        await part("heads", lambda: mixes([(0.3, 1), (3.0, 1)]))
        await part("check", lambda: mixes([(1.0, 1), (1.0, 2), (1.0, 3)]))
        await part("trips", lambda: trips(url))
        await part("balancer", lambda: balancer(url, folder, args.seconds, args.turns))
        await part("database", lambda: database(args.turns))
        if args.big:
            await part("cache", lambda: cache(args.big))


PARTS = ("methods", "turns", "heads", "check", "trips", "balancer", "database", "cache")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON; parts not measured now stay")
    parser.add_argument(
        "--seconds", type=float, default=0.8, help="of each method (default 0.8); mixes take 6 times that"
    )
    parser.add_argument("--turns", type=int, default=2, help="times that each is measured (default 2)")
    parser.add_argument("--parts", nargs="*", choices=PARTS, metavar="PART",
                        default=[name for name in PARTS if name != "turns"])  # fmt: skip
    parser.add_argument("--answer-cache-mb", metavar="N", help="of the followers; 0: each answer is made")
    parser.add_argument("--big", metavar="URL", help="a store of a large chain")
    args = parser.parse_args()
    if args.answer_cache_mb is not None:
        SERVE[:] = ["--answer-cache-mb", args.answer_cache_mb]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(args))


if __name__ == "__main__":
    main()
