"""A full node played from a store in memory: the follower's own server and methods over other heads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from aiohttp import web
from aiohttp.web_request import BaseRequest

from blockstore.cid import Cid
from blockstore.store import Batch, HeadEntry
from chain.index.chain_index import HELD_ALL, ChainIndex, TipsetRow, index_rows
from chain.index.eth_rows import index_eth_txs
from chain.ipld.amt import Amt
from chain.ipld.dag_cbor import links
from chain.ipld.objects import Objects
from chain.message import receipt_from_fields
from chain.network import NetworkRecord, save_network
from chain.tipset import Tipset
from chain.tipset_messages import load_message_cids
from devnode.faults import Faults, FaultyStore
from devnode.node_heads import NodeHeads
from rpc.context import Context
from rpc.json_wire import Text
from rpc.methods import register_all
from rpc.registry import REGISTRY, Registry
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings
from rpc.server.server import Server
from rpc.services import CheckResult, Checks, Head, Services


class PlayedNode:
    """Serves `store` as a node of `network` whose head is `heads`'. `faults` can be changed at any time."""

    def __init__(
        self,
        store: FaultyStore,
        network: NetworkRecord,
        heads: NodeHeads,
        *,
        agent: str,
        registry: Registry = REGISTRY,
    ) -> None:
        self.store = store
        self.network = network
        self.heads = heads
        self.faults: Faults = store.faults
        self.dropped = 0
        self.restarts = 0
        # no object cache: what the faults say must be seen by every read
        objects = Objects(store, cache_bytes=1)
        # its own chain a node knows well, whatever it tells others
        self.index = ChainIndex(store, store.honest, network)
        self._services = Services(
            store=store,
            index=self.index,
            objects=objects,
            network=network,
            head_source=_Heads(heads, self.faults),
            agent=agent,
            checks=Checks(live={"node": self._alive}, ready={"node": self._alive}),
        )
        # a session that stands half open must not be ended by this side's own pings
        self._settings = ServerSettings(
            ws_channel_buffer=4096,
            ws_ping_seconds=86_400.0,
            # Lotus bounds bodies alone
            max_body_bytes=100 << 20,
            max_batch_answer_bytes=512 << 20,
            max_answer_bytes=512 << 20,
            memory_budget_bytes=2 << 30,
            memory_budget_bytes_per_client=2 << 30,
        )
        self._registry = registry
        self._server: _NodeServer | None = None
        self._host = "127.0.0.1"
        self._port = 0

    @property
    def url(self) -> str:
        """The v1 endpoint."""
        return f"{self.base}/rpc/v1"

    @property
    def base(self) -> str:
        """The node without a path: what `--node` takes."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def node_info(self) -> str:
        """The node in the `FULLNODE_API_INFO` form (no token is needed)."""
        return self.base

    @property
    def head(self) -> Tipset:
        """The head now."""
        return self.heads.head

    @property
    def listening(self) -> bool:
        """Whether the node can be connected to."""
        return self._server is not None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one. Errors: OSError."""
        register_all()

        dispatcher = _NodeDispatcher(self._services, self._registry, self.faults, self._settings)
        server = _NodeServer(self._services, self._registry, self._settings, dispatcher)
        server.faults = self.faults
        try:
            await server.listen(host, port)
        except BaseException:
            await server.stop(0)
            raise
        self._server = server
        self._host, self._port = host, server.port

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        if self._server is not None:
            server, self._server = self._server, None
            server.abort_connections()
            await server.stop(0)

    async def restart(self, down_seconds: float = 0.0) -> None:
        """Vanish, and come back at the same address. Errors: OSError, when that was taken meanwhile."""
        self.restarts += 1
        await self.stop()
        await asyncio.sleep(down_seconds)
        await self.start(self._host, self._port)

    def drop_connections(self) -> None:
        """Cut every connection without a word."""
        self.dropped += 1
        if self._server is not None:
            self._server.abort_connections()

    def half_open(self) -> None:
        """From now on nothing is read, answered or pushed, and no connection is closed: see `recover`."""
        self.faults.is_mute = True
        if self._server is not None:
            self._server.stop_reading()

    def recover(self) -> None:
        """End `half_open`: the connections of that time are cut, new ones are served."""
        self.faults.is_mute = False
        self.drop_connections()

    def after_move(self) -> None:
        """To be called after each head change: drops connections when the faults say so."""
        if self.faults.drop_every and self.heads.seq % self.faults.drop_every == 0:
            self.drop_connections()

    async def restart_if_due(self) -> None:
        """To be called after each head change where one may wait: restarts when the faults say so."""
        if self.faults.restart_every and self.heads.seq % self.faults.restart_every == 0:
            await self.restart(self.faults.down_seconds)

    async def _alive(self) -> CheckResult:
        return CheckResult(True, f"head {self.heads.head.height}")

    # --- what a node may not hold --------------------------------------------------------------------------

    async def lose(self, *, receipts: bool = False, events: bool = False, state_below: int | None = None) -> int:
        """Lack receipts (and with them events), events, or the states that tipsets below an epoch name.

        Of the chain up to the head as it is now. What something else needs too is kept. Returns how many
        objects are lacked now; `faults.lacks.clear()` gives all back.
        """
        states: dict[bool, set[Cid]] = {False: set(), True: set()}
        receipt_roots: set[Cid] = set()
        kept: set[Cid] = set()
        tipset = self.head
        while True:
            states[state_below is not None and tipset.height < state_below].add(tipset.parent_state_root)
            receipt_roots.add(tipset.parent_message_receipts)
            kept.update(block.messages for block in tipset.blocks)
            kept.update(block.cid for block in tipset.blocks)
            if tipset.height == 0:
                break
            tipset = await self.index.tipset(tipset.parents)
        event_roots = await self._event_roots(receipt_roots)
        gone: set[Cid] = set(states[True])
        (gone if receipts else kept).update(receipt_roots)
        (gone if receipts or events else kept).update(event_roots)
        kept |= states[False]
        lacked = self._below(gone) - self._below(kept, stop=event_roots - kept)
        self.faults.lacks |= lacked
        return len(lacked)

    async def _event_roots(self, receipt_roots: Iterable[Cid]) -> set[Cid]:
        found: set[Cid] = set()
        for root in receipt_roots:
            async for pair in Amt.load(self.store.honest, root, version=0):
                events = receipt_from_fields(pair[1]).events_root
                if events is not None:
                    found.add(events)
        return found

    def _below(self, roots: Iterable[Cid], stop: Iterable[Cid] = ()) -> set[bytes]:
        """The multihashes of what is held under some roots; links of headers, and to `stop`, are not followed."""
        stops = set(stop)
        seen: set[bytes] = set()
        waiting = list(roots)
        while waiting:
            cid = waiting.pop()
            data = self.store.held(cid)
            if data is None or cid.multihash in seen or cid in stops:
                continue
            seen.add(cid.multihash)
            # a block header is the one object here that is a list of 16
            if cid.codec == 0x71 and data[:1] != b"\x90":
                waiting += links(data)
        return seen


