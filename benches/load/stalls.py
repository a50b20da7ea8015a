"""How long each method of the registry keeps the event loop of a follower, over a store of any size.

    follower simulate --mainnet --actors 1000000 --block-time 10 --listen 127.0.0.1:1235 &
    follower bridge --node http://127.0.0.1:1235 --store lmdb:///tmp/big --backfill-epochs 0      # until it has a head
    python -m benches.load.stalls --store lmdb:///tmp/big [--methods REGEX] [--limit MS]

Each method is asked about the head: of miners, accounts, messages, blocks and roots, as its parameters want. A timer of
1 ms runs beside it. Between two of its ticks, `CPU` is the most processor time of the loop's thread: the time that the
loop was kept. `wall` is the longest time between two ticks: on a machine with other work it counts that work too, and
waits for a disk. `cold` is with fresh caches, `warm` the same call again.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin

import orjson
import uvloop

from benches.chain_methods import MAKING, services_over
from blockstore.cid import Cid
from blockstore.open import open_store
from blockstore.store import Store
from chain.address import Address
from chain.tipset import EMPTY_KEY, Tipset, TipsetKey
from chain.tipset_messages import load_tipset_messages
from rpc.context import Context
from rpc.lookup.actor_states import states_at
from rpc.lookup.senders import id_of
from rpc.methods import register_all
from rpc.registry import REGISTRY, V0, V1, Cost, Method
from rpc.server.dispatch import Dispatcher

_TICK = 0.001
_CALL_SECONDS = 20.0
#: parameter lists of a method that are tried at most
_TRIED = 12
#: parameters of methods whose own form no annotation tells
_BY_NAME: dict[str, list[list[Any]]] = {
    "eth_getLogs": [[{"fromBlock": "latest", "toBlock": "latest"}]],
    "Filecoin.GetActorEventsRaw": [[{}]],
    "eth_getBlockByNumber": [["latest", False], ["latest", True]],
    "eth_feeHistory": [["0x14", "latest", [10, 50]]],
    "trace_filter": [[{"fromBlock": "latest", "toBlock": "latest"}]],
}


@dataclass(slots=True)
class Samples:
    """Values of a store's head, by what a parameter is."""

    head: Tipset
    cids: list[Any] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def of(self, annotation: Any) -> list[Any]:
        """What to try for a parameter of this type, JSON values."""
        base, go = annotation, ""
        if get_origin(annotation) is Annotated:
            base, extra = get_args(annotation)[:2]
            go = getattr(extra, "go", "")
        simple: dict[Any, list[Any]] = {
            TipsetKey: [[]], Cid: self.cids, Address: self.addresses, bool: [True], str: ["latest"], bytes: [""],
        }  # fmt: skip
        if go == "ethtypes.EthHash":
            return ["0x" + self.head.key.block_hash.hex()]
        if go == "ethtypes.EthAddress":
            return ["0xff" + 22 * "0" + f"{int(address[2:]):016x}" for address in self.addresses]
        if go == "abi.ChainEpoch":
            return [self.head.height - 2]
        if go.startswith("ethtypes."):
            return ["latest", "0x0"]
        if base is int:
            return [0]
        return simple.get(base, ["latest", None])

    def calls(self, method: Method) -> Iterator[list[Any]]:
        """Parameter lists."""
        if method.name in _BY_NAME:
            yield from _BY_NAME[method.name]
            return
        if method.raw:
            yield from ([], ["latest"], ["0x1", "latest"])
            return
        # a walk of a large tree takes seconds
        tried = 3 if method.cost is Cost.HEAVY else _TRIED
        yield from itertools.islice(itertools.product(*(self.of(param.annotation) for param in method.params)), tried)


async def samples_of(store: Store) -> Samples:
    """The head, its blocks' and messages' CIDs, two miners, two accounts and the power actor."""
    ctx = Context(await services_over(store))
    head = (await ctx.head()).tipset
    found = Samples(head)
    block = head.blocks[0]
    found.cids = [{"/": str(cid)} for cid in (block.cid, block.parent_state_root, block.messages)]
    parent = await ctx.index.tipset(head.parents)
    messages = await load_tipset_messages(ctx.objects, parent, ctx.network, id_of(ctx))
    found.cids += [{"/": str(one.cid)} for one in messages[:2]]
    _, states = await states_at(ctx, EMPTY_KEY)
    kinds: dict[str, int] = {}
    async for address, actor in states.tree.items():
        name, _ = await states.kind_of(actor)
        wanted = 2 if name in ("storageminer", "account", "ethaccount", "evm", "multisig") else 0
        if kinds.get(name, 0) < wanted:
            kinds[name] = kinds.get(name, 0) + 1
            found.addresses.append(str(address))
        if kinds.get("storageminer", 0) == 2 and kinds.get("account", 0) == 2:
            break
    found.addresses += [found.addresses[0][0] + "04", found.addresses[0][0] + "01"]
    return found


