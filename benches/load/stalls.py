"""How long each method of the registry keeps the event loop of a follower, over a store or a simulated state.

    python -m benches.load.stalls --actors 1000000 [--epochs 4] [--methods REGEX] [--limit MS]
    python -m benches.load.stalls --store lmdb:///tmp/big

`--actors` makes a simulated chain of this size in memory: accounts, miners, deals, entries of the verified registry,
contracts. `--store` takes a store with any chain in it. Each method without a channel is asked about the head, with
parameters by their types, of the largest miner, client and contract, and of forms that walk much. `CPU` is the most
processor time of the loop's thread in one turn of the loop, cold (empty caches) and warm (the same call again); `wall`
is that turn by the clock, which counts other work of the machine too. Exit code 1 when a method is over the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson
import uvloop

from benches.chain_methods import MAKING, services_over
from blockstore.open import open_store
from chain.address import Address, from_id
from chain.eth.types import eth_address, hash_of
from chain.ipld.objects import Objects
from chain.tipset import EMPTY_KEY, Tipset
from chain.tipset_messages import load_tipset_messages
from devnode.sim_chain import SimSettings
from devnode.simulate import start_simulated
from follower.worker import tune_garbage_collector
from rpc.context import Context
from rpc.errors import NEEDS_NODE
from rpc.lookup.actor_states import states_at
from rpc.lookup.senders import id_of
from rpc.methods import register_all
from rpc.registry import REGISTRY, V0, V1, Cost, Method
from rpc.server.dispatch import Dispatcher
from rpc.services import Services

_CALL_SECONDS: Final = 60.0
#: parameter lists of a method that are tried at most; of one that walks
_TRIED: Final = 12
_TRIED_HEAVY: Final = 4
#: actors of a kind that are asked about
_OF_A_KIND: Final = 2
_KINDS: Final = ("storageminer", "account", "ethaccount", "evm", "multisig")

#: services with empty caches
Fresh = Callable[[], Awaitable[Services]]


def _link(cid: Any) -> dict[str, str]:
    return {"/": str(cid)}


@dataclass(slots=True)
class Questions:
    """Parameters of every method over one chain. `own`: by method; `by_type`: by what Lotus calls a type."""

    head: Tipset
    own: dict[str, list[list[Any]]] = field(default_factory=dict)
    by_type: dict[str, list[Any]] = field(default_factory=dict)

    def of(self, method: Method) -> Iterator[Sequence[Any]]:
        """Some lists of parameters."""
        own = self.own.get(method.field)
        if own is not None:
            yield from own
            return
        if method.raw:
            yield from ([], ["latest"], ["0x1", "latest"])
            return
        tried = _TRIED_HEAVY if method.cost is Cost.HEAVY else _TRIED
        choices = [self.by_type.get(getattr(param, "go", ""), [None, "latest"]) for param in method.params]
        yield from itertools.islice(itertools.product(*choices), tried)


async def questions_of(services: Services) -> Questions:
    """What is asked over the chain of these services."""
    ctx = Context(services)
    head = (await ctx.head()).tipset
    parent = await ctx.index.tipset(head.parents)
    found = Questions(head)
    block = head.blocks[0]
    messages = await load_tipset_messages(ctx.objects, parent, ctx.network, id_of(ctx))
    _, states = await states_at(ctx, EMPTY_KEY)
    # the first of a kind by number: of a simulated chain, those that hold most
    by_code: dict[bytes, list[tuple[int, Address | None]]] = {}
    names: dict[bytes, str] = {}
    async for address, actor in states.tree.items():
        code = bytes(actor.code)
        if code not in names:
            names[code] = (await states.kind_of(actor))[0]
        if names[code] in _KINDS:
            some = by_code.setdefault(code, [])
            some.append((address.id, actor.delegated))
            if len(some) > _OF_A_KIND:
                some.remove(max(some))
    firsts = {names[code]: sorted(some) for code, some in by_code.items()}
    kinds = {name: [str(from_id(number)) for number, _ in firsts.get(name, ())] for name in _KINDS}
    contracts = ["0x" + eth_address(delegated).hex() for _, delegated in firsts.get("evm", ()) if delegated]
    addresses = [one for some in kinds.values() for one in some] + [str(from_id(4))]
    roots = [_link(one.parent_state_root) for one in (await ctx.index.at_height(head, 0), head)]
    keys = [[_link(cid) for cid in one.key.cids] for one in (await ctx.index.at_height(head, 0), head)]
    message = {"From": addresses[0], "To": addresses[-1], "Value": "1", "GasFeeCap": "0", "GasPremium": "0"}
    transactions = ["0x" + hash_of(one.cid).hex() for one in messages[:2]]
    keyed = [[_link(cid) for cid in head.key.cids]]
    everything = {"fromBlock": "0x0", "toBlock": hex(head.height - 1)}
    miner = (kinds["storageminer"] or addresses)[0]
    account = (kinds["account"] or addresses)[0]
    eth = contracts or ["0xff" + 22 * "0" + f"{int(account[2:]):016x}"]
    hashes = ["0x" + parent.key.block_hash.hex()]
    found.by_type = {
        "types.TipSetKey": [[]],
        "address.Address": addresses,
        "abi.ChainEpoch": [head.height - 2],
        "cid.Cid": [_link(one) for one in (head.parent_state_root, block.cid, block.messages)]
        + [_link(one.cid) for one in messages[:1]],
        "string": ["latest", miner],
        "abi.DealID": [1, 0, 50],
        "verifreg.ClaimId": [3],
        "verifreg.AllocationId": [1],
        "uint64": [0, 128],
        "int64": [1],
        "bool": [True],
        "ethtypes.EthBlockNumberOrHash": ["latest"],
        "[]uint8": ["AAAA"],
        "ethtypes.EthHash": hashes,
        "*ethtypes.EthHash": hashes,
        "ethtypes.EthAddress": eth,
        "ethtypes.EthBytes": ["0x00"],
        "ethtypes.EthUint64": ["0x0"],
        "types.TipSetSelector": [{"tag": "latest"}],
        "network.Version": [29],
        "abi.PaddedPieceSize": [1 << 30],
        "abi.SectorSize": [32 << 30],
        "abi.SectorNumber": [7, 1],
        "*types.Message": [{**message, "Nonce": 0, "GasLimit": 0, "Method": 0, "Params": ""}],
        "crypto.DomainSeparationTag": [1],
        "[]string": [[miner]],
    }
    found.own = {
        "StateChangedActors": [roots],
        "EthFeeHistory": [["0x400", "latest", [10.0 * at for at in range(11)]]],
        "EthGetBlockByNumber": [["latest", False], ["latest", True]],
        "GasEstimateGasPremium": [[128, miner, 0, []]],
        "EthGetLogs": [[everything]],
        "GetActorEventsRaw": [[{}]],
        "EthTraceFilter": [[everything]],
        "StateListMessages": [[{"To": account}, [], 0]],
        "ChainStatObj": [[roots[1], None], [roots[1], roots[0]]],
        "ChainGetPath": [keys],
        "StateMinerSectors": [[miner, None, []], [miner, [0, 3000], []]],
        "ChainGetTipSet": [*([key] for key in keyed), [{"tag": "latest"}]],
        "FilecoinAddressToEthAddress": [[account]],
        "EthGetTransactionReceipt": [[one] for one in transactions],
        "EthGetTransactionReceiptLimited": [[one, 10] for one in transactions],
        "StateGetAllocations": [[one, []] for one in addresses],
        "StateGetClaims": [[one, []] for one in addresses],
    }
    return found


class Watch:
    """The longest turn of the loop since `begin`: seconds of the thread's CPU, and of the clock."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    async def run(self) -> None:
        """Until it is cancelled: a task that takes part in each turn."""
        wall, cpu = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0)
            now, used = time.perf_counter(), time.thread_time()
            self.wall, self.cpu = max(self.wall, now - wall), max(self.cpu, used - cpu)
            wall, cpu = now, used

    def begin(self) -> None:
        """Forget what was."""
        self.cpu = self.wall = 0.0


