"""A recorded chain replayed: every frame comes out as it was recorded, whatever the pace and the faults."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from blockstore.cid import Cid, cid_of, parse
from blockstore.store import TipsetRef
from chain.errors import BadRequest
from chain.tipset import TipsetKey
from devnode.node_heads import NodeHeads
from devnode.recorded_chain import RecordedChain, read_notifications, read_records
from devnode.replay import ReplayNode, start_replay
from devnode.sim_chain import SimSettings, SimulatedChain
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from rpc.node_errors import CallFailed
from tests.support.recorded import recorded

CHAINS = ["devnet", "upgrades"]


@pytest.fixture(params=CHAINS)
def folder(request: pytest.FixtureRequest) -> Path:
    return recorded(f"{request.param}/chain_notify.jsonl.zst").parent


@asynccontextmanager
async def replaying(folder: Path, **options: Any) -> AsyncIterator[tuple[ReplayNode, NodeClient]]:
    node = await start_replay(folder, **options)
    try:
        async with NodeClient(parse_node_info(node.node_info)[0], timeout=10) as client:
            yield node, client
    finally:
        await node.stop()


def events_of(frame: Sequence[dict[str, Any]]) -> list[tuple[str, TipsetKey]]:
    return [(one["Type"], TipsetKey.of(parse(cid["/"]) for cid in one["Val"]["Cids"])) for one in frame]


def link(cid: Cid) -> dict[str, str]:
    return {"/": str(cid)}


async def test_every_frame_comes_out_as_it_was_recorded(folder: Path) -> None:
    wanted = [events for _, events in read_notifications(folder / "chain_notify.jsonl.zst")]
    async with replaying(folder) as (node, client):
        socket = await client.connect()
        channel = await socket.open_channel("Filecoin.ChainNotify", [], 5)
        assert await channel.next(5) == wanted[0]
        expected = iter(wanted[1:])
        async for _ in node.play(as_consumed=True):
            assert await channel.next(5) == next(expected)
        assert next(expected, None) is None
        assert node.ended
        head = await client.call("Filecoin.ChainHead")
        assert events_of([{"Type": "current", "Val": head}])[0][1] == node.head.key
        await socket.close()


async def test_two_subscribers_see_the_same_and_one_that_comes_late_begins_at_the_head(folder: Path) -> None:
    async with replaying(folder) as (node, client):
        first, second = [await client.connect() for _ in range(2)]
        one = await first.open_channel("Filecoin.ChainNotify", [], 5)
        start = events_of(await one.next(5))
        node.advance(10)
        two = await second.open_channel("Filecoin.ChainNotify", [], 5)
        assert start == [("current", node.chain.first.key)]
        assert events_of(await two.next(5)) == [("current", node.head.key)]
        node.advance(30)
        seen = [events_of(await one.next(5)) for _ in range(40)]
        assert [events_of(await two.next(5)) for _ in range(30)] == seen[10:]
        for change, events in zip(node.chain.changes, seen, strict=False):
            reverts = [("revert", tipset.key) for tipset in change.reverts]
            assert events == reverts + [("apply", tipset.key) for tipset in change.applies]
        await first.close()
        await second.close()


async def test_at_its_end_it_answers_for_the_whole_chain(folder: Path) -> None:
    async with replaying(folder, at_end=True) as (node, client):
        head = await client.call("Filecoin.ChainHead")
        assert head["Height"] == node.chain.changes[-1].head.height
        genesis = await client.call("Filecoin.ChainGetGenesis")
        assert genesis["Height"] == 0
        assert parse(genesis["Cids"][0]["/"]) == node.network.genesis
        name = orjson.loads((folder / "network.json").read_bytes())["network_name"]
        assert await client.call("Filecoin.StateNetworkName") == name
        below = await client.call("Filecoin.ChainGetTipSetByHeight", 3, head["Cids"])
        path = await client.call("Filecoin.ChainGetPath", head["Cids"], below["Cids"])
        assert {change["Type"] for change in path} == {"revert"}
        assert await client.call("Filecoin.ChainHasObj", head["Blocks"][0]["ParentStateRoot"]) is True


async def test_an_object_comes_with_the_change_that_needs_it(folder: Path) -> None:
    async with replaying(folder, hide_future=True) as (node, client):
        later = node.chain.changes[20].applies[-1].blocks[0]
        assert later.height > node.head.height
        for cid in (later.cid, later.parent_state_root):
            assert await client.call("Filecoin.ChainHasObj", link(cid)) is False
        with pytest.raises(CallFailed):
            await client.call("Filecoin.ChainGetTipSet", [link(later.cid)])
        node.advance(21)
        for cid in (later.cid, later.parent_state_root, later.parent_message_receipts, later.messages):
            assert await client.call("Filecoin.ChainHasObj", link(cid)) is True
        node.advance(len(node.chain.changes))
        assert max(node.chain.arrivals().values()) <= node.played


async def test_recorded_calls_are_answered_again(tmp_path: Path) -> None:
    folder = recorded("devnet/chain_notify.jsonl.zst").parent
    traces = recorded("devnet/traces.jsonl.zst")
    calls = [call for number, call in enumerate(read_records(traces)) if number % 97 == 0]
    async with replaying(folder, at_end=True, answers=[traces]) as (_, client):
        for call in calls:
            assert await client.call(call["method"], *call["params"]) == call["result"]
        with pytest.raises(CallFailed, match="recorded"):
            await client.call("trace_block", "0xfffffff")


async def test_a_recorded_error_comes_back_with_its_code(tmp_path: Path) -> None:
    folder = recorded("devnet/chain_notify.jsonl.zst").parent
    answers = tmp_path / "answers.jsonl"
    error = {"code": 3, "message": "message execution failed", "data": "0x08"}
    row = {"path": "/rpc/v1", "method": "Filecoin.MadeUp", "params": [{"a": 1}], "error": error}
    answers.write_bytes(orjson.dumps(row) + b"\n")
    async with replaying(folder, answers=[answers]) as (_, client):
        with pytest.raises(CallFailed) as caught:
            await client.call("Filecoin.MadeUp", {"a": 1})
        assert (caught.value.code, caught.value.data) == (3, "0x08")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "no notification"),
        ([{"t": 0, "frame": {"method": "xrpc.ch.val", "params": [1, []]}}], "no 'current'"),
        ([{"t": 0, "frame": {"method": "xrpc.ch.val"}}], "without 'params'"),
        ([{"t": 0}], "without 'frame'"),
    ],
)
async def test_a_recording_with_something_missing_is_refused(tmp_path: Path, rows: list[Any], told: str) -> None:
    whole = recorded("devnet/chain_notify.jsonl.zst").parent
    (tmp_path / "chain.car.zst").symlink_to(whole / "chain.car.zst")
    shutil.copy(whole / "network.json", tmp_path)
    notify = tmp_path / "notify.jsonl"
    notify.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    with pytest.raises(BadRequest, match=told):
        await RecordedChain.load_files(tmp_path / "chain.car.zst", notify, tmp_path / "network.json")


async def test_without_notifications_the_chain_is_played_tipset_by_tipset() -> None:
    async with replaying(recorded("busy")) as (node, client):
        assert (await client.call("Filecoin.ChainHead"))["Height"] == 0
        assert {len(change.applies) for change in node.chain.changes} == {1}
        assert not any(change.reverts for change in node.chain.changes)
        node.advance(len(node.chain.changes))
        head = await client.call("Filecoin.ChainHead")
    (asked,) = (
        call
        for call in read_records(recorded("busy/rpc.jsonl.zst"))
        if call["method"] == "Filecoin.ChainHead" and call["path"] == "/rpc/v1"
    )
    assert head == asked["result"]


async def test_a_block_that_the_recording_lacks_is_named(tmp_path: Path) -> None:
    whole = recorded("devnet/chain_notify.jsonl.zst").parent
    stranger = cid_of(b"nobody's block")
    event = {"Type": "current", "Val": {"Cids": [link(stranger)]}}
    notify = tmp_path / "notify.jsonl"
    notify.write_bytes(orjson.dumps({"t": 0, "frame": {"method": "xrpc.ch.val", "params": [1, [event]]}}))
    with pytest.raises(BadRequest, match=str(stranger)):
        await RecordedChain.load_files(whole / "chain.car.zst", notify, whole / "network.json")


# --- the pace, without a recording ------------------------------------------------------------------------


def moved(count: int) -> tuple[SimulatedChain, NodeHeads]:
    chain = SimulatedChain(SimSettings(accounts=3, miners=1, messages=0), lambda cid, data: None)
    heads = NodeHeads(chain.genesis)
    for _ in range(count):
        move(chain, heads)
    return chain, heads


def move(chain: SimulatedChain, heads: NodeHeads) -> None:
    change = chain.extend()
    heads.move(change.reverts, change.applies, change.applies[-1])


async def test_as_consumed_waits_for_the_slowest_subscriber_and_for_a_first_one() -> None:
    chain, heads = moved(0)
    waiting = asyncio.ensure_future(heads.wait_until_consumed())
    await asyncio.sleep(0)
    assert not waiting.done()
    quick: Any = heads.subscribe()
    slow: Any = heads.subscribe()
    firsts = [asyncio.ensure_future(anext(quick)), asyncio.ensure_future(anext(slow))]
    async with asyncio.timeout(5):
        await waiting
    move(chain, heads)
    assert {(await first).seq for first in firsts} == {1}
    again = asyncio.ensure_future(anext(quick))
    waiting = asyncio.ensure_future(heads.wait_until_consumed())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    # one that goes away is waited for no longer
    await slow.aclose()
    async with asyncio.timeout(5):
        await waiting
    move(chain, heads)
    assert (await again).seq == 2
    await quick.aclose()
    assert heads.subscribers == 0


async def test_a_subscription_resumes_after_an_entry_and_has_no_gap() -> None:
    chain, heads = moved(6)
    found = []
    async for entry in heads.subscribe(after=2):
        found.append((entry.seq, entry.head))
        if entry.seq == 6:
            break
    assert [seq for seq, _ in found] == [3, 4, 5, 6]
    assert found[-1][1] == TipsetRef(chain.head.height, bytes(chain.head.key))
    assert (await heads.current()).tipset == chain.head