class Watch:
    """A timer that notes how late it is: the most since `begin`, in seconds of the thread's CPU and of wall time."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            wall, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(_TICK)
            self.wall = max(self.wall, time.perf_counter() - wall - _TICK)
            self.cpu = max(self.cpu, time.thread_time() - cpu)

    def begin(self) -> None:
        """Forget what was."""
        self.cpu = self.wall = 0.0


@dataclass(slots=True)
class Found:
    """Of one method, in seconds: how long the loop was kept, and how long the cold answer took. `params`: the worst."""

    method: Method
    cold: float = 0.0
    wall: float = 0.0
    warm: float = 0.0
    took: float = 0.0
    params: Any = None
    answered: bool = False


async def stalls(store: Store, method: Method, samples: Samples, watch: Watch) -> Found:
    """Ask a method what `samples` say, with fresh caches, then again."""
    found = Found(method)
    for params in samples.calls(method):
        dispatcher = Dispatcher(await services_over(store), settings=MAKING)
        cold, wall, took, answered = await _ask(dispatcher, method, params, watch)
        warm = (await _ask(dispatcher, method, params, watch))[0]
        found.answered |= answered
        if max(cold, warm) >= max(found.cold, found.warm):
            found.params = params
        found.cold, found.warm = max(found.cold, cold), max(found.warm, warm)
        found.wall, found.took = max(found.wall, wall), max(found.took, took)
    return found


async def _ask(dispatcher: Dispatcher, method: Method, params: Any, watch: Watch) -> tuple[float, float, float, bool]:
    version = 1 if method.versions & V1 else 0 if method.versions & V0 else 2
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method.name, "params": list(params)})
    # the head is read before, as for any request of a follower that serves
    await dispatcher.context(version).head()
    await asyncio.sleep(5 * _TICK)
    watch.begin()
    began = time.perf_counter()
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            answer = (await dispatcher.http(version, body))[1]
    except TimeoutError:
        answer = b""
    took = time.perf_counter() - began
    await asyncio.sleep(3 * _TICK)
    return watch.cpu, watch.wall, took, b'"result"' in answer[:200] or b'"result"' in answer[-200:]


def line(row: Found) -> str:
    """A row of the table."""
    return (
        f"{row.method.name:42} {row.cold * 1e3:8.1f} {row.warm * 1e3:8.1f} {row.wall * 1e3:8.1f} {row.took * 1e3:9.1f} "
        f"{'' if row.answered else '(errors only) '}{str(row.params)[:60]}"
    )


async def run(url: str, methods: str, limit: float, least: float) -> int:
    """Print the methods that keep the loop for `least` ms or more, the longest first. How many do so for `limit` ms."""
    register_all()
    store = await open_store(url, readonly=True)
    samples = await samples_of(store)
    print(f"head {samples.head.height}; asked of {', '.join(samples.addresses)}", flush=True)
    watch = Watch()
    task = asyncio.create_task(watch.run())
    rows = []
    for method in REGISTRY:
        if method.channel or method.perm != "read" or method.cost is Cost.WAIT or not re.search(methods, method.name):
            continue
        rows.append(await stalls(store, method, samples, watch))
        if max(rows[-1].cold, rows[-1].warm) * 1e3 > limit:
            print(f"over the limit: {line(rows[-1])}", flush=True)
    task.cancel()
    await store.close()
    rows.sort(key=lambda row: -max(row.cold, row.warm))
    print(f"{'ms':42} {'cold CPU':>8} {'warm CPU':>8} {'wall':>8} {'answer':>9}")
    for row in rows:
        if max(row.cold, row.warm) * 1e3 >= least:
            print(line(row))
    over = [row.method.name for row in rows if max(row.cold, row.warm) * 1e3 > limit]
    answered = sum(row.answered for row in rows)
    print(f"{len(rows)} methods, {answered} with an answer; {len(over)} over {limit:g} ms: {', '.join(over) or 'none'}")
    return len(over)


def main() -> None:
    """The command line. Exit code 1 when a method is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, metavar="URL")
    parser.add_argument("--methods", default="", metavar="REGEX", help="only methods in which this is found")
    parser.add_argument("--limit", type=float, default=50.0, metavar="MS", help="milliseconds (default 50)")
    parser.add_argument("--least", type=float, default=10.0, metavar="MS", help="show stalls from here on (default 10)")
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        raise SystemExit(bool(runner.run(run(args.store, args.methods, args.limit, args.least))))


if __name__ == "__main__":
    main()
