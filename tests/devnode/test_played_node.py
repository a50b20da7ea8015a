"""The played node: what it serves, and every fault that can be asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from blockstore.cid import Cid, parse, verify
from blockstore.errors import HashMismatch
from chain.errors import BadRequest
from chain.ipld.amt import Amt
from chain.message import receipt_from_fields
from chain.tipset import TipsetKey
from devnode.faults import Faults
from devnode.sim_chain import SimSettings
from devnode.simulate import SimulatedNode, start_simulated
from rpc.client.client import NodeClient, WsConnection
from rpc.client.node_info import parse_node_info
from rpc.node_errors import BadAnswer, CallFailed, NodeTimeout, NodeUnavailable

SMALL = SimSettings(accounts=12, miners=4, miner_updates=2, messages=3)


@asynccontextmanager
async def playing(epochs: int = 6, **faults: Any) -> AsyncIterator[tuple[SimulatedNode, NodeClient]]:
    node = await start_simulated(SMALL, faults=Faults(**faults), epochs=epochs)
    try:
        async with NodeClient(parse_node_info(node.node_info)[0], timeout=10, heartbeat=0.2) as client:
            yield node, client
    finally:
        await node.stop()


def key_of(value: dict[str, Any]) -> TipsetKey:
    return TipsetKey.of(parse(cid["/"]) for cid in value["Cids"])


def keys(key: TipsetKey) -> list[dict[str, str]]:
    return [{"/": str(cid)} for cid in key.cids]


def link(cid: Cid) -> dict[str, str]:
    return {"/": str(cid)}


def apply(chain: list[TipsetKey], changes: list[dict[str, Any]]) -> None:
    """What a client does with one frame."""
    for change in changes:
        key = key_of(change["Val"])
        if change["Type"] == "revert":
            assert chain.pop() == key
        else:
            parents = TipsetKey.of(parse(cid["/"]) for cid in change["Val"]["Blocks"][0]["Parents"])
            assert change["Type"] == "current" or parents == chain[-1]
            chain.append(key)


async def subscribed(client: NodeClient) -> tuple[WsConnection, Any, list[TipsetKey]]:
    socket = await client.connect()
    channel = await socket.open_channel("Filecoin.ChainNotify", [], 5)
    chain: list[TipsetKey] = []
    apply(chain, await channel.next(5))
    return socket, channel, chain


async def test_it_answers_what_a_bridge_asks() -> None:
    async with playing(12) as (node, client):
        head = await client.call("Filecoin.ChainHead")
        assert key_of(head) == node.head.key
        assert await client.call("Filecoin.ChainGetTipSet", keys(node.head.key)) == head
        assert await client.call("Filecoin.StateNetworkName") == "simnet"
        assert await client.call("Filecoin.StateNetworkVersion", []) == 29
        assert (await client.call("Filecoin.Version"))["Agent"] == "simulated"
        assert (await client.call("Filecoin.StateGetNetworkParams"))["NetworkName"] == "simnet"
        genesis = await client.call("Filecoin.ChainGetGenesis")
        assert key_of(genesis) == node.chain.genesis.key
        block = node.head.blocks[0]
        assert (await client.call("Filecoin.ChainGetBlock", link(block.cid)))["Height"] == node.head.height
        assert await client.call("Filecoin.ChainHasObj", link(block.parent_state_root)) is True
        path = await client.call("Filecoin.ChainGetPath", genesis["Cids"], head["Cids"])
        assert [change["Type"] for change in path] == ["apply"] * len(path)
        assert path[-1]["Val"] == head
        below = await client.call("Filecoin.ChainGetTipSetByHeight", node.head.height - 1, head["Cids"])
        assert below["Height"] <= node.head.height - 1
        messages = await client.call("Filecoin.ChainGetParentMessages", link(block.cid))
        receipts = await client.call("Filecoin.ChainGetParentReceipts", link(block.cid))
        assert len(messages or []) == len(receipts)


async def test_a_subscriber_sees_every_change_in_order() -> None:
    async with playing(4) as (node, client):
        socket, channel, chain = await subscribed(client)
        assert chain == [node.head.key]
        made = [await node.extend(), await node.reorg(1), await node.late_block(), await node.extend(nulls=2)]
        made += [await node.extend(), await node.reorg(3)]
        for change in made:
            frame = await channel.next(5)
            told = [(one["Type"], key_of(one["Val"])) for one in frame]
            reverts = [("revert", tipset.key) for tipset in change.reverts]
            assert told == reverts + [("apply", tipset.key) for tipset in change.applies]
            chain = chain or [change.applies[0].parents]
            apply(chain, frame)
        assert chain[-1] == node.head.key
        await socket.close()


async def test_the_same_chain_through_a_subscription_and_through_the_blocks() -> None:
    async with playing(0) as (node, client):
        socket, channel, chain = await subscribed(client)
        for _ in range(60):
            await node.advance()
            apply(chain, await channel.next(5))
        await socket.close()
        tipset = node.head
        for key in reversed(chain):
            assert tipset.key == key
            if tipset.height:
                tipset = await node.index.tipset(tipset.parents)
        assert tipset.height == 0


async def test_it_runs_by_itself_until_its_size_is_reached() -> None:
    node = await start_simulated(SMALL, store_limit=200_000)
    async with asyncio.timeout(20):
        await node.run(0.0)
    assert node.full
    assert node.heads.seq > 3
    seq = node.heads.seq
    await node.run(0.0, epochs=5)
    assert node.heads.seq == seq
    await node.stop()


async def test_connections_are_dropped_on_request_and_every_n_changes() -> None:
    async with playing(2) as (node, client):
        socket, channel, _ = await subscribed(client)
        node.drop_connections()
        with pytest.raises(NodeUnavailable):
            await channel.next(5)
        await socket.close()
        node.faults.drop_every = 3
        while node.heads.seq % 3:
            await node.extend()
        dropped = node.dropped
        socket, channel, chain = await subscribed(client)
        await node.extend()
        await node.extend()
        apply(chain, await channel.next(5))
        apply(chain, await channel.next(5))
        assert node.dropped == dropped
        await node.extend()
        assert node.dropped == dropped + 1
        with pytest.raises(NodeUnavailable):
            while True:
                await channel.next(5)
        await socket.close()


async def test_a_restart_comes_back_on_the_same_port_with_the_same_chain() -> None:
    async with playing(3) as (node, client):
        url, head = node.url, await client.call("Filecoin.ChainHead")
        socket, channel, _ = await subscribed(client)
        await node.stop()
        assert not node.listening
        with pytest.raises(NodeUnavailable):
            await channel.next(5)
        with pytest.raises(NodeUnavailable):
            await client.call("Filecoin.ChainHead")
        await node.restart()
        assert node.url == url
        assert await client.call("Filecoin.ChainHead") == head
        node.faults.restart_every = 1
        await node.run(0.0, epochs=2)
        assert node.restarts == 3
        assert key_of(await client.call("Filecoin.ChainHead")) == node.head.key
        await socket.close()


async def test_lies_are_other_bytes_for_the_same_cid() -> None:
    async with playing(3) as (node, client):
        cid = node.head.parent_state_root
        true = (await client.read_objects([cid]))[0]
        assert isinstance(true, bytes)
        verify(cid.multihash, true)
        node.faults.lies.add(cid.multihash)
        false = (await client.read_objects([cid]))[0]
        assert isinstance(false, bytes)
        with pytest.raises(HashMismatch):
            verify(cid.multihash, false)
        node.faults.lies.clear()
        assert (await client.read_objects([cid]))[0] == true
        node.faults.lie_every, node.faults.reads = 3, 0
        wrong = [(await client.read_objects([cid]))[0] != true for _ in range(9)]
        assert wrong == [False, False, True] * 3
        # what the node says of its own chain stays true
        node.faults.lies |= {block.cid.multihash for block in node.head.blocks}
        assert key_of(await client.call("Filecoin.ChainHead")) == node.head.key


async def test_an_object_that_is_lacked_is_not_there() -> None:
    async with playing(3) as (node, client):
        cid = node.head.parent_state_root
        node.faults.lacks.add(cid.multihash)
        assert await client.call("Filecoin.ChainHasObj", link(cid)) is False
        with pytest.raises(CallFailed, match="could not find"):
            await client.call("Filecoin.ChainReadObj", link(cid))


async def test_receipts_events_and_old_states_can_be_lost() -> None:
    async with playing(25) as (node, client):
        chain = [node.head]
        while chain[-1].height:
            chain.append(await node.index.tipset(chain[-1].parents))
        roots, receipts = [], []
        for tipset in chain:
            reader = node.store.honest
            async for pair in Amt.load(reader, tipset.parent_message_receipts, version=0):
                events = receipt_from_fields(pair[1]).events_root
                roots += [events] if events is not None else []
                receipts.append(tipset.parent_message_receipts)
        assert roots

        async def lacking(cids: list[Cid]) -> set[bool]:
            return {not await client.call("Filecoin.ChainHasObj", link(cid)) for cid in cids}

        states = [tipset.parent_state_root for tipset in chain]
        assert await node.lose(events=True) > 0
        assert await lacking(roots) == {True}
        assert await lacking(receipts + states) == {False}
        assert await node.lose(receipts=True) > 0
        assert await lacking(receipts) == {True}
        node.faults.lacks.clear()
        middle = chain[len(chain) // 2].height
        assert await node.lose(state_below=middle) > 0
        assert await lacking([t.parent_state_root for t in chain if t.height >= middle]) == {False}
        kept = {t.parent_state_root for t in chain if t.height >= middle}
        assert await lacking([t.parent_state_root for t in chain if t.parent_state_root not in kept]) == {True}
        assert await lacking(receipts + roots + [t.blocks[0].messages for t in chain]) == {False}


async def test_bad_statuses_and_no_websockets() -> None:
    async with playing(2, status=503, status_every=2, has_websocket=False) as (node, client):
        async with aiohttp.ClientSession() as session:
            body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "Filecoin.StateNetworkName", "params": []})
            statuses = []
            for _ in range(4):
                async with session.post(node.url, data=body) as answer:
                    statuses.append(answer.status)
            assert statuses == [200, 503, 200, 503]
        with pytest.raises(BadAnswer):
            await client.connect()
        node.faults.status, node.faults.has_websocket = 0, True
        socket, _, chain = await subscribed(client)
        assert chain == [node.head.key]
        await socket.close()


def test_only_a_server_error_is_a_bad_status() -> None:
    with pytest.raises(BadRequest, match="200"):
        Faults(status=200)


async def test_answers_can_be_late() -> None:
    async with playing(2, delay_seconds=60.0) as (node, client):
        with pytest.raises(NodeTimeout):
            await client.call("Filecoin.ChainHead", timeout=0.05)
        node.faults.delay_seconds = 0.0
        assert key_of(await client.call("Filecoin.ChainHead")) == node.head.key


async def test_half_open_nothing_comes_and_nothing_closes_until_it_recovers() -> None:
    async with playing(2) as (node, client):
        socket, channel, chain = await subscribed(client)
        node.half_open()
        await node.extend()
        with pytest.raises(NodeTimeout):
            await client.call("Filecoin.ChainHead", timeout=0.05)
        # no frame, no close; the client's own pings find out
        with pytest.raises(NodeUnavailable):
            await channel.next(10)
        assert chain == [chain[0]]
        node.recover()
        assert key_of(await client.call("Filecoin.ChainHead")) == node.head.key
        await socket.close()
