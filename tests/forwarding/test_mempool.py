"""A full node's mempool, heard once for all clients of a follower."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest

from chain.eth.transaction import eth_tx
from chain.message import DELEGATED, decode_signed_message
from chain.tipset_messages import load_message_cids
from devnode.replay import ReplayNode, start_replay
from follower.forwarding.mempool_feed import _WAITING, MempoolFeed
from follower.forwarding.node import ForwardNode
from follower.forwarding.route import ForwardRoute
from rpc import lotus_json
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from rpc.json_wire import encoder
from rpc.methods.eth.pending import pending_hash
from rpc.server.limits import ServerSettings
from rpc.server.server import Server, serve
from tests.support.recorded import recorded
from tests.support.wire_node import services

RECORDING = recorded("devnet/chain.car.zst").parent
_MESSAGE = {"Version": 0, "To": "f01", "From": "f02", "Value": "5", "Method": 7, "Params": "AQI="}


class Pool:
    """The mempool of a played node."""

    def __init__(self) -> None:
        self.readers: set[asyncio.Queue[Any]] = set()
        self.subscriptions = 0
        self.heard_since = 0

    async def wait_until_heard(self) -> None:
        """It is heard at once."""

    async def updates(self) -> AsyncIterator[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.readers.add(queue)
        self.subscriptions += 1
        try:
            while True:
                yield await queue.get()
        finally:
            self.readers.discard(queue)

    def tell(self, number: int, kind: int = 0) -> None:
        for queue in self.readers:
            queue.put_nowait(update(number, kind))


def update(number: int, kind: int = 0) -> dict[str, Any]:
    signature = {"Type": 2, "Data": base64.b64encode(bytes([number % 256])).decode()}
    return {"Type": kind, "Message": {"Message": {**_MESSAGE, "Nonce": number}, "Signature": signature}}


@contextlib.asynccontextmanager
async def follower(count: int = 2) -> AsyncIterator[tuple[list[ReplayNode], list[Pool], Server]]:
    """Played nodes with a mempool each, and a follower's server over them."""
    nodes = [await start_replay(RECORDING) for _ in range(count)]
    pools = [Pool() for _ in nodes]
    for node, pool in zip(nodes, pools, strict=True):
        node._services.mempool = pool
    route = ForwardRoute([ForwardNode.of(NodeClient(parse_node_info(node.base)[0], timeout=5)) for node in nodes])
    feed = MempoolFeed(route)
    server = await serve(replace(services(), mempool=feed), "127.0.0.1", 0, settings=ServerSettings())
    try:
        yield nodes, pools, server
    finally:
        await server.stop(0)
        await feed.close()
        await route.close()
        for node in nodes:
            await node.stop()


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def subscribed(ws: aiohttp.ClientWebSocketResponse, method: str, *params: Any) -> Any:
    await ws.send_json({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    return (await ws.receive_json(timeout=30))["result"]


async def test_one_subscription_serves_all_clients_and_moves_to_another_node() -> None:
    async with follower() as (nodes, pools, server), aiohttp.ClientSession() as session:
        assert not pools[0].readers, "nobody reads yet"
        sockets = [await session.ws_connect(server.url) for _ in range(4)]
        for ws in sockets[:2]:
            await subscribed(ws, "Filecoin.MpoolSub")
        for ws in sockets[2:]:
            await subscribed(ws, "eth_subscribe", "newPendingTransactions")
        await until(lambda: pools[0].readers)
        pools[0].tell(7)
        pools[0].tell(7, kind=1)
        for ws in sockets[:2]:
            for kind in (0, 1):
                pushed = await ws.receive_json(timeout=30)
                assert (pushed["method"], pushed["params"][1]) == ("xrpc.ch.val", update(7, kind))
        for ws in sockets[2:]:
            pushed = await ws.receive_json(timeout=30)
            assert pushed["params"]["result"] == "0x" + pending_hash(update(7)["Message"], 314).hex()
        assert (pools[0].subscriptions, pools[1].subscriptions) == (1, 0)
        # the node goes; the other one is heard, and no client notices but by a gap
        await nodes[0].stop()
        await until(lambda: pools[1].readers)
        pools[1].tell(8)
        assert (await sockets[0].receive_json(timeout=30))["params"][1] == update(8)
        # what has gone from the pool is no new transaction
        assert (await sockets[2].receive_json(timeout=30))["params"]["result"] == (
            "0x" + pending_hash(update(8)["Message"], 314).hex()
        )
        assert pools[1].subscriptions == 1
        for ws in sockets:
            await ws.close()
        await until(lambda: not pools[1].readers)


async def test_one_who_does_not_read_ends_and_the_others_go_on() -> None:
    feed = MempoolFeed(ForwardRoute([ForwardNode.of(NodeClient(parse_node_info("http://127.0.0.1:1")[0]))]))
    slow, fast = feed.updates(), feed.updates()
    waiting = [asyncio.ensure_future(anext(one)) for one in (slow, fast)]
    await until(lambda: len(feed._readers) == 2)
    found = 0
    for number in range(_WAITING + 2):
        for reader in feed._readers:
            reader.push(update(number))
        if not number:
            await asyncio.gather(*waiting)
            found += 1
        else:
            await anext(fast)
            found += 1
    assert found == _WAITING + 2
    with pytest.raises(StopAsyncIteration):
        await anext(slow)
    await fast.aclose()  # type: ignore[attr-defined]
    assert feed._task is None
    await feed._route.close()


async def test_hashes_are_those_that_the_chain_gives() -> None:
    node = await start_replay(RECORDING, at_end=True)
    await node.stop()
    chain_id = node.network.eth_chain_id
    to_json = encoder(node.network.address_prefix)
    objects = node.store.honest
    kinds: Counter[int] = Counter()
    tipset = node.head
    while tipset.height > 1 and min(kinds[1], kinds[DELEGATED]) < 5:
        for block in tipset.blocks:
            for cid in (await load_message_cids(objects, block.messages))[1]:
                signed = decode_signed_message(await objects.get(cid))
                kinds[signed.signature[0]] += 1
                is_eth = signed.signature[0] == DELEGATED
                right = eth_tx(signed, chain_id).hash if is_eth else bytes(cid[-32:])
                assert pending_hash(orjson.loads(to_json(lotus_json.signed_message(signed))), chain_id) == right
        tipset = await node.index.parent(tipset)
    assert kinds[1] and kinds[DELEGATED]


def test_what_is_no_message_has_no_hash() -> None:
    for value in (None, {}, {"Signature": {"Type": 1}}, {"Signature": {"Type": 1, "Data": ""}, "Message": 5}):
        with pytest.raises(ValueError, match="unmarshal"):
            pending_hash(value, 314)
