"""A full node played from a store in memory: the follower's own server and methods over other heads."""

from __future__ import annotations

import asyncio

from blockstore.store import Batch
from chain.index import HELD_ALL, ChainIndex, TipsetRow, index_rows
from chain.network import NetworkRecord, save_network
from chain.objects import Objects
from chain.tipset import Tipset
from follower.faults import Faults, FaultyStore
from follower.node_heads import NodeHeads
from rpc.dispatch import Dispatcher
from rpc.limits import ServerSettings
from rpc.methods import register_all
from rpc.registry import REGISTRY
from rpc.server import Server, serve
from rpc.services import CheckResult, Checks, Services


class PlayedNode:
    """Serves `store` as a node of `network` whose head is `heads`'. `faults` can be changed at any time."""

    def __init__(self, store: FaultyStore, network: NetworkRecord, heads: NodeHeads, *, agent: str) -> None:
        self.store = store
        self.network = network
        self.heads = heads
        self.faults: Faults = store.faults
        self.dropped = 0
        # no object cache: what the faults say must be seen by every read
        objects = Objects(store, cache_bytes=1)
        self.index = ChainIndex(store, objects, network)
        self._services = Services(
            store=store,
            index=self.index,
            objects=objects,
            network=network,
            head_source=heads,
            agent=agent,
            checks=Checks(live={"node": self._alive}, ready={"node": self._alive}),
        )
        self._settings = ServerSettings(ws_buffer=4096)
        self._server: Server | None = None
        self._host = "127.0.0.1"
        self._port = 0

    @property
    def url(self) -> str:
        """The v1 endpoint."""
        return f"{self.base}/rpc/v1"

    @property
    def base(self) -> str:
        """The node without a path: what `--node` takes."""
        return f"http://{self._host}:{self._port}"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one. Errors: OSError."""
        register_all()
        dispatcher = Dispatcher(self._services, REGISTRY, settings=self._settings, guard=self.faults.guard)
        self._server = await serve(self._services, host, port, dispatcher=dispatcher)
        self._host, self._port = host, self._server.port

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        if self._server is not None:
            server, self._server = self._server, None
            server.abort_connections()
            await server.stop(0)

    async def restart(self, down_seconds: float = 0.0) -> None:
        """Vanish, and come back at the same address."""
        await self.stop()
        await asyncio.sleep(down_seconds)
        await self.start(self._host, self._port)

    def drop_connections(self) -> None:
        """Cut every connection without a word."""
        self.dropped += 1
        if self._server is not None:
            self._server.abort_connections()

    def after_move(self) -> None:
        """To be called after each head change: drops connections when the faults say so."""
        if self.faults.drop_every and self.heads.seq % self.faults.drop_every == 0:
            self.drop_connections()

    async def _alive(self) -> CheckResult:
        return CheckResult(True, f"head {self.heads.head.height}")


class RowWriter:
    """Writes index rows of tipsets into a store, parents first."""

    def __init__(self, store: FaultyStore) -> None:
        self._store = store
        self._rows: dict[bytes, TipsetRow] = {}

    async def write(self, tipset: Tipset) -> None:
        """The rows of one tipset; a second time does nothing."""
        if tipset.key in self._rows:
            return
        batch = Batch()
        self._rows[tipset.key] = index_rows(batch, tipset, self._rows.get(tipset.parents), HELD_ALL)
        await self._store.write(batch)


async def keep_network(store: FaultyStore, network: NetworkRecord) -> None:
    """Write the network's record."""
    batch = Batch()
    save_network(batch, network)
    await store.write(batch)