@dataclass(slots=True)
class Found:
    """Of one method, in seconds: the longest turns, and how long the cold answer took. `params`: the worst.

    `node`: it said that only a full node can answer.
    """

    method: Method
    cold: float = 0.0
    wall: float = 0.0
    warm: float = 0.0
    took: float = 0.0
    size: int = 0
    params: Any = None
    answered: bool = False
    node: bool = False


async def stalls(fresh: Fresh, method: Method, questions: Questions) -> Found:
    """Ask a method with fresh caches, then again."""
    found = Found(method)
    for params in questions.of(method):
        dispatcher = Dispatcher(await fresh(), settings=MAKING)
        # what the services before have left is not this call's
        gc.collect()
        watch = Watch()
        cold, wall, took, answer = await ask(dispatcher, method, params, watch)
        warm = (await ask(dispatcher, method, params, watch))[0]
        found.answered |= b'"result"' in answer[:200] or b'"result"' in answer[-200:]
        found.node |= b'"code":%d' % NEEDS_NODE in answer[:200]
        if max(cold, warm) >= max(found.cold, found.warm):
            found.params = params
        found.cold, found.warm = max(found.cold, cold), max(found.warm, warm)
        found.wall, found.took = max(found.wall, wall), max(found.took, took)
        found.size = max(found.size, len(answer))
    return found


