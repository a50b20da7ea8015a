"""Questions about what the store lacks: asked of a node, and answered here once the bridge has filled it in."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from blockstore.cid import parse
from blockstore.errors import StoreUnavailable
from blockstore.memory import MemoryStore
from blockstore.store import FLEET, Batch
from chain.index.chain_index import HELD_EVENTS, HELD_MESSAGES, HELD_RECEIPTS, ChainIndex
from chain.index.coverage import covered
from chain.index.kept import MESSAGES, Kept, save_kept
from chain.index.wanted_epochs import load_wanted_epoch, want_epoch
from chain.ipld.objects import Objects
from chain.tipset import TipsetKey
from devnode.replay import start_replay
from follower.commands.comparison import Record, read_records
from leader_bridge.store import wanted_floor
from tests.forwarding.read_through_follower import HELD, bridge_settings, follower
from tests.observe.test_hidden_secrets import call, wait_for_head
from tests.support.bridge.running import following
from tests.support.processes import follower_process, free_port
from tests.support.recorded import recorded

#: head changes at the end of the recording, the first of which reverts the head before it
REVERTS = 33
#: recorded questions of each method that are asked
EACH = 4
METHODS = (
    "Filecoin.ChainGetTipSetByHeight|Filecoin.ChainGetTipSetAfterHeight|Filecoin.ChainGetBlock|Filecoin.ChainGetMessage"
    "|Filecoin.ChainGetBlockMessages|Filecoin.ChainGetParentReceipts|Filecoin.ChainGetParentMessages"
    "|Filecoin.StateSearchMsg|Filecoin.StateGetActor|eth_getBlockByNumber|eth_getBlockByHash"
    "|eth_getTransactionReceipt|eth_getTransactionByHash|eth_getBlockReceipts|eth_getBalance"
)


def questions() -> list[Record]:
    """Some recorded questions of each method: spread over the recording, so over the chain too."""
    found: dict[str, list[Record]] = {}
    for record in read_records(recorded("devnet/rpc.jsonl.zst"), re.compile(f"({METHODS})$")):
        # what names the head by itself, or a tag, is no question about the past
        if record.path == "/rpc/v1" and not re.search(r'"(latest|pending|finalized|safe|earliest)"', record.call):
            found.setdefault(record.method, []).append(record)
    assert len(found) == METHODS.count("|") + 1
    return [record for records in found.values() for record in records[:: max(1, len(records) // EACH)][:EACH]]


async def test_what_is_not_held_is_answered_as_lotus_did_and_here_once_it_is_filled_in() -> None:
    asked = questions()
    async with follower() as one:
        head = one.node.head.height
        assert await covered(one.store, b"messages") == [(0, 0), (head - HELD, head)]
        assert await one.differences(asked) == []
        assert one.read_through.answered > 20
        assert (await one.ask("Filecoin.ChainGetTipSetByHeight", 1, []))["result"]["Height"] <= 1
        lowest = await load_wanted_epoch(one.store)
        assert lowest is not None and lowest < head // 10
        async with following(one.store, [one.node.base], bridge_settings(1_000_000)) as bridge:
            async with asyncio.timeout(60):
                while await load_wanted_epoch(one.store) is not None:
                    await asyncio.sleep(0.01)
        ranges = await covered(one.store, b"messages")
        assert ranges == [(0, head)]
        index = ChainIndex(one.store, Objects(one.store))
        low = await index.at_height(one.node.head, lowest)
        # receipts too; the wanted epochs' states are nobody's wish
        assert await index.held(low.key) & (HELD_MESSAGES | HELD_RECEIPTS | HELD_EVENTS) == 13
        assert bridge.head is not None
        # a follower that began later: nothing is kept of the node's answers, and no node is asked
        one.route.asked.clear()
        chain = [record for record in asked if "StateGetActor" not in record.method and "getBalance" not in record.call]
        assert await one.differences(chain) == []
        assert one.route.asked == []


async def test_an_object_that_no_node_gives_rightly_is_not_answered_nor_stored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with follower() as one:
        height = one.node.head.height - 500
        tipset = await one.node.index.at_height(one.node.head, height)
        message = tipset.blocks[0].messages
        below = await one.node.index.parent(tipset)
        one.node.faults.lies = {cid.multihash for cid in below.key.cids} | {message.multihash}
        assert "error" in await one.ask("Filecoin.ChainReadObj", {"/": str(message)})
        answer = await one.ask("Filecoin.ChainGetTipSetByHeight", below.height, [])
        assert "not held" in answer["error"]["message"]
        assert await load_wanted_epoch(one.store) is None
        # nor does the bridge store it
        await want_epoch(one.store, below.height)
        caplog.clear()
        async with following(one.store, [one.node.base], bridge_settings(1_000_000)):
            async with asyncio.timeout(60):
                while "sources:" not in caplog.text or "answered bytes that are not" not in caplog.text:
                    await asyncio.sleep(0.01)
        for cid in (message, *below.key.cids):
            assert await one.store.get(cid.multihash) is None
        assert (await covered(one.store, b"messages"))[-1][0] > height


async def test_ranges_that_end_at_the_head_are_those_of_its_chain() -> None:
    """The node has gone on, and has reverted the follower's head: nothing of its newer chain is told."""
    async with follower(ahead=REVERTS) as one:
        told = (await one.ask("Filecoin.ChainHead"))["result"]
        head, index = told["Height"], one.node.index
        tipset = await index.tipset(TipsetKey.of(parse(cid["/"]) for cid in told["Cids"]))
        assert (await index.at_height(one.node.head, head)).key != tipset.key
        low = head - 300
        logs = (await one.ask("eth_getLogs", {"fromBlock": hex(low), "toBlock": "latest"}))["result"]
        assert logs and max(int(log["blockNumber"], 16) for log in logs) < head
        for log in logs:
            at = await index.at_height(tipset, int(log["blockNumber"], 16))
            assert log["blockHash"] == "0x" + at.key.block_hash.hex()
        # the store holds the upper part: each part alone is answered too, and both make the whole
        middle = head - HELD // 2
        parts = [
            (await one.ask("eth_getLogs", {"fromBlock": hex(start), "toBlock": hex(end)}))["result"]
            for start, end in ((low, middle), (middle + 1, head - 1))
        ]
        assert [*parts[0], *parts[1]] == logs