class _NodeDispatcher(Dispatcher):
    """Answers as the faults say."""

    def __init__(self, services: Services, registry: Registry, faults: Faults, settings: ServerSettings) -> None:
        super().__init__(services, registry, settings=settings, guard=faults.guard)
        self._faults = faults

    async def _http(
        self, version: int, body: bytes, ctx: Context | None = None, min_head: str | None = None
    ) -> tuple[int, Text]:
        """As the base class, but for a bad status."""
        await self._faults.wait_until_unmuted()
        status = self._faults.next_status()
        if status:
            return status, b"something is wrong here\n"
        return await super()._http(version, body, ctx, min_head)


class _NodeServer(Server):
    """A server that may refuse WebSockets, and stop to read."""

    faults: Faults

    def stop_reading(self) -> None:
        """Read no more from the connections that there are."""
        transports: list[Any] = [connection.transport for connection in self._shared.connections]
        transports += [ws._req.transport for ws in self._sockets if ws._req is not None]
        for transport in transports:
            if transport is not None and not transport.is_closing():
                transport.pause_reading()

    async def _websocket(self, request: BaseRequest, version: int, permissions: frozenset[str]) -> web.StreamResponse:
        if not self.faults.has_websocket:
            return web.Response(status=400, text="no WebSockets here\n")
        return await super()._websocket(request, version, permissions)


class _Heads:
    """The node's heads as its clients see them: none while it is mute."""

    def __init__(self, heads: NodeHeads, faults: Faults) -> None:
        self._heads = heads
        self._faults = faults

    async def current(self) -> Head:
        """The head now."""
        return await self._heads.current()

    async def subscribe(self, after: int | None = None) -> AsyncIterator[HeadEntry]:
        """Every entry after `after`, in order."""
        async for entry in self._heads.subscribe(after):
            await self._faults.wait_until_unmuted()
            yield entry


async def write_rows(store: FaultyStore, network: NetworkRecord, tipset: Tipset, parent: TipsetRow | None) -> TipsetRow:
    """Write the rows of a stored tipset, those of its Ethereum transactions too; its own row."""
    batch = Batch()
    row = index_rows(batch, tipset, parent, HELD_ALL)
    signed: list[Cid] = []
    for block in tipset.blocks:
        signed += (await load_message_cids(store.honest, block.messages))[1]
    await index_eth_txs(batch, store.honest, signed, network.eth_chain_id)
    await store.write(batch)
    return row


class RowWriter:
    """Writes index rows of tipsets into a store, parents first."""

    def __init__(self, store: FaultyStore, network: NetworkRecord) -> None:
        self._store = store
        self._network = network
        self._rows: dict[bytes, TipsetRow] = {}

    async def write(self, tipset: Tipset) -> None:
        """The rows of one tipset; a second time does nothing."""
        if tipset.key in self._rows:
            return
        parent = self._rows.get(tipset.parents)
        self._rows[tipset.key] = await write_rows(self._store, self._network, tipset, parent)


async def keep_network(store: FaultyStore, network: NetworkRecord) -> None:
    """Write the network's record."""
    batch = Batch()
    save_network(batch, network)
    await store.write(batch)
