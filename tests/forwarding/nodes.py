"""Played nodes of one chain, a follower's dispatcher over them, and what the nodes were asked."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from chain.tipset import Tipset
from devnode.faults import Faults
from devnode.recorded_chain import RecordedChain
from devnode.replay import ReplayNode, start_replay
from follower.forwarding.method_rules import Kind
from follower.forwarding.node import ForwardNode
from follower.forwarding.route import ForwardRoute, Times
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from rpc.node_errors import CallFailed
from rpc.permissions import ALL_PERMISSIONS
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings
from tests.support.recorded import recorded

RECORDING = recorded("devnet/chain.car.zst").parent

#: how long an execution takes, where a test does not say otherwise
EXECUTION_SECONDS = 0.005
#: a message that a played node "executes"
MESSAGE = {"To": "f01", "From": "f02", "Value": "5", "Method": 7, "Params": "AQI="}


class Behind:
    """What a played node answers of a mempool and of execution: each answer says by which tipset it was made."""

    def __init__(self) -> None:
        self.node: ReplayNode | None = None
        self.asked: Counter[str] = Counter()
        #: by its text, how often each write was taken
        self.taken: Counter[str] = Counter()
        #: called with each write that was taken
        self.on_write: Callable[[], object] = lambda: None
        #: seconds that the next execution takes
        self.execution_seconds: Callable[[], float] = lambda: EXECUTION_SECONDS

    async def call(self, method: str, params: list[Any], at: Tipset | None = None) -> Any:
        assert self.node is not None
        self.asked[method] += 1
        if method == "Filecoin.MpoolPush":
            self.taken[str(params[0]["Message"]["Nonce"])] += 1
            self.on_write()
            await asyncio.sleep(0.01)
            return {"/": "taken"}
        if method == "Filecoin.MpoolGetNonce":
            return self.node.head.height
        if method == "Filecoin.StateCall":
            await asyncio.sleep(self.execution_seconds())
            tipset = await self.node.index.tipset(at.key) if at is not None else None
            if tipset is None or tipset.height > self.node.head.height:
                raise CallFailed(1, "loading tipset: could not find it")
            return {"Error": str(tipset.key)}
        raise CallFailed(-32601, f"method '{method}' not found")


@dataclass
class Fleet:
    """Nodes that play the same chain to its end (some less far), and a follower's dispatcher over them."""

    nodes: list[ReplayNode]
    behind: list[Behind]
    route: ForwardRoute
    dispatcher: Dispatcher
    head: Tipset
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    async def ask(self, method: str, *params: Any) -> dict[str, Any]:
        """The answer of the follower."""
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        answer: dict[str, Any] = orjson.loads((await self.dispatcher.http(1, body))[1])
        return answer

    async def read(self, number: int, at: Tipset | None = None) -> float:
        """One read, judged; the seconds that it took. `at`: the tipset named; None: the head, by an empty key."""
        began = time.perf_counter()
        if number % 2:
            links = [] if at is None else [{"/": str(cid)} for cid in at.key.cids]
            answer = await self.ask("Filecoin.StateCall", {**MESSAGE, "Nonce": number}, links)
            right: Any = {"Error": str((at or self.head).key)}
        else:
            # the number tells the reads apart: they are not joined
            answer = await self.ask("Filecoin.MpoolGetNonce", f"f0{1000 + number}")
            right = self.head.height
        took = time.perf_counter() - began
        if "error" in answer:
            self.failed.append(str(answer["error"]))
        elif answer["result"] != right:
            self.wrong.append(f"{answer['result']} instead of {right}")
        return took


@contextlib.asynccontextmanager
async def fleet(
    *, count: int = 3, lag: tuple[int, ...] = (0, 0, 0), times: Times | None = None
) -> AsyncIterator[Fleet]:
    """`count` nodes; `lag`: for each, how many head changes it is behind the follower."""
    nodes: list[ReplayNode] = []
    behind: list[Behind] = []
    for number in range(count):
        node = ReplayNode(await RecordedChain.load(RECORDING, Faults()))
        node._settings = replace(node._settings, default_permissions=ALL_PERMISSIONS)
        node.advance(len(node.chain.changes) - lag[number])
        await node.start()
        one = Behind()
        one.node = node
        node._services.node = one
        nodes.append(node)
        behind.append(one)
    clients = [
        # what many reads at once wait for is the node, not a place
        NodeClient(parse_node_info(node.base)[0], timeout=30, connect_timeout=2, max_in_flight=64)
        for node in nodes
    ]
    writers = [
        NodeClient(parse_node_info(node.base)[0], timeout=30, connect_timeout=2, keeps_connections=False)
        for node in nodes
    ]
    route = ForwardRoute([with_lanes(*pair) for pair in zip(clients, writers, strict=True)], times or Times())
    store = await start_replay(RECORDING, at_end=True)
    # the follower holds the chain itself and executes nothing
    unlimited = ServerSettings(execute_parallel=256, lane_calls=4096, lane_calls_per_client=4096)
    dispatcher = Dispatcher(replace(store._services, node=route), settings=unlimited)
    try:
        yield Fleet(nodes, behind, route, dispatcher, store.head)
    finally:
        await route.close()
        for node in (*nodes, store):
            await node.stop()


def with_lanes(client: NodeClient, writer: NodeClient) -> ForwardNode:
    """A node whose writes have a client of their own."""
    return ForwardNode({Kind.QUICK: client, Kind.EXECUTE: client, Kind.WRITE: writer}, client)


async def in_parallel(work: Callable[[int], Any], count: int, at_once: int) -> list[Any]:
    """`work(0)` to `work(count - 1)`, so many at once, in no order."""
    left = iter(range(count))
    found: list[Any] = []

    async def one() -> None:
        for number in left:
            found.append(await work(number))

    await asyncio.gather(*(one() for _ in range(at_once)))
    return found


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def chance(seed: int) -> random.Random:
    """Chance that can be had again."""
    return random.Random(seed)
