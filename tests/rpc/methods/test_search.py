"""Searching messages and waiting for them, weight and finality: recorded answers, and chains made here."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest

import rpc.methods.state.search_message as search_methods
from blockstore.cid import Cid, cid_of, parse
from blockstore.memory import MemoryStore
from blockstore.store import MESSAGES, RECORDED, Batch, Table
from chain.ipld.dag_cbor import encode
from chain.ipld.hamt import hamt_build
from chain.message import Message
from chain.tipset import Tipset
from follower.commands.comparison import judge, read_records
from leader_bridge.store.indexer import message_key
from rpc.context import Context
from rpc.lookup.message_search import NO_LIMIT, executed_in
from rpc.methods import register_all
from rpc.pacer import LoopPacer
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings
from rpc.server.server import serve
from tests.rpc.methods.test_recorded_chain import PATHS, ask, imported
from tests.support.http_raw import post
from tests.support.made_chain import NOWHERE, MadeChain, link, links
from tests.support.made_chain import ask as call
from tests.support.recorded import recorded

METHODS = re.compile(
    r"StateSearchMsg|StateWaitMsg|StateGetReceipt|ChainTipSetWeight|ChainGetFinalizedTipSet|ChainGetNode"
)


@pytest.mark.recorded
@pytest.mark.parametrize("folder", ["devnet", "upgrades"])
async def test_recorded_searches(folder: str) -> None:
    dispatcher = Dispatcher(await imported(folder, MemoryStore()))
    wrong: list[str] = []
    asked = 0
    for record in read_records(recorded(f"{folder}/rpc.jsonl.zst"), METHODS, PATHS):
        asked += 1
        why, _ = judge(record, await ask(dispatcher, record.path, record.method, record.params))
        if why is not None:
            wrong.append(f"{record.path} {record.method} {orjson.dumps(record.params).decode()[:200]}: {why}")
    assert asked > 500
    assert not wrong, f"{len(wrong)} of {asked}\n" + "\n".join(wrong[:20])


@pytest.mark.recorded
@pytest.mark.parametrize("source", ["Tickets", "Beacon"])
async def test_v0_spells_randomness_with_the_tipset_first(source: str) -> None:
    dispatcher = Dispatcher(await imported("devnet", MemoryStore()))
    asked = 0
    wanted = re.compile(f"StateGetRandomnessFrom{source}$")
    for record in read_records(recorded("devnet/rpc.jsonl.zst"), wanted, ("/rpc/v1",)):
        personalization, epoch, entropy, key = record.params
        answer = await call(
            dispatcher, f"ChainGetRandomnessFrom{source}", key, personalization, epoch, entropy, version=0
        )
        assert judge(record, answer) == (None, False)
        asked += 1
    assert asked > 5


# --- a chain whose state holds nothing but one sender's nonce --------------------------------------------

SENDER = b"\0\x64"


def message(nonce: int, premium: int = 1, to: bytes = b"\0\x65") -> Message:
    return Message(0, to, SENDER, nonce, 5, 1000, 200, premium, 2, b"")


@dataclass
class Sending:
    """A chain with one sender: every tipset says which messages it includes."""

    chain: MadeChain = field(default_factory=MadeChain)
    tipsets: list[Tipset] = field(default_factory=list)
    pending: list[Message] = field(default_factory=list)
    indexed: bool = True

    async def state(self, nonce: int) -> Cid:
        made: list[tuple[bytes, bytes]] = []
        actors = {SENDER: [NOWHERE, NOWHERE, nonce, b"", None]} if nonce >= 0 else {}
        root = hamt_build(lambda cid, raw: made.append((cid.multihash, raw)), actors)
        await self.chain.store.put_many(made, closed=True)
        return await self.chain.put(encode([5, root, NOWHERE]))

    async def add(
        self, height: int, messages: list[Message], parent: Tipset | None = None, nonce: int = 0, salt: int = 0
    ) -> Tipset:
        """A tipset on `parent` that includes `messages`; `nonce` is the sender's before it."""
        receipts = await self.chain.amt([[0, b"", 100 + one.nonce] for one in self.pending])
        tipset = await self.chain.add(
            parent, height, [(messages, ())], receipts=receipts, state=await self.state(nonce), salt=salt
        )
        self.pending = messages
        batch = Batch()
        for one in messages if self.indexed else ():
            batch.put(MESSAGES, bytes(one.cid), message_key(height, tipset.key.cid), b"")
        await self.chain.store.write(batch)
        return tipset