async def test_without_objects_nothing_is_answered() -> None:
    async with follower(fetches=False) as one:
        answer = await one.ask("eth_getLogs", {"fromBlock": "0x1", "toBlock": "0x64"})
        assert "not held" in answer["error"]["message"]


async def test_nothing_is_told_of_what_is_above_the_requests_head() -> None:
    async with follower(ahead=60) as one:
        head = (await one.ask("Filecoin.ChainHead"))["result"]["Height"]
        assert head < one.node.head.height - 20
        told = 0
        for record in read_records(recorded("devnet/rpc.jsonl.zst"), re.compile("eth_getTransactionReceipt$")):
            result = record.answer.get("result")
            if record.path != "/rpc/v1" or result is None:
                continue
            answer = await one.ask(record.method, *record.params)
            above = int(result["blockNumber"], 16) >= head
            assert answer["result"] == (None if above else result)
            told += above
            message = {
                "/": (await one.ask("Filecoin.EthGetMessageCidByTransactionHash", *record.params))["result"]["/"]
            }
            found = (await one.ask("Filecoin.StateSearchMsg", [], message, -1, True))["result"]
            assert (found is None) == above
        assert told > 2


async def test_without_a_node_the_answer_is_that_nothing_is_held() -> None:
    async with follower() as one:
        await one.node.stop()
        answer = await one.ask("Filecoin.ChainGetTipSetByHeight", 1, [])
        assert answer["error"]["code"] in (1, -32002) and "held" in answer["error"]["message"]


async def test_a_store_that_may_only_be_read_is_asked_of_the_node_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with follower() as one:

        async def refuse(batch: Batch) -> None:
            raise StoreUnavailable("read-only")

        monkeypatch.setattr(one.store, "write", refuse)
        for _ in range(2):
            assert (await one.ask("Filecoin.ChainGetTipSetByHeight", 7, []))["result"]["Height"] == 7
        assert one.read_through.answered == 2
        assert await load_wanted_epoch(one.store) is None


async def test_what_is_too_deep_is_answered_and_not_wanted() -> None:
    async with follower(fill_epochs=100) as one:
        deep = one.node.head.height - 300
        assert (await one.ask("Filecoin.ChainGetTipSetByHeight", deep, []))["result"]["Height"] == deep
        assert await load_wanted_epoch(one.store) is None
        for back in (50, 60, 40):
            await one.ask("Filecoin.ChainGetTipSetByHeight", one.node.head.height - back, [])
        # one row, of the lowest
        assert await load_wanted_epoch(one.store) == one.node.head.height - 60
        assert len(await one.store.scan(FLEET, b"wanted", limit=10)) == 1


