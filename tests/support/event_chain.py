"""A small chain whose messages emit logs, published to any store as a bridge would; and followers over it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from blockstore.cid import RAW, Cid, cid_of
from blockstore.lmdb.store import LmdbStore
from blockstore.memory import MemoryStore
from blockstore.store import Batch, HeadEntry, Store, TipsetRef
from chain.address import EAM_ID, delegated, from_id
from chain.index.event_index import index_events
from chain.ipld.dag_cbor import encode
from chain.ipld.hamt import hamt_build
from chain.ipld.objects import Objects
from chain.message import Message
from chain.network import NetworkRecord, save_network
from chain.tipset import Tipset
from rpc.lookup.filters.installed_filters import Filters
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from tests.support.made_chain import MadeChain
from tests.support.served import services_over

#: emitters' IDs, and the Ethereum addresses of the first two
TOKEN, POOL, NATIVE = 900, 901, 902
ADDRESSES = {TOKEN: b"\xaa" * 20, POOL: b"\xbb" * 20}
#: (emitter, first topic, data) of a log; a bare event is (emitter, None, None)
Log = tuple[int, int | None, bytes | None]


def topic(number: int) -> bytes:
    return number.to_bytes(32, "big")


class EventChain(MadeChain):
    """`add` makes a tipset whose one message emits `logs`; `publish` makes it (a part of) a head change."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store  # type: ignore[assignment]
        self.head: Tipset | None = None
        self.seq = 0
        self._term = 0
        self._logs: dict[bytes, Sequence[Log]] = {}
        self._tipsets: dict[bytes, Tipset] = {}
        self._state: Cid | None = None
        self._made = 0

    async def _root(self) -> Cid:
        if self._state is None:
            made: list[tuple[bytes, bytes]] = []
            code = cid_of(b"code")
            actors = {
                bytes(from_id(number)): [
                    code, code, 0, b"", bytes(delegated(EAM_ID, ADDRESSES[number])) if number in ADDRESSES else None,
                ]
                for number in (TOKEN, POOL, NATIVE)
            }  # fmt: skip
            root = hamt_build(lambda cid, raw: made.append((cid.multihash, raw)), actors)
            await self.store.put_many(made, closed=True)
            self._state = await self.put(encode([5, root, code]))
        return self._state

    async def _receipts(self, logs: Sequence[Log]) -> Cid:
        events = []
        for emitter, first, data in logs:
            entries = [] if first is None else [[3, "t1", RAW, topic(first)]]
            if data is not None:
                entries.append([3, "d", RAW, data])
            events.append([emitter, entries])
        root = await self.amt(events, 3, 5) if events else None
        return await self.amt([[0, b"", 1000, root]])

    async def tipset(self, parent: Tipset | None, logs: Sequence[Log] = (), *, nulls: int = 0) -> Tipset:
        """A tipset on `parent`, with a message that emits `logs` once a child executes it."""
        self._made += 1
        message = Message(0, bytes(from_id(2000)), bytes(from_id(TOKEN)), self._made, 0, 1000, 1, 1, 0, b"")
        height = 0 if parent is None else parent.height + 1 + nulls
        receipts = await self._receipts([]) if parent is None else await self._receipts(self._logs[parent.key])
        made = await self.add(
            parent, height, [((message,), ())], receipts=receipts, state=await self._root(), salt=self._made % 256
        )
        self._logs[made.key] = logs
        self._tipsets[made.key] = made
        return made

    async def publish(self, reverts: Sequence[Tipset], applies: Sequence[Tipset]) -> Tipset:
        """A whole head change; returns the head."""
        if not self._term:
            self._term = await self.store.new_term("test")
            batch = Batch()
            save_network(batch, self.network)
            await self.store.write(batch)
        await self.index(applies)
        self.seq += 1
        refs = [tuple(TipsetRef(one.height, one.key) for one in some) for some in (reverts, applies)]
        await self.store.append_head(HeadEntry(self.seq, self._term, refs[0], refs[1], refs[1][-1]))
        self.head = applies[-1]
        return self.head

    async def index(self, applies: Sequence[Tipset]) -> None:
        """Write the rows of the events that these tipsets tell of."""
        for one in applies:
            if one.height:
                batch = Batch()
                assert await index_events(batch, Objects(self.store), self._tipsets[one.parents], one, self.network)
                await self.store.write(batch)

    async def grow(self, *logs: Log, nulls: int = 0) -> Tipset:
        """One tipset more on the head, published."""
        return await self.publish([], [await self.tipset(self.head, logs, nulls=nulls)])

    async def reorg(self, depth: int, *branch: Sequence[Log]) -> Tipset:
        """The newest `depth` tipsets give way to others with these logs, in one head change."""
        reverts: list[Tipset] = []
        at = self.head
        for _ in range(depth):
            assert at is not None
            reverts.append(at)
            at = self._tipsets[at.parents]
        applies: list[Tipset] = []
        for logs in branch:
            applies.append(at := await self.tipset(at, logs))
        return await self.publish(reverts, applies)

    @property
    def network(self) -> NetworkRecord:
        assert self.genesis is not None
        return NetworkRecord("made", self.genesis.blocks[0].cid, "t", 31415926, 30, self.upgrades)

    def canonical(self) -> list[Tipset]:
        """The chain from the genesis to the head."""
        found = []
        at = self.head
        while at is not None:
            found.append(at)
            at = self._tipsets.get(at.parents)
        return found[::-1]

    def shown(self, tipset: Tipset, removed: bool = False) -> list[tuple[str, int, bool]]:
        """(block hash, log index, removed) of a tipset's logs."""
        block = "0x" + tipset.key.block_hash.hex()
        return [(block, at, removed) for at in range(len(self._logs[tipset.key]))]


def seen(logs: Any) -> list[tuple[str, int, bool]]:
    """What `EventChain.shown` has of logs, of an answer."""
    return [(log["blockHash"], int(log["logIndex"], 16), log["removed"]) for log in logs]


class Client:
    """Asks one follower after another over HTTP, as behind a balancer without stickiness."""

    def __init__(self, *followers: Dispatcher) -> None:
        self.followers = list(followers)
        self.asked = 0

    async def whole(self, method: str, *params: Any) -> Any:
        """The whole answer of the follower whose turn it is."""
        follower = self.followers[self.asked % len(self.followers)]
        self.asked += 1
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})
        return orjson.loads((await follower.http(1, body))[1])

    async def ask(self, method: str, *params: Any) -> Any:
        answer = await self.whole(method, *params)
        assert "error" not in answer, answer
        return answer["result"]

    async def error(self, method: str, *params: Any) -> Any:
        return (await self.whole(method, *params))["error"]


async def follower_over(store: Store, filters: Filters | None = None) -> Dispatcher:
    """A follower of its own over a store."""
    register_all()
    services = await services_over(store)
    if filters is not None:
        services.caches["eth_filters"] = filters
    return Dispatcher(services)


@contextlib.asynccontextmanager
async def store_of(kind: str, folder: Path) -> AsyncIterator[Store]:
    """An empty store: "memory", "lmdb", or "cassandra" on a real server."""
    store: Store
    if kind == "memory":
        store = MemoryStore()
    elif kind == "lmdb":
        store = await LmdbStore.open(folder / "store", map_size=64 << 20)
    else:
        from tests.support.cassandra.stores import emptied, keyspace_url

        store = await emptied(keyspace_url("follower_filters"), delta_ms=100, epsilon_ms=40, every=True)
    try:
        yield store
    finally:
        await store.close()
