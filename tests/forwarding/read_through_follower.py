"""A follower whose store holds only the newest epochs of a recorded chain, with read-through from a played node."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from blockstore.memory import MemoryStore
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import load_network
from chain.tipset import Tipset
from devnode.replay import ReplayNode, start_replay
from follower.commands.comparison import Record
from follower.forwarding.node import ForwardNode
from follower.forwarding.read_through import ReadThrough
from follower.forwarding.route import ForwardRoute
from follower.head import StoreHeads
from follower.lazy_objects import node_sources
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from rpc.server.dispatch import Dispatcher
from rpc.services import Services
from tests.support.bridge.running import following, quick
from tests.support.recorded import recorded

#: epochs below the head that the store holds at first
HELD = 10


class Watched:
    """A route to nodes; notes what they are asked, and may lie: `lie(node, method, answer)` changes an answer."""

    def __init__(self, route: ForwardRoute) -> None:
        self._route = route
        self.asked: list[str] = []
        #: the node whose answers come first; None: as the route ranks them
        self.first: str | None = None
        self.lie: Callable[[str, str, Any], None] = lambda node, method, answer: None

    async def call(self, method: str, params: list[Any], at: Tipset | None = None) -> Any:
        self.asked.append(method)
        return await self._route.call(method, params, at)

    async def one_by_one(self, method: str, params: list[Any], at: Tipset) -> AsyncIterator[tuple[str, Any]]:
        self.asked.append(method)
        answers = self._route.one_by_one(method, params, at)
        if self.first is not None:
            # whichever is the faster one just now
            both = [one async for one in answers]
            for node, answer in sorted(both, key=lambda one: one[0] != self.first):
                told = copy.deepcopy(answer)
                self.lie(node, method, told)
                yield node, told
            return
        async for node, answer in answers:
            told = copy.deepcopy(answer)
            self.lie(node, method, told)
            yield node, told


@dataclass
class Follower:
    """A follower's dispatcher over a store that holds little, and the node behind it."""

    node: ReplayNode
    liars: list[ReplayNode]
    store: MemoryStore
    route: Watched
    read_through: ReadThrough
    dispatcher: Dispatcher
    services: Services
    link_epochs: int

    async def ask(self, method: str, *params: Any, version: int = 1) -> Any:
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        return orjson.loads((await self.dispatcher.http(version, body))[1])

    async def ask_honest(self, version: int, method: str, params: list[Any]) -> Any:
        """The answer of the honest node."""
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        async with aiohttp.ClientSession() as http, http.post(f"{self.node.base}/rpc/v{version}", data=body) as answer:
            return orjson.loads(await answer.read())

    def forget(self) -> None:
        """A new read-through: what it found is forgotten; fetched objects stay stored."""
        old = self.read_through
        self.read_through = self.dispatcher.read_through = ReadThrough(
            self.route, self.services, fill_epochs=old.fill_epochs, link_epochs=self.link_epochs
        )

    async def differences(self, records: list[Record]) -> list[str]:
        """The recorded questions that are answered otherwise than Lotus answered."""
        found = []
        for record in records:
            answer = await self.ask(record.method, *record.params, version=int(record.path[-1]))
            if "result" in record.answer:
                same = answer.get("result", "none") == record.answer["result"]
            else:
                same = answer.get("error", {}).get("code") == record.answer["error"]["code"]
            if not same:
                found.append(f"{record.call}: {orjson.dumps(answer)[:300]!r}")
        return found


def bridge_settings(fill_epochs: int, network_file: Path | None = None) -> Any:
    return quick(
        backfill_epochs=HELD,
        network_file=network_file or recorded("devnet/network.json"),
        actor_code=True,
        read_through_fill_epochs=fill_epochs,
        read_through_look_seconds=0.02,
    )


@contextlib.asynccontextmanager
async def follower(
    *,
    folder: str = "devnet",
    fetches: bool = True,
    fill_epochs: int = 1_000_000,
    ahead: int = 0,
    link_epochs: int = 900,
    liars: int = 0,
    answers: Sequence[Path] = (),
) -> AsyncIterator[Follower]:
    """`fetches`: as a follower with the setting does. `ahead`: head changes of the node that the store lacks.

    `answers`: files of recorded calls that the nodes answer from. `liars`: more nodes of the same chain, before the
    first one; their `faults` can be set.
    """
    network_file = recorded(f"{folder}/network.json")
    nodes = [await start_replay(network_file.parent, answers=answers) for _ in range(liars + 1)]
    node = nodes[-1]
    for one in nodes:
        one.advance(len(one.chain.changes) - ahead)
    store = MemoryStore()
    async with following(store, [node.base], bridge_settings(0, network_file)) as bridge:
        async with asyncio.timeout(60):
            while bridge.head is None or bridge.head.head.key != node.head.key:
                await asyncio.sleep(0.002)
            await bridge.backfill.idle.wait()
    network = await load_network(store)
    assert network is not None
    clients = [NodeClient(parse_node_info(one.base)[0], timeout=30) for one in nodes]
    route = ForwardRoute([ForwardNode.of(client) for client in clients])
    objects = Objects(store, fetch=node_sources(clients, 256).read if fetches else None)
    index = ChainIndex(store, objects, network, longest_walk=3)
    services = Services(
        store=store, index=index, objects=objects, network=network, head_source=StoreHeads(store, index), node=route
    )
    for one in nodes:
        one.advance(ahead)
    watched = Watched(route)
    dispatcher = Dispatcher(services)
    through = dispatcher.read_through = ReadThrough(watched, services, fill_epochs=fill_epochs, link_epochs=link_epochs)
    try:
        yield Follower(node, nodes[:-1], store, watched, through, dispatcher, services, link_epochs)
    finally:
        await route.close()
        for client in clients:
            await client.close()
        for one in nodes:
            await one.stop()
