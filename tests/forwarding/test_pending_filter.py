"""Filters of pending transactions: heard from one node for all clients, polled at any process, and no hole unsaid."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import aiohttp
import orjson

from follower.forwarding.mempool_feed import MempoolFeed
from follower.forwarding.node import ForwardNode
from follower.forwarding.route import ForwardRoute
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from rpc.errors import NEEDS_NODE
from rpc.methods.eth.pending import pending_hash
from rpc.methods.eth.pending_filter import MISSED, PendingHashes
from rpc.server.server import Server, serve
from rpc.services import Services
from tests.forwarding.test_mempool import Pool, follower, until, update


async def ask(url: str, method: str, *params: Any) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session:
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        async with session.post(url, data=body) as answer:
            found: dict[str, Any] = orjson.loads(await answer.read())
            return found


def shown(number: int) -> str:
    return "0x" + pending_hash(update(number)["Message"], 314).hex()


async def polled(url: str, filter_id: str, count: int) -> list[str]:
    """What a filter tells until it has told so many."""
    found: list[str] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += (await ask(url, "eth_getFilterChanges", filter_id))["result"]
            await asyncio.sleep(0.01)
    return found


async def test_a_filter_tells_each_transaction_once() -> None:
    async with follower() as (nodes, pools, server):
        url = server.url
        ids = [(await ask(url, "eth_newPendingTransactionFilter"))["result"] for _ in range(2)]
        assert pools[0].subscriptions == 1
        assert (await ask(url, "eth_getFilterChanges", ids[0]))["result"] == []
        await asyncio.sleep(0.005)
        for number in (1, 2):
            pools[0].tell(number)
        pools[0].tell(1, kind=1)
        assert await polled(url, ids[0], 2) == [shown(1), shown(2)]
        pools[0].tell(3)
        assert await polled(url, ids[0], 1) == [shown(3)]
        # each filter has a cursor of its own
        assert await polled(url, ids[1], 3) == [shown(1), shown(2), shown(3)]
        assert (await ask(url, "eth_getFilterLogs", ids[0]))["error"]["message"] == "wrong filter type"
        assert (await ask(url, "eth_uninstallFilter", ids[0]))["result"] is True
        assert (await ask(url, "eth_getFilterChanges", ids[0]))["error"]["message"] == "filter not found"
        # the node goes: what came until the next one was heard is not known
        await nodes[0].stop()
        await until(lambda: pools[1].readers)
        assert (await ask(url, "eth_getFilterChanges", ids[1]))["error"]["message"] == MISSED
        await asyncio.sleep(0.005)
        pools[1].tell(4)
        assert await polled(url, ids[1], 1) == [shown(4)]


def _services(server: Server) -> Services:
    return server.dispatcher.services


async def test_another_process_says_what_it_has_missed_and_goes_on() -> None:
    async with follower(1) as (nodes, pools, server):
        filter_id = (await ask(server.url, "eth_newPendingTransactionFilter"))["result"]
        route = ForwardRoute([ForwardNode.of(NodeClient(parse_node_info(nodes[0].base)[0], timeout=5))])
        feed = MempoolFeed(route)
        other = await serve(replace(_services(server), mempool=feed, caches={}), "127.0.0.1", 0)
        try:
            await asyncio.sleep(0.005)
            assert (await ask(other.url, "eth_getFilterChanges", filter_id))["error"]["message"] == MISSED
            await asyncio.sleep(0.005)
            pools[0].tell(5)
            assert await polled(other.url, filter_id, 1) == [shown(5)]
            # and the first one, which has heard it too, does not tell it again
            assert (await ask(server.url, "eth_getFilterChanges", filter_id))["result"] == []
        finally:
            await other.stop(0)
            await feed.close()
            await route.close()


async def test_no_filter_where_no_node_tells() -> None:
    async with follower(1) as (_, _, server):
        bare = await serve(replace(_services(server), mempool=None, caches={}), "127.0.0.1", 0)
        try:
            error = (await ask(bare.url, "eth_newPendingTransactionFilter"))["error"]
            assert error["code"] == NEEDS_NODE
        finally:
            await bare.stop(0)


async def test_nobody_listens_when_nobody_asks_and_the_oldest_give_way() -> None:
    pool = Pool()
    now = [1000]
    hashes = PendingHashes(pool, 314, most=2, idle_seconds=0.3, now=lambda: now[0])
    told = await hashes.begin()
    now[0] += 5
    for number in range(3):
        pool.tell(number)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    now[0] += 5
    found, told = await hashes.after(told)
    assert ["0x" + one.hex() for one in found] == [shown(1), shown(2)]
    assert told == 1009
    await until(lambda: not pool.readers)