async def sending(rng: random.Random, length: int, indexed: bool) -> tuple[Sending, dict[int, int]]:
    """A chain of `length` tipsets with null rounds, and the epoch that includes each nonce."""
    made = Sending(indexed=indexed)
    height, nonce = 0, 0
    where: dict[int, int] = {}
    parent: Tipset | None = None
    for _ in range(length):
        some = [message(nonce + at) for at in range(rng.choice([0, 0, 0, 1, 2]))] if height else []
        parent = await made.add(height, some, parent, nonce if nonce or rng.random() < 0.5 else -1)
        made.tipsets.append(parent)
        where.update({one.nonce: height for one in some})
        nonce += len(some)
        height += rng.choice([1, 1, 1, 2, 5])
    made.chain.log.publish([], [made.tipsets[-1]])
    return made, where


async def walked(ctx: Context, made: Sending, start: Tipset, wanted: Message, limit: int) -> Tipset | None:
    """What a walk from `start` down finds, tipset by tipset, as Lotus goes about it."""
    at = made.tipsets.index(start)
    while True:
        cur = made.tipsets[at]
        if await executed_in(ctx, cur, wanted.cid, wanted, True):
            # the first look is at `start` whatever the limit; later ones only above the limit's epoch
            return cur
        if at == 0:
            return None
        at -= 1
        if limit != NO_LIMIT and made.tipsets[at].height <= start.height - limit:
            return None


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("seed", range(4))
async def test_search_finds_what_a_walk_finds(seed: int, indexed: bool) -> None:
    rng = random.Random(seed)
    made, where = await sending(rng, 60, indexed)
    services = made.chain.services()
    dispatcher = Dispatcher(services)
    found = 0
    for nonce in [*where, len(where), len(where) + 3]:
        wanted = message(nonce)
        await made.chain.put_message(wanted)
        for _ in range(4):
            start = made.tipsets[-1] if indexed else rng.choice(made.tipsets)
            limit = rng.choice([NO_LIMIT, 0, 1, 5, 40, 1000])
            ctx = Context(services)
            tipset = await walked(ctx, made, start, wanted, limit)
            params = [links(start.key), link(wanted.cid), limit, True]
            answer = await call(dispatcher, "StateSearchMsg", *params)
            if tipset is None and "error" in answer:
                # before the sender was made: Lotus has an error there too
                assert answer["error"]["message"] == "failed to load initial tipset"
                continue
            if tipset is None:
                # the index counts the limit's own epoch in, the walk does not
                height = -1 if answer["result"] is None else answer["result"]["Height"]
                assert height == -1 or (indexed and height + limit == start.height), (nonce, limit)
                continue
            assert answer["result"] is not None, (nonce, limit, start.height)
            assert answer["result"]["TipSet"] == links(tipset.key)
            assert answer["result"]["Receipt"]["GasUsed"] == 100 + nonce
            found += 1
    assert found > 10


async def test_a_place_that_is_known_is_right_after_a_reorg_and_takes_no_rows() -> None:
    made = Sending()
    wanted = message(0)
    base = await made.add(0, [])
    left = [await made.add(1, [wanted], base, 0, salt=1)]
    left.append(await made.add(2, [], left[0], 0, salt=1))
    left.append(await made.add(3, [], left[1], 1, salt=1))
    made.pending = []
    # on the other branch the same message comes an epoch later
    right = [await made.add(1, [], base, 0, salt=2)]
    right.append(await made.add(2, [wanted], right[0], 0, salt=2))
    right.append(await made.add(3, [], right[1], 0, salt=2))
    right.append(await made.add(4, [], right[2], 1, salt=2))
    scans: list[bytes] = []
    store = made.chain.store
    scan = store.scan

    async def counted(table: Table, partition: bytes, **named: Any) -> list[tuple[bytes, bytes]]:
        scans.append(partition)
        return await scan(table, partition, **named)

    store.scan = counted  # type: ignore[method-assign]
    dispatcher = Dispatcher(made.chain.services())

    async def height() -> int:
        scans.clear()
        answer = await call(dispatcher, "StateSearchMsg", [], link(wanted.cid), -1, True)
        found: int = answer["result"]["Height"]
        return found

    made.chain.log.publish([], [base, *left])
    assert (await height(), len(scans)) == (2, 1)
    assert (await height(), len(scans)) == (2, 0)
    made.chain.log.publish(left[::-1], right)
    assert (await height(), len(scans)) == (3, 1)
    assert (await height(), len(scans)) == (3, 0)
    made.chain.log.publish(right[::-1], left)
    assert (await height(), len(scans)) == (2, 1)