async def test_the_bridge_keeps_to_its_limits() -> None:
    store = MemoryStore()
    await want_epoch(store, 5)
    floor = wanted_floor.WantedFloor(store, fill_epochs=4000)
    assert await floor.find(9_900, 10_000, Kept()) == 9_900 - wanted_floor.STEP
    assert await floor.find(6_100, 10_000, Kept()) == 6_000
    # its policy, and what it has dropped, go before
    assert await floor.find(8_100, 10_000, Kept(policy={MESSAGES: 2000})) == 8_000
    assert await floor.find(9_100, 10_000, Kept(lowest={MESSAGES: 9_000})) == 9_000
    assert await load_wanted_epoch(store) == 5
    # as far as it may: the wish is fulfilled
    assert await floor.find(6_000, 10_000, Kept()) is None
    assert await load_wanted_epoch(store) is None


async def test_a_full_disk_ends_the_filling(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    store = MemoryStore()
    store.url = f"lmdb://{tmp_path}"
    await want_epoch(store, 5)
    floor = wanted_floor.WantedFloor(store, fill_epochs=4000, free_bytes=1 << 62)
    assert await floor.find(9_900, 10_000, Kept()) is None
    assert await load_wanted_epoch(store) == 5
    assert await wanted_floor.WantedFloor(store, fill_epochs=4000).find(9_900, 10_000, Kept()) is not None


async def test_a_damaged_row_is_no_wish() -> None:
    store = MemoryStore()
    for value in (b"", b"x", b"-1", b'"7"', b"[1]"):
        batch = Batch()
        batch.put(FLEET, b"wanted", b"lowest", value)
        save_kept(batch, Kept())
        await store.write(batch)
        assert await load_wanted_epoch(store) is None
    assert await want_epoch(store, 3)
    assert not await want_epoch(store, 4)


@pytest.mark.long
async def test_a_follower_and_its_bridge_read_through_and_fill(tmp_path: Path) -> None:
    """Real processes over LMDB: the answer is the node's at first, and the follower's own once it is filled in."""
    node = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = [
        "up", "--store", f"lmdb://{tmp_path}/store", "--node", node.base, "--backfill-epochs", "10", "--listen",
        f"127.0.0.1:{port}", "--network-file", str(recorded("devnet/network.json")), "--read-through", "true",
        "--read-through-fill-epochs", "100000", "--read-through-free-gb", "0", "--ready-head-age-epochs", "0",
    ]  # fmt: skip
    with follower_process(*words):
        async with aiohttp.ClientSession() as http, asyncio.timeout(200):
            await wait_for_head(http, port)

            async def ask(method: str, *params: Any) -> Any:
                async with http.post(f"{url}/rpc/v1", data=call(method, list(params))) as answer:
                    return (await answer.json(content_type=None)).get("result")

            async def figure(name: str) -> float:
                async with http.get(f"{url}/metrics") as answer:
                    lines = (await answer.text()).splitlines()
                return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[ {{]", line))

            wanted = node.head.height // 2
            expected = await node.index.at_height(node.head, wanted)
            cids = [{"/": str(cid)} for cid in expected.key.cids]
            assert (await ask("Filecoin.ChainGetTipSetByHeight", wanted, []))["Cids"] == cids
            assert await figure("follower_read_through_total") == 1
            assert await figure("follower_read_through_wanted_total") == 1
            # each asks something new, so that nothing is kept: the node is asked until the bridge has come so far
            number, before = wanted, -1.0
            while (now := await figure("follower_read_through_total")) != before:
                before, number = now, number + 1
                assert (await ask("Filecoin.ChainGetTipSetByHeight", number, []))["Height"] <= number
    await node.stop()


async def test_the_index_of_what_is_not_held_is_not_validated() -> None:
    """Neither a mismatch nor a node's word about its own index: the store's rows are meant."""
    async with follower() as one:
        head = one.node.head.height
        for epoch in (head - HELD - 3, head - 300):
            assert "result" in await one.ask("Filecoin.ChainGetTipSetByHeight", epoch, [])
            answer = await one.ask("Filecoin.ChainValidateIndex", epoch, False)
            assert answer["error"]["message"].startswith(f"not held: the index at height {epoch}: ")
        held = [
            await one.ask("Filecoin.ChainValidateIndex", epoch, False) for epoch in range(head - HELD + 1, head - 1)
        ]
        assert all("result" in answer for answer in held)


async def test_a_deep_epoch_is_answered_by_a_nodes_word() -> None:
    """Deeper than `link_epochs`: which tipset it is, is not linked; all under it is verified."""
    async with follower(link_epochs=50) as one:
        deep = one.node.head.height - 500
        for method, params in (
            ("eth_getBlockByNumber", [hex(deep), True]),
            ("eth_getLogs", [{"fromBlock": hex(deep - 40), "toBlock": hex(deep)}]),
            ("Filecoin.ChainGetTipSetByHeight", [deep, []]),
        ):
            assert await one.ask(method, *params) == await one.ask_honest(1, method, params)
        assert len(one.route.asked) < 50