async def ask(dispatcher: Dispatcher, method: Method, params: Any, watch: Watch) -> tuple[float, float, float, bytes]:
    """(CPU of the longest turn of the loop, its time by the clock, time to the answer, all in seconds; the answer)."""
    version = 1 if method.versions & V1 else 0 if method.versions & V0 else 2
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method.name, "params": list(params)})
    # the head is read before, as for any request of a follower that serves
    await dispatcher.context(version).head()
    watching = asyncio.create_task(watch.run())
    await asyncio.sleep(0)
    watch.begin()
    began = time.perf_counter()
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            _, answer = await dispatcher.answer_http(version, body)
    except TimeoutError:
        answer = b""
    took = time.perf_counter() - began
    await asyncio.sleep(0)
    watching.cancel()
    return watch.cpu, watch.wall, took, bytes(answer)


def line(row: Found) -> str:
    """A row of the table."""
    return (
        f"{row.method.name:42} {row.cold * 1e3:8.1f} {row.warm * 1e3:8.1f} {row.wall * 1e3:8.1f} {row.took * 1e3:9.1f} "
        f"{row.size:10,} {'' if row.answered else '(errors only) '}{str(row.params)[:60]}"
    )


async def measure(fresh: Fresh, wanted: re.Pattern[str], limit: float, least: float) -> int:
    """Print the methods that keep the loop for `least` ms or more, the longest first. How many do so for `limit` ms."""
    questions = await questions_of(await fresh())
    print(f"head {questions.head.height}; asked of {questions.by_type['address.Address']}", flush=True)
    rows = []
    for method in REGISTRY:
        if method.channel or method.perm != "read" or method.cost is Cost.WAIT or not wanted.search(method.name):
            continue
        rows.append(await stalls(fresh, method, questions))
        if max(rows[-1].cold, rows[-1].warm) * 1e3 > limit:
            print(f"over the limit: {line(rows[-1])}", flush=True)
    rows.sort(key=lambda row: -max(row.cold, row.warm))
    print(f"{'ms':42} {'cold CPU':>8} {'warm CPU':>8} {'wall':>8} {'answer':>9} {'bytes':>10}")
    for row in rows:
        if max(row.cold, row.warm) * 1e3 >= least:
            print(line(row))
    over = [row.method.name for row in rows if max(row.cold, row.warm) * 1e3 > limit]
    node = [row.method.name for row in rows if row.node and not row.answered]
    silent = [row.method.name for row in rows if not row.answered and not row.node]
    answered = len(rows) - len(silent) - len(node)
    print(f"{len(rows)} methods, {answered} with an answer; {len(over)} over {limit:g} ms: {over or ''}")
    print(f"{len(node)} that only a full node answers: {', '.join(node)}")
    print(f"{len(silent)} without an answer: {', '.join(silent)}")
    return len(over)


@asynccontextmanager
async def fresh_services(url: str | None, actors: int, epochs: int) -> AsyncIterator[Fresh]:
    """What makes services with empty caches, over a store or over a simulated chain."""
    if url is not None:
        store = await open_store(url, readonly=True)
        try:
            yield lambda: services_over(store)
        finally:
            await store.close()
        return
    began = time.monotonic()
    node = await start_simulated(SimSettings.for_size(actors, 2000), epochs=epochs)
    print(f"{actors:,} actors, {epochs} epochs: {time.monotonic() - began:.0f} s", flush=True)

    async def fresh() -> Services:
        return replace(node._services, objects=Objects(node.store), caches={})

    try:
        yield fresh
    finally:
        await node.stop()


async def run(args: argparse.Namespace) -> int:
    """How many methods are over the limit."""
    register_all()
    async with fresh_services(args.store, args.actors, args.epochs) as fresh:
        # as each serving process does
        tune_garbage_collector()
        return await measure(fresh, re.compile(args.methods), args.limit, args.least)


def main(arguments: list[str] | None = None) -> None:
    """The command line. Exit code 1 when a method is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    over = parser.add_mutually_exclusive_group()
    over.add_argument("--store", metavar="URL", help="a store with a chain in it")
    over.add_argument("--actors", type=int, default=1_000_000, help="of a simulated chain (default 1,000,000)")
    parser.add_argument("--epochs", type=int, default=4, help="of a simulated chain (default 4)")
    parser.add_argument("--methods", default="", metavar="REGEX", help="only methods in which this is found")
    parser.add_argument("--limit", type=float, default=50.0, metavar="MS", help="milliseconds (default 50)")
    parser.add_argument("--least", type=float, default=10.0, metavar="MS", help="show stalls from here on (default 10)")
    args = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if runner.run(run(args)):
            sys.exit(1)


if __name__ == "__main__":
    main()