async def test_a_replaced_message() -> None:
    made, where = await sending(random.Random(9), 30, True)
    nonce = next(iter(where))
    other, stranger = message(nonce, premium=77), message(nonce, to=b"\0\x66")
    for one in (other, stranger):
        await made.chain.put_message(one)
    dispatcher = Dispatcher(made.chain.services())
    replaced = await call(dispatcher, "StateSearchMsg", [], link(other.cid), -1, True)
    assert replaced["result"]["Message"] == link(message(nonce).cid)
    for one in (other, stranger):
        assert (await call(dispatcher, "StateSearchMsg", [], link(one.cid), -1, False))["result"] is None
    strange = await call(dispatcher, "StateSearchMsg", [], link(stranger.cid), -1, True)
    assert "NOT a valid replacement" in strange["error"]["message"]
    receipt = await call(dispatcher, "StateGetReceipt", link(other.cid), [], version=0)
    assert receipt["result"]["GasUsed"] == 100 + nonce
    assert (await call(dispatcher, "StateSearchMsg", link(other.cid), version=0))["result"] == replaced["result"]


async def test_a_miss_is_null_and_says_why_in_a_header() -> None:
    made, where = await sending(random.Random(3), 60, False)
    register_all()
    nonce = next(iter(where))
    other, never = message(nonce, premium=77), message(500)
    for one in (other, never):
        await made.chain.put_message(one)
    server = await serve(made.chain.services(), "127.0.0.1", 0)

    async def search(one: Message, limit: int, allow: bool, query: str = "") -> tuple[dict[str, Any], Any]:
        body = orjson.dumps(
            {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "Filecoin.StateSearchMsg",
                "params": [[], link(one.cid), limit, allow],
            }
        )
        answer = await post(server.port, body, "/rpc/v1" + query)
        return orjson.loads(answer.body), answer.headers.get("x-filecoin-not-found")

    there, why = await search(message(nonce), -1, True)
    assert there["result"]["Message"] == link(message(nonce).cid)
    assert why is None
    missed = [
        (never, -1, True, "not on chain"),
        (message(nonce), 1, True, "look-back limit"),
        (message(nonce), 0, True, "look-back limit"),
        (other, -1, False, "replaced by another message"),
    ]
    for one, limit, allow, reason in missed:
        for query in ("", "?quiet=verbose"):
            answer, why = await search(one, limit, allow, query)
            assert answer["result"] is None
            assert why == reason
        for query in ("?verbose", "?a=b&verbose=1"):
            answer, why = await search(one, limit, allow, query)
            assert answer["error"]["code"] == 1
            assert answer["error"]["data"] == {"reason": reason}
            assert reason in answer["error"]["message"]
            assert why == reason

    # from the middle down nothing but headers is left
    for tipset in made.tipsets[: len(made.tipsets) // 2]:
        made.chain.store._objects.pop(tipset.parent_state_root.multihash, None)
    assert where[nonce] < made.tipsets[len(made.tipsets) // 2].height
    await server.stop(0)
    server = await serve(made.chain.services(), "127.0.0.1", 0)
    answer, why = await search(message(nonce), -1, True)
    assert answer["result"] is None
    assert why == "beyond what is held"
    await server.stop(0)


@pytest.mark.parametrize("below", ["receipts", "states"])
async def test_a_wait_for_what_was_executed_where_nothing_is_held_says_so(below: str) -> None:
    made, where = await sending(random.Random(3), 60, below == "receipts")
    made.chain.log.live = True
    for tipset in made.tipsets[: len(made.tipsets) // 2]:
        root = tipset.parent_message_receipts if below == "receipts" else tipset.parent_state_root
        made.chain.store._objects.pop(root.multihash, None)
    wanted = link(message(next(iter(where))).cid)
    dispatcher = Dispatcher(made.chain.services())
    answer = await asyncio.wait_for(call(dispatcher, "StateWaitMsg", wanted, 1, -1, True), 20)
    assert answer["error"]["message"].startswith("not held: ")
    if below == "receipts":
        assert answer["error"] == (await call(dispatcher, "StateSearchMsg", [], wanted, -1, True))["error"]


async def test_a_wait_is_not_ended_by_a_look_up_that_misses() -> None:
    made, _ = await sending(random.Random(3), 60, False)
    made.chain.log.live = True
    # whether its nonce has passed nobody can tell: it may still come
    made.chain.store._objects.pop(made.tipsets[-1].parent_state_root.multihash, None)
    wanted = message(500)
    await made.chain.put_message(wanted)
    waiting = asyncio.create_task(search_methods.wait(Context(made.chain.services()), wanted.cid, 0, NO_LIMIT, True))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_confidence_has_a_bound_and_the_message_must_be_there() -> None:
    made, where = await sending(random.Random(1), 20, True)
    dispatcher = Dispatcher(made.chain.services())
    wanted = link(message(next(iter(where))).cid)
    too_deep = await call(dispatcher, "StateWaitMsg", wanted, 901, -1, True)
    assert "901 > 900" in too_deep["error"]["message"]
    unknown = await call(dispatcher, "StateWaitMsg", link(cid_of(b"unknown")), 1, -1, True)
    assert "failed to load message" in unknown["error"]["message"]


async def test_a_wait_ends_when_the_message_is_deep_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = await sending(random.Random(5), 10, True)
    made.chain.log.live = True
    services = made.chain.services()
    top = made.tipsets[-1]
    nonce = sum(1 for _ in made.pending)
    used = (await call(Dispatcher(services), "StateSearchMsg", [], link(top.parents.cids[0]), -1, True)).get("error")
    assert used is not None  # a block is no message
    wanted = message(500)
    await made.chain.put_message(wanted)
    waiting = asyncio.create_task(search_methods.wait(Context(services), wanted.cid, 2, NO_LIMIT, True))
    made.pending = []
    including = await made.add(top.height + 1, [wanted], top, 500 + nonce)
    executing = await made.add(top.height + 2, [], including, 501)
    made.chain.log.publish([], [including, executing])
    await asyncio.sleep(0)
    # a fork takes it back, and includes it one epoch later
    side = await made.add(top.height + 1, [], top, 500, salt=3)
    late = await made.add(top.height + 3, [wanted], side, 500, salt=3)
    again = await made.add(top.height + 4, [], late, 501, salt=3)
    made.chain.log.publish([executing, including], [side, late, again])
    parent = again
    for height in (5, 6, 7):
        assert not waiting.done() or height > 6
        parent = await made.add(top.height + height, [], parent, 501, salt=3)
        made.chain.log.publish([], [parent])
        for _ in range(20):
            await asyncio.sleep(0)
    _, found = await asyncio.wait_for(waiting, 5)
    assert found.tipset.key == again.key
    assert found.cid == wanted.cid


async def test_the_time_of_waiting_is_no_time_of_work() -> None:
    made, _ = await sending(random.Random(6), 10, True)
    made.chain.log.live = True
    wanted = message(500)
    await made.chain.put_message(wanted)
    services = replace(made.chain.services(), pacer=LoopPacer(slice_seconds=0))
    dispatcher = Dispatcher(services, settings=ServerSettings(request_seconds=0.2))
    waiting = asyncio.create_task(call(dispatcher, "StateWaitMsg", link(wanted.cid), 1, -1, True))
    made.pending = []
    parent = made.tipsets[-1]
    for height, messages in ((99, [wanted]), (100, []), (101, [])):
        await asyncio.sleep(0.3)
        parent = await made.add(height, messages, parent, 500 + (height > 99))
        made.chain.log.publish([], [parent])
    answer = await asyncio.wait_for(waiting, 20)
    assert answer["result"]["Height"] == 100


async def test_a_wait_for_confidence_zero_ends_at_once() -> None:
    made, _ = await sending(random.Random(6), 10, True)
    made.chain.log.live = True
    services = made.chain.services()
    wanted = message(500)
    await made.chain.put_message(wanted)
    waiting = asyncio.create_task(search_methods.wait(Context(services), wanted.cid, 0, NO_LIMIT, True))
    made.pending = []
    including = await made.add(99, [wanted], made.tipsets[-1], 500)
    executing = await made.add(100, [], including, 501)
    made.chain.log.publish([], [including])
    made.chain.log.publish([], [executing])
    _, found = await asyncio.wait_for(waiting, 5)
    assert found.tipset.key == executing.key


# --- finality, nodes -----------------------------------------------------------------------------------


async def test_finalized_is_f3_where_recorded_else_900_epochs_back() -> None:
    chain = MadeChain()
    tipsets = [await chain.add(None, 0)]
    for height in (90, 100, 101, 600, 1001):
        tipsets.append(await chain.add(tipsets[-1], height))
    chain.log.publish([], [tipsets[-1]])
    answer = await call(Dispatcher(chain.services()), "ChainGetFinalizedTipSet")
    assert answer["result"]["Height"] == 101
    for epoch, wanted in ((600, 600), (100, 101)):
        key = next(t.key for t in tipsets if t.height == epoch)
        certificate = {"ECChain": [{"Epoch": 5, "Key": ""}, {"Epoch": epoch, "Key": _base64(key)}]}
        batch = Batch()
        batch.put(RECORDED, tipsets[-1].key.cid, b"F3GetLatestCertificate", orjson.dumps(certificate))
        await chain.store.write(batch)
        # what a process has found once for a head it does not look up again
        answer = await call(Dispatcher(chain.services()), "ChainGetFinalizedTipSet")
        assert answer["result"]["Height"] == wanted


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


async def test_a_chain_too_short_for_finality() -> None:
    chain = MadeChain()
    chain.log.publish([], [await chain.add(await chain.add(None, 0), 10)])
    answer = await call(Dispatcher(chain.services()), "ChainGetFinalizedTipSet")
    assert answer["error"] == {"code": 1, "message": "height -890 is negative"}


async def node_chain() -> tuple[MadeChain, Dispatcher]:
    chain = MadeChain()
    chain.log.publish([], [await chain.add(None, 0)])
    return chain, Dispatcher(chain.services())


async def test_paths_go_through_maps_and_arrays_to_links() -> None:
    chain, dispatcher = await node_chain()
    leaf = await chain.put(encode([b"\1\2", "text", -5, None, True]))
    middle = await chain.put(encode({"a": [7, leaf], "b": 1}))
    root = await chain.put(encode([middle]))
    for path in (f"{root}/0/a/1", f"/ipfs/{root}/0/a/1", f"/ipld/{middle}/a/1", f"{root}/0//a/./1", str(leaf)):
        answer = await call(dispatcher, "ChainGetNode", path)
        assert answer["result"] == {"Cid": link(leaf), "Obj": [{"/": {"bytes": "AQI"}}, "text", -5, None, True]}
    for path, text in (
        (f"{root}/0/b", "non-link found"), (f"{root}/0/z", "no such link"), (f"{root}/1", "out of range"),
        (f"{root}/x", "invalid syntax"), (f"{root}/0/b/c", "no such link"), ("", "invalid path"), ("/", "invalid path"),
        ("nocid/1", "invalid path"), ("/ipns2/x", "unknown namespace"), (f"{root}/0/@state", "not decoded"),
        (f"{cid_of(b'gone')}/1", "ipld: could not find"),
    ):  # fmt: skip
        answer = await call(dispatcher, "ChainGetNode", path)
        assert text in answer["error"]["message"], path
        assert answer["error"]["code"] == 1


async def test_entries_of_first_form_trees() -> None:
    chain, dispatcher = await node_chain()
    target = await chain.put(encode(["there"]))
    amt = await chain.amt([[1, b"x"], target, *([["far"]] * 70)])
    answer = await call(dispatcher, "ChainGetNode", f"{amt}/@A:1")
    assert answer["result"] == {"Cid": link(target), "Obj": ["there"]}
    answer = await call(dispatcher, "ChainGetNode", f"{amt}/@A:0")
    assert answer["result"]["Obj"] == [1, {"/": {"bytes": "eA"}}]
    assert parse(answer["result"]["Cid"]["/"])[:4] == b"\x01\x71\x12\x20"
    assert (await call(dispatcher, "ChainGetNode", f"{amt}/@A:71"))["result"]["Obj"] == ["far"]
    for index, text in (
        ("72", "not found"),
        ("9999999999", "not found"),
        ("-1", "invalid syntax"),
        ("x", "invalid syntax"),
    ):
        answer = await call(dispatcher, "ChainGetNode", f"{amt}/@A:{index}")
        assert text in answer["error"]["message"]
    # one bucket in a HAMT of the first form, whose pointers are maps
    import hashlib

    def place(key: bytes) -> int:
        return hashlib.sha256(key).digest()[0] >> 3

    for name, key in (("@H:key", b"key"), ("@Hi:-3", b"\x05"), ("@Hu:300", b"\xac\x02"), ("@Ha:t0100", b"\0\x64")):
        bits = (1 << place(key)).to_bytes(4, "big")
        hamt = await chain.put(encode([bits, [{"1": [[key, target]]}]]))
        found = await call(dispatcher, "ChainGetNode", f"{hamt}/{name}/")
        assert found["result"]["Cid"] == link(target), name
        missed = await call(dispatcher, "ChainGetNode", f"{hamt}/@H:other")
        assert "resolve hamt: not found" in missed["error"]["message"]
    new_form = await chain.put(encode([b"\1", [target]]))
    answer = await call(dispatcher, "ChainGetNode", f"{new_form}/@H:key")
    assert answer["error"]["message"] == ("resolving hamt link: failed to load hamt node: cbor input should be of map")
