"""Which objects a cache of a share of the chain keeps: LRU, LRU-SP and GDSF on one trace of a head that moves.

    python -m benches.stores.eviction [--chain devnet] [--requests N] [--capacity PERCENT ...] [--seed N] [--repeats]

The trace: for each head of the recorded chain, in order, `--requests` questions with the shares of the recorded mix are
answered by the follower's own methods without any cache, and the objects that each request reads are written down: once
each, for the process has an object in memory while it answers (`--repeats`: as often as it reads them). Of the blocks
asked for, half are the newest three, half any block of the chain so far, some of them often (as in the mix). Actors are
asked for by their popularity: the first of 1,000 a thousand times as often as the last. A capacity is a share of the
bytes of all objects that the trace touches.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

from blockstore.cid import Cid
from blockstore.open import open_store
from blockstore.store import HeadEntry, TipsetRef
from blockstore.tier.policy import Gdsf, Lru, LruSp, Policy
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import load_network
from chain.tipset import Tipset
from follower.head import StoreHeads
from leader_bridge.imports.importer import import_car
from rpc.lookup.actor_states import states_at
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings
from rpc.services import CacheSizes, Head, Services
from tests.support.recorded import recorded

#: of 100 questions, those that read objects in the recorded mix (without calls that execute)
SHARES: Final = {"block": 28, "actor": 15, "balance": 9, "head": 4, "receipts": 5}
POLICIES: Final[dict[str, Callable[[int], Policy]]] = {"LRU": Lru, "LRU-SP": LruSp, "GDSF": Gdsf}

Trace = list[tuple[bytes, int]]


class TracedObjects(Objects):
    """Writes down what is read: (multihash, size). Once in a request, unless `repeats`."""

    def __init__(self, store: Any, repeats: bool) -> None:
        super().__init__(store, cache_bytes=1)
        self.trace: Trace = []
        self._repeats = repeats
        self._noted: set[bytes] = set()

    def begin_request(self) -> None:
        """What is read from now on is another request's."""
        self._noted.clear()

    def _note(self, cid: bytes, size: int) -> None:
        multihash = bytes(Cid(cid).multihash)
        if self._repeats or multihash not in self._noted:
            self._noted.add(multihash)
            self.trace.append((multihash, size))

    async def get(self, cid: bytes) -> bytes:
        data = await super().get(cid)
        self._note(cid, len(data))
        return data

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        found = await super().get_many(cids)
        for cid, data in zip(cids, found, strict=True):
            self._note(cid, len(data))
        return found


class MovingHead:
    """A head source whose head the trace moves."""

    def __init__(self, heads: StoreHeads) -> None:
        self._heads = heads
        self.head: Head | None = None

    async def current(self) -> Head:
        return self.head or await self._heads.current()

    def subscribe(self, after: int | None = None) -> Any:
        return self._heads.subscribe(after)


def question(rng: random.Random, height: int, actors: Sequence[str], often: Sequence[int]) -> bytes:
    """One request at a head of this height."""
    kind = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
    # the n-th actor is asked for 1/n times as often as the first
    actor = actors[min(len(actors) - 1, int(len(actors) ** rng.random()) - 1)]
    near = height - rng.choice((0, 1, 1, 1, 2))
    far = min(height, rng.choice(often)) if rng.random() < 0.5 else rng.randint(1, max(1, height))
    block = hex(max(1, near if rng.random() < 0.5 else far))
    method, params = {
        "block": ("eth_getBlockByNumber", [block, rng.random() < 0.5]),
        "actor": ("Filecoin.StateGetActor", [actor, []]),
        "balance": ("Filecoin.WalletBalance", [actor]),
        "head": ("Filecoin.ChainHead", []),
        "receipts": ("eth_getBlockReceipts", [block]),
    }[kind]
    return orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})


async def traced(url: str, requests: int, seed: int, repeats: bool) -> Trace:
    """The objects that the questions read, in order."""
    store = await open_store(url, readonly=True)
    objects = TracedObjects(store, repeats)
    network = await load_network(store)
    assert network is not None
    index = ChainIndex(store, objects, network, cached_rows=65536, cached_tipsets=1)
    heads = MovingHead(StoreHeads(store, index))
    sizes = CacheSizes(json=1, decoded=1, nodes=1)
    services = Services(
        store=store, index=index, objects=objects, network=network, head_source=heads, cache_sizes=sizes
    )
    # no answer is kept either
    dispatcher = Dispatcher(services, settings=ServerSettings(answer_cache_bytes=0))
    newest = await heads.current()
    _, states = await states_at(dispatcher.context(1), ())  # type: ignore[arg-type]
    rng = random.Random(seed)
    actors = [str(address) async for address, _ in states.tree.items()]
    rng.shuffle(actors)
    actors = actors[:1000]
    chain: list[Tipset] = [newest.tipset]
    while chain[-1].height > 1:
        chain.append(await index.parent(chain[-1]))
    chain.reverse()
    often = [rng.randint(1, newest.tipset.height) for _ in range(40)]
    objects.trace.clear()
    for seq, tipset in enumerate(chain, 1):
        ref = TipsetRef(tipset.height, tipset.key)
        heads.head = Head(seq, HeadEntry(seq, 1, (), (ref,), ref), tipset)
        for _ in range(requests):
            objects.begin_request()
            await dispatcher.http(1, question(rng, tipset.height, actors, often))
    await store.close()
    return objects.trace


def replay(policy: Policy, trace: Trace) -> tuple[float, float]:
    """(share of the reads, share of the bytes) that were there."""
    hits = hit_bytes = total = 0
    for now, (key, size) in enumerate(trace):
        total += size
        if policy.use(key, now):
            hits += 1
            hit_bytes += size
        else:
            policy.add(key, size, now)
    return hits / len(trace), hit_bytes / total


async def run(chain: str, requests: int, capacities: Sequence[float], seed: int, repeats: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"lmdb://{folder}/store"
        store = await open_store(url, map_size=4 << 30)
        await import_car(store, recorded(f"{chain}/chain.car.zst"), network_file=recorded(f"{chain}/network.json"))
        await store.close()
        trace = await traced(url, requests, seed, repeats)
    sizes = dict(trace)
    whole = sum(sizes.values())
    print(f"{len(trace):,} reads of {len(sizes):,} objects, {whole / 1e6:.1f} MB, {whole / len(sizes):.0f} bytes each")
    for percent in capacities:
        rows = []
        for name, kind in POLICIES.items():
            began = time.process_time()
            objects, volume = replay(kind(int(whole * percent / 100)), trace)
            took = (time.process_time() - began) / len(trace) * 1e6
            rows.append(f"{name} {objects:.3f} / {volume:.3f} ({took:.2f} us)")
        print(f"{percent:g} % of the bytes, object hit / byte hit: " + ", ".join(rows), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benches.stores.eviction", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--chain", default="devnet", help="a recorded chain (default: devnet)")
    parser.add_argument("--requests", type=int, default=20, help="questions at each head (default 20)")
    parser.add_argument("--capacity", type=float, nargs="+", default=[2, 10, 30], metavar="PERCENT")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", action="store_true", help="note an object as often as a request reads it")
    args = parser.parse_args(arguments)
    register_all()
    asyncio.run(run(args.chain, args.requests, args.capacity, args.seed, args.repeats))


if __name__ == "__main__":
    main()
