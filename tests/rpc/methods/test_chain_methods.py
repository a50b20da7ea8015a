"""`Chain*` on chains that a test makes: forks, doubled messages, what is not held, subscriptions."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import orjson
import pytest

import rpc.methods.chain.chain as methods
import rpc.methods.chain.notify as notify
from blockstore.cid import RAW, Cid, cid_of
from blockstore.errors import Missing
from chain.errors import BadRequest, NotHeld
from chain.ipld.dag_cbor import encode
from chain.ipld.dag_stat import stat_dag
from chain.ipld.objects import Objects
from chain.message import Message, SignedMessage
from chain.tipset import Tipset
from chain.tipset_messages import load_tipset_messages
from rpc.lotus_json import JsonCache
from rpc.server.dispatch import Dispatcher
from rpc.session import SharedReader, SharedText
from tests.support.made_chain import NOWHERE, MadeChain, ask, link, links

ALICE, BOB = b"\1" + b"a" * 20, b"\1" + b"b" * 20


def message(sender: bytes, nonce: int, params: bytes = b"") -> Message:
    return Message(0, b"\0\x65", sender, nonce, 5, 1000, 200, 100, 2, params)


def signed(sender: bytes, nonce: int) -> SignedMessage:
    return SignedMessage(message(sender, nonce), (1, b"s" * 65))


async def made(length: int = 6) -> tuple[MadeChain, list[Tipset]]:
    """A chain of `length` tipsets at epochs 0, 2, 4, …: every other epoch is a null round."""
    chain = MadeChain()
    tipsets = [await chain.add(None, 0)]
    for at in range(1, length):
        tipsets.append(await chain.add(tipsets[-1], 2 * at))
    chain.log.publish([], [tipsets[-1]])
    return chain, tipsets


def cids(answer: Any) -> Any:
    return answer["result"]["Cids"]


async def test_null_rounds_go_down_or_up() -> None:
    chain, tipsets = await made()
    dispatcher = Dispatcher(chain.services())
    head = links(tipsets[-1].key)
    for key in (head, [], None):
        assert cids(await ask(dispatcher, "ChainGetTipSetByHeight", 5, key)) == links(tipsets[2].key)
        assert cids(await ask(dispatcher, "ChainGetTipSetAfterHeight", 5, key)) == links(tipsets[3].key)
        assert cids(await ask(dispatcher, "ChainGetTipSetByHeight", 4, key)) == links(tipsets[2].key)
        assert cids(await ask(dispatcher, "ChainGetTipSetAfterHeight", 4, key)) == links(tipsets[2].key)
    for epoch, text in ((-1, "height -1 is negative"), (11, "req: 11, head: 10")):
        for name in ("ChainGetTipSetByHeight", "ChainGetTipSetAfterHeight"):
            error = (await ask(dispatcher, name, epoch, []))["error"]
            assert error["code"] == 1
            assert text in error["message"]


async def test_v0_has_what_v1_has() -> None:
    # Lotus' v0 wraps the v1 interface: what it does not spell otherwise is there as well
    chain, tipsets = await made(3)
    dispatcher = Dispatcher(chain.services())
    for name, wanted in (("ChainGetTipSetAfterHeight", 1), ("ChainGetTipSetByHeight", 0)):
        assert cids(await ask(dispatcher, name, 1, [], version=0)) == links(tipsets[wanted].key)


async def test_one_request_sees_one_head() -> None:
    chain, tipsets = await made()
    dispatcher = Dispatcher(chain.services())
    ctx = dispatcher.context(1)
    before = await methods.chain_head(ctx)
    chain.log.publish([], [await chain.add(tipsets[-1], 99)])
    assert (await methods.chain_head(ctx)) is before
    assert (await ask(dispatcher, "ChainHead"))["result"]["Height"] == 99


async def test_a_path_over_a_fork() -> None:
    chain, trunk = await made(3)
    left = right = trunk[-1]
    lefts, rights = [], []
    for height in (5, 6, 9):
        left = await chain.add(left, height, salt=1)
        lefts.append(left)
    for height in (7, 8):
        right = await chain.add(right, height, salt=2)
        rights.append(right)
    dispatcher = Dispatcher(chain.services())
    answer = await ask(dispatcher, "ChainGetPath", links(left.key), links(right.key))
    got = [(change["Type"], change["Val"]["Cids"]) for change in answer["result"]]
    wanted = [("revert", links(t.key)) for t in lefts[::-1]] + [("apply", links(t.key)) for t in rights]
    assert got == wanted
    same = await ask(dispatcher, "ChainGetPath", links(left.key), links(left.key))
    assert same["result"] == []
    empty = await ask(dispatcher, "ChainGetPath", [], links(left.key))
    assert "loading from tipset {}: NewTipSet called with zero length" in empty["error"]["message"]


async def test_a_path_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, tipsets = await made(8)
    monkeypatch.setattr(methods, "MAX_PATH", 4)
    dispatcher = Dispatcher(chain.services())
    ends = links(tipsets[0].key), links(tipsets[-1].key)
    assert (await ask(dispatcher, "ChainGetPath", *ends))["error"]["code"] == -32005
    near = await ask(dispatcher, "ChainGetPath", links(tipsets[-5].key), ends[1])
    assert len(near["result"]) == 4


async def test_blocks_of_a_key_come_in_any_order() -> None:
    chain, tipsets = await made(2)
    top = await chain.add(tipsets[-1], 9, [((), ()), ((), ()), ((), ())])
    dispatcher = Dispatcher(chain.services())
    answer = await ask(dispatcher, "ChainGetTipSet", links(top.key)[::-1])
    assert cids(answer) == links(top.key)
    mixed = await ask(dispatcher, "ChainGetTipSet", links(top.key)[:1] + links(tipsets[0].key))
    assert "mismatching" in mixed["error"]["message"]


# --- messages ------------------------------------------------------------------------------------------


async def test_a_message_in_two_blocks_counts_once_and_in_order() -> None:
    chain, tipsets = await made(2)
    one, two, three = message(ALICE, 7), message(ALICE, 8), signed(BOB, 0)
    blocks = [([one], [three]), ([one, two], [three])]
    top = await chain.add(tipsets[-1], 9, blocks)
    child = await chain.add(top, 10)
    chain.log.publish([], [child])
    dispatcher = Dispatcher(chain.services())
    # the blocks stand in the order of their tickets, not in that of their making
    first = top.blocks[0].miner == b"\0\1"
    order = [one.cid, three.cid, two.cid] if first else [one.cid, two.cid, three.cid]
    answer = await ask(dispatcher, "ChainGetMessagesInTipset", links(top.key))
    assert [item["Cid"] for item in answer["result"]] == [link(cid) for cid in order]
    parents = await ask(dispatcher, "ChainGetParentMessages", link(child.blocks[0].cid))
    assert parents["result"] == answer["result"]
    # an unsigned message inside a signed one has a CID of its own
    inner = next(item for item in answer["result"] if item["Cid"] == link(three.cid))
    assert inner["Message"]["CID"] == link(three.message.cid)
    assert inner["Message"]["Params"] is None
    listed = await ask(dispatcher, "ChainGetBlockMessages", link(top.blocks[0].cid))
    assert listed["result"]["Cids"] == [link(cid) for cid in ([one.cid] if first else [one.cid, two.cid]) + [three.cid]]


@pytest.mark.parametrize(("upgrades", "count"), [(((-1, 25),), 2), (((-1, 12), (9, 13)), 2), (((-1, 12), (10, 13)), 3)])
async def test_a_sender_by_id_and_by_address_is_one(upgrades: tuple[tuple[int, int], ...], count: int) -> None:
    chain = MadeChain(upgrades)
    genesis = await chain.add(None, 0)
    by_id, by_key = message(b"\0\x64", 4), message(ALICE, 4, b"other")
    top = await chain.add(genesis, 9, [([by_key, message(BOB, 1), by_id], [])])

    async def look_up(root: Cid, address: bytes) -> bytes:
        assert root == top.parent_state_root
        return {ALICE: b"\0\x64", BOB: b"\0\x65"}.get(address, address)

    services = chain.services()
    found = await load_tipset_messages(services.objects, top, services.network, look_up)
    assert len(found) == count


async def test_genesis_and_empty_tipsets_answer_null() -> None:
    chain, tipsets = await made(3)
    dispatcher = Dispatcher(chain.services())
    for key in (tipsets[0].key, tipsets[1].key):
        assert (await ask(dispatcher, "ChainGetMessagesInTipset", links(key)))["result"] is None
    genesis = link(tipsets[0].blocks[0].cid)
    assert (await ask(dispatcher, "ChainGetParentMessages", genesis))["result"] is None
    assert (await ask(dispatcher, "ChainGetParentReceipts", genesis))["result"] is None
    assert (await ask(dispatcher, "ChainGetBlockMessages", genesis))["result"] == {
        "BlsMessages": [], "SecpkMessages": [], "Cids": [],
    }  # fmt: skip


async def test_receipts_of_both_versions() -> None:
    chain, tipsets = await made(2)
    root = await chain.amt([[0, b"", 5], [33, b"\1\2", 6], [0, b"", 7, None], [0, b"x", 8, NOWHERE]])
    child = await chain.add(tipsets[-1], 9, receipts=root)
    answer = await ask(Dispatcher(chain.services()), "ChainGetParentReceipts", link(child.blocks[0].cid))
    assert answer["result"] == [
        {"ExitCode": 0, "Return": None, "GasUsed": 5, "EventsRoot": None},
        {"ExitCode": 33, "Return": "AQI=", "GasUsed": 6, "EventsRoot": None},
        {"ExitCode": 0, "Return": None, "GasUsed": 7, "EventsRoot": None},
        {"ExitCode": 0, "Return": "eA==", "GasUsed": 8, "EventsRoot": link(NOWHERE)},
    ]


async def test_events_keep_their_order_and_nulls() -> None:
    chain, _ = await made(2)
    events = [[100 + at, [[3, "t1", 0x55, b"\1" * (at % 2)]] * (at % 3)] for at in range(70)]
    root = await chain.amt(events, 3, 5)
    answer = (await ask(Dispatcher(chain.services()), "ChainGetEvents", link(root)))["result"]
    assert [event["Emitter"] for event in answer] == [100 + at for at in range(70)]
    assert answer[0]["Entries"] is None
    assert answer[1]["Entries"] == [{"Flags": 3, "Key": "t1", "Codec": 0x55, "Value": "AQ=="}]
    assert answer[2]["Entries"][1]["Value"] is None


# --- what is not held ----------------------------------------------------------------------------------


async def test_below_the_bottom_is_an_error() -> None:
    chain = MadeChain()
    gone = await MadeChain().add(None, 99)
    bottom = await chain.add(gone, 100)
    top = await chain.add(bottom, 101)
    chain.log.publish([], [top])
    dispatcher = Dispatcher(chain.services())
    asked = [
        ("ChainGetTipSetByHeight", 99, []),
        ("ChainGetTipSetByHeight", 0, []),
        ("ChainGetParentMessages", link(bottom.blocks[0].cid)),
        ("ChainGetParentReceipts", link(bottom.blocks[0].cid)),
        ("ChainGetPath", links(bottom.key), links((await chain.add(gone, 100, salt=7)).key)),
    ]
    for name, *params in asked:
        answer = await ask(dispatcher, name, *params)
        assert "not held" in answer["error"]["message"], name
        assert answer["error"]["code"] == 1


async def test_messages_and_receipts_that_are_missing() -> None:
    chain, tipsets = await made(2)
    top = await chain.add(tipsets[-1], 9, [([message(ALICE, 1)], [])], receipts=cid_of(b"elsewhere"))
    dispatcher = Dispatcher(chain.services())
    del chain.store._objects[message(ALICE, 1).cid.multihash]
    for name, params in (
        ("ChainGetMessagesInTipset", links(top.key)),
        ("ChainGetBlockMessages", link(top.blocks[0].cid)),
        ("ChainGetParentReceipts", link(top.blocks[0].cid)),
    ):
        answer = await ask(dispatcher, name, params)
        assert "not held" in answer["error"]["message"], name


async def test_unknown_cids_answer_as_lotus_does() -> None:
    chain, _ = await made(2)
    dispatcher = Dispatcher(chain.services())
    unknown = cid_of(b"unknown")
    for name, params, text in (
        ("ChainGetBlock", [link(unknown)], "ipld: could not find {}"),
        ("ChainGetBlockMessages", [link(unknown)], "ipld: could not find {}"),
        ("ChainGetParentReceipts", [link(unknown)], "ipld: could not find {}"),
        ("ChainGetMessage", [link(unknown)], "ipld: could not find {}"),
        ("ChainReadObj", [link(unknown)], "blockstore get: ipld: could not find {}"),
        ("ChainStatObj", [link(unknown), None], "ipld: could not find {}"),
        ("ChainGetTipSet", [[link(unknown)]], "get block {0}: ipld: could not find {0}"),
        ("ChainGetMessagesInTipset", [[link(unknown)]], "get block {0}: ipld: could not find {0}"),
        (
            "ChainGetTipSetByHeight",
            [1, [link(unknown)]],
            "loading tipset {{{0}}}: get block {0}: ipld: could not find {0}",
        ),
        ("ChainGetEvents", [link(unknown)], "load events amt: ipld: could not find {}"),
    ):
        error = (await ask(dispatcher, name, *params))["error"]
        assert error == {"code": 1, "message": text.format(unknown)}, name
    assert (await ask(dispatcher, "ChainHasObj", link(unknown)))["result"] is False


@pytest.mark.parametrize("name", ["ChainGetBlock", "ChainGetMessage", "ChainGetBlockMessages", "ChainGetEvents"])
@pytest.mark.parametrize("raw", [b"", b"\x80", b"\xff", b"\x82\x01\x02", b"\xa1\x61a\x01", encode([NOWHERE] * 16)])
async def test_objects_of_another_kind_are_clear_errors(name: str, raw: bytes) -> None:
    chain, _ = await made(2)
    answer = await ask(Dispatcher(chain.services()), name, link(await chain.put(raw)))
    assert answer["error"]["code"] == 1


# --- plain objects -------------------------------------------------------------------------------------


async def test_identity_cids_need_no_store() -> None:
    chain, _ = await made(2)
    dispatcher = Dispatcher(chain.services())
    cid = Cid(b"\x01\x55\x00\x03abc")
    assert (await ask(dispatcher, "ChainHasObj", link(cid)))["result"] is True
    answer = await ask(dispatcher, "ChainReadObj", link(cid))
    assert base64.b64decode(answer["result"]) == b"abc"


async def test_stat_counts_each_object_once_and_leaves_out_the_base() -> None:
    chain = MadeChain()
    leaf = await chain.put(encode([1, b"leaf"]))
    code = cid_of(b"\0asm", RAW)
    await chain.store.put_many([(code.multihash, b"\0asm")], closed=True)
    commitment = Cid(b"\x01\x81\xe2\x03\x12\x20" + bytes(32))
    small = await chain.put(encode([leaf, leaf]))
    big = await chain.put(encode([small, leaf, code, commitment]))
    reader = Objects(chain.store)

    async def size(*some: Cid) -> int:
        return sum([len(await reader.get(cid)) for cid in some])

    assert await stat_dag(reader, leaf) == (1, await size(leaf))
    assert await stat_dag(reader, small) == (2, await size(leaf, small))
    assert await stat_dag(reader, big) == (4, await size(leaf, small, big, code))
    assert await stat_dag(reader, big, small) == (2, await size(big, code))
    assert await stat_dag(reader, small, big) == (0, 0)
    with pytest.raises(BadRequest, match="more than 2"):
        await stat_dag(reader, big, limit=2)
    with pytest.raises(Missing):
        await stat_dag(reader, await chain.put(encode([cid_of(b"gone")])))


# --- subscriptions -------------------------------------------------------------------------------------


def frames(changes: Any) -> list[tuple[str, int]]:
    return [(c["Type"], c["Val"]["Height"]) for c in orjson.loads(orjson.dumps(changes))]


async def test_notify_begins_with_the_head_and_keeps_changes_whole() -> None:
    chain, tipsets = await made(3)
    dispatcher = Dispatcher(chain.services())
    stream = notify.chain_notify(dispatcher.context(1))
    assert frames(await anext(stream)) == [("current", 4)]
    side = [await chain.add(tipsets[1], height, salt=3) for height in (3, 4)]
    side.append(await chain.add(side[-1], 6, salt=3))
    chain.log.publish([], [await chain.add(tipsets[-1], 5)])
    chain.log.publish([tipsets[2], tipsets[1]], side)
    # what follows is the same for all who hear it
    heard = await anext(stream)
    assert isinstance(heard, SharedReader)
    texts: list[SharedText] = []
    heard.attach(texts.extend)
    async with asyncio.timeout(60):
        await heard.wake.wait()
    assert [frames(orjson.loads(one.text)) for one in texts] == [
        [("apply", 5)],
        [("revert", 4), ("revert", 2), ("apply", 3), ("apply", 4), ("apply", 6)],
    ]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_client_goes_on_where_it_stopped() -> None:
    chain, tipsets = await made(2)
    for height in range(10, 16):
        tipsets.append(await chain.add(tipsets[-1], height))
        chain.log.publish([], [tipsets[-1]])
    ctx = Dispatcher(chain.services()).context(1)
    first = await anext(notify.chain_notify_from(ctx, 0))
    assert (first["Seq"], frames(first["Changes"])) == (7, [("current", 15)])
    seen = [(frame["Seq"], frames(frame["Changes"])) async for frame in notify.chain_notify_from(ctx, 3)]
    assert seen == [(4, [("apply", 12)]), (5, [("apply", 13)]), (6, [("apply", 14)]), (7, [("apply", 15)])]
    assert [frame async for frame in notify.chain_notify_from(ctx, 7)] == []
    with pytest.raises(BadRequest, match="the newest is 7"):
        await anext(notify.chain_notify_from(ctx, 8))
    chain.log.trimmed = 4
    with pytest.raises(NotHeld, match="the log begins at 5"):
        await anext(notify.chain_notify_from(ctx, 2))


# --- the cache -----------------------------------------------------------------------------------------


async def test_the_cache_is_bounded_and_forgets_the_oldest() -> None:
    cache = JsonCache("t", cache_bytes=20_000)
    for at in range(500):
        cache.keep(b"k%d" % at, "x" * 300)
        assert cache.size <= 20_000
    assert cache.get(b"k0") is None
    assert cache.get(b"k499") is not None
    cache.keep(b"large", "x" * 5000)
    assert cache.get(b"large") is None


async def test_an_ancestor_is_remembered_for_its_own_chain_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpc.lotus_json._ANCESTORS", 3)
    chain, trunk = await made(3)
    left = await chain.add(await chain.add(trunk[-1], 6, salt=1), 9, salt=1)
    right = await chain.add(await chain.add(trunk[-1], 7, salt=2), 9, salt=2)
    dispatcher = Dispatcher(chain.services())
    for _ in range(3):
        for tip in (left, right):
            for epoch in (6, 7, 8):
                below = await ask(dispatcher, "ChainGetTipSetByHeight", epoch, links(tip.key))
                above = await ask(dispatcher, "ChainGetTipSetAfterHeight", epoch, links(tip.key))
                first = 6 if tip is left else 7
                assert below["result"]["Height"] == (first if epoch >= first else 4)
                assert above["result"]["Height"] == (first if epoch <= first else 9)
                side = [links(tip.parents), links(tip.key), links(trunk[-1].key)]
                assert below["result"]["Cids"] in side
                assert above["result"]["Cids"] in side
    assert len(methods.json_cache(dispatcher.context(1))._ancestors) <= 3


async def test_addresses_have_the_networks_prefix() -> None:
    chain, _ = await made(2)
    dispatcher = Dispatcher(chain.services())
    answer = await ask(dispatcher, "ChainHead")
    assert answer["result"]["Blocks"][0]["Miner"] == "t01"
