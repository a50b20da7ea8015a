"""What a real node answered to `Chain*` calls, asked of our methods over the recorded chain."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

import rpc.methods.chain.chain
import rpc.methods.chain.notify  # noqa: F401  (declares)
from blockstore.cid import Cid, cid_of
from blockstore.cid import parse as parse_cid
from blockstore.memory import MemoryStore
from blockstore.open import open_store
from blockstore.store import Batch, HeadEntry, Store, TipsetRef
from chain.address import Address, parse
from chain.block import BlockHeader, decode_header
from chain.index.chain_index import HELD_ALL, ChainIndex, TipsetRow, index_rows
from chain.ipld.objects import Objects
from chain.network import load_network, network_of
from chain.tipset import Tipset, TipsetKey
from follower.commands.comparison import compare, judge, read_records
from follower.head import StoreHeads
from leader_bridge.imports.importer import import_car
from rpc.context import Context
from rpc.lookup.senders import id_of
from rpc.server.dispatch import Dispatcher
from rpc.server.server import serve
from rpc.services import Head, Services
from tests.support.recorded import recorded
from tests.support.wire_chain import read_car

#: the read-only methods that this family answers
PATHS = ("/rpc/v0", "/rpc/v1")
SERVED = re.compile(r"Filecoin\.Chain(?!TipSetWeight|GetNode|ValidateIndex|GetFinalizedTipSet|GetTipSetFinalityStatus)")


@dataclass
class FixedHead:
    """A head that stands still, as it did when the answers were recorded."""

    head: Head
    entries: list[HeadEntry] = field(default_factory=list)

    async def current(self) -> Head:
        return self.head

    async def subscribe(self, after: int | None = None) -> AsyncIterator[HeadEntry]:
        for entry in self.entries:
            if after is None or entry.seq > after:
                yield entry


async def services_of(folder: str, car: str = "chain.car.zst") -> Services:
    """Services over a recorded chain in memory, its head where the recording left it."""
    roots, objects = read_car(recorded(f"{folder}/{car}"))
    record = json.loads(recorded(f"{folder}/network.json").read_text())
    store = MemoryStore()
    await store.put_many([(cid.multihash, raw) for cid, raw in objects], closed=True)
    by_cid = dict(objects)

    def tipset(cids: tuple[Cid, ...]) -> Tipset:
        return Tipset.of([decode_header(cid, by_cid[cid]) for cid in cids])

    chain = [tipset(tuple(roots))]
    while chain[-1].height:
        chain.append(tipset(chain[-1].blocks[0].parents))
    row: TipsetRow | None = None
    for one in reversed(chain):
        batch = Batch()
        row = index_rows(batch, one, row, HELD_ALL)
        await store.write(batch)
    head = chain[0]
    network = network_of(record, chain[-1].blocks[0].cid)
    reader = Objects(store)
    entry = HeadEntry(1, 1, (), (TipsetRef(head.height, head.key),), TipsetRef(head.height, head.key))
    return Services(
        store=store,
        index=ChainIndex(store, reader, network),
        objects=reader,
        network=network,
        head_source=FixedHead(Head(1, entry, head)),
    )


async def imported(folder: str, store: Store, car: str = "chain.car.zst") -> Services:
    """Services over a store that an import has filled."""
    await import_car(store, recorded(f"{folder}/{car}"), network_file=recorded(f"{folder}/network.json"))
    network = await load_network(store)
    assert network is not None
    objects = Objects(store)
    index = ChainIndex(store, objects, network)
    return Services(store=store, index=index, objects=objects, network=network, head_source=StoreHeads(store, index))


@pytest.fixture(scope="module", params=["devnet", "upgrades"])
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def ask(dispatcher: Dispatcher, path: str, method: str, params: Any) -> Any:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    _, answer = await dispatcher.http(int(path[-1]), body)
    return orjson.loads(answer)


async def differences(dispatcher: Dispatcher, folder: str) -> list[str]:
    """Every answer that is not the recorded one, in words."""
    asked = 0
    wrong: list[str] = []
    for record in read_records(recorded(f"{folder}/rpc.jsonl.zst"), SERVED, PATHS):
        asked += 1
        why, _ = judge(record, await ask(dispatcher, record.path, record.method, record.params))
        if why is not None:
            wrong.append(f"{record.path} {record.method} {str(record.params)[:120]}: {why}")
    assert asked > 900
    return wrong


@pytest.mark.recorded
async def test_every_recorded_answer(folder: str) -> None:
    wrong = await differences(Dispatcher(await services_of(folder)), folder)
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.recorded
async def test_every_recorded_answer_after_an_import(folder: str, tmp_path: Path) -> None:
    store = await open_store(f"lmdb://{tmp_path}/store", map_size=1 << 30)
    try:
        dispatcher = Dispatcher(await imported(folder, store))
        wrong = await differences(dispatcher, folder)
    finally:
        await store.close()
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.recorded
async def test_recorded_error_texts(folder: str) -> None:
    dispatcher = Dispatcher(await services_of(folder))
    seen = 0
    for record in read_records(recorded(f"{folder}/rpc.jsonl.zst"), SERVED, PATHS):
        wanted = record.answer.get("error")
        if wanted is not None and wanted["code"] == 1:
            answer = await ask(dispatcher, record.path, record.method, record.params)
            assert answer["error"]["message"] == wanted["message"], record
            seen += 1
    assert seen >= 8


@pytest.mark.recorded
async def test_a_snapshot_has_no_receipts_and_says_so() -> None:
    services = await services_of("devnet", "snapshot.car.zst")
    dispatcher = Dispatcher(services)
    refused = answered = 0
    tipset: Tipset = (await services.head_source.current()).tipset
    while tipset.height:
        block: BlockHeader = tipset.blocks[0]
        answer = await ask(dispatcher, "/rpc/v1", "Filecoin.ChainGetParentReceipts", [{"/": str(block.cid)}])
        messages = await ask(dispatcher, "/rpc/v1", "Filecoin.ChainGetParentMessages", [{"/": str(block.cid)}])
        if "error" in answer:
            assert "not held: the receipts" in answer["error"]["message"]
            refused += 1
        else:
            # the root of no receipts at all is the root of no messages too, which every snapshot holds
            assert answer["result"] == []
            assert messages["result"] is None
            answered += 1
        tipset = await services.index.parent(tipset)
    assert refused > 100
    assert answered > 0


@pytest.mark.recorded
async def test_no_answer_changes_with_what_was_asked_before(folder: str) -> None:
    services = await services_of(folder)
    warm, cold = Dispatcher(services), Dispatcher(await services_of(folder))
    head = (await services.head_source.current()).tipset
    calls = [
        ("ChainHead", []),
        ("ChainGetTipSet", [[{"/": str(cid)} for cid in head.key.cids]]),
        ("ChainGetBlock", [{"/": str(head.blocks[0].cid)}]),
        ("ChainGetBlockMessages", [{"/": str(head.parents.cids[0])}]),
        ("ChainGetParentMessages", [{"/": str(head.blocks[0].cid)}]),
        ("ChainGetMessagesInTipset", [[{"/": str(cid)} for cid in head.parents.cids]]),
        ("ChainGetParentReceipts", [{"/": str(head.blocks[0].cid)}]),
    ]
    first = [await ask(warm, "/rpc/v1", "Filecoin." + name, params) for name, params in calls]
    again = [await ask(warm, "/rpc/v1", "Filecoin." + name, params) for name, params in calls]
    backwards = [await ask(cold, "/rpc/v1", "Filecoin." + name, params) for name, params in calls[::-1]][::-1]
    assert first == again == backwards


@pytest.mark.recorded
async def test_compare_over_http(folder: str) -> None:
    server = await serve(await services_of(folder), "127.0.0.1", 0)
    try:
        target = f"http://127.0.0.1:{server.port}"
        found = await compare(target, recorded(f"{folder}/rpc.jsonl.zst"), SERVED.pattern, paths=PATHS)
        unserved = await compare(target, recorded(f"{folder}/rpc.jsonl.zst"), "SyncIncomingBlocks|MpoolPending")
    finally:
        await server.stop(0)
    assert not found.differences, list(found.lines(20))
    assert found.total > 900
    assert found.whole_methods == len(found.tallies) >= 20
    assert unserved.equal == 0


@pytest.mark.recorded
async def test_senders_are_looked_up_in_the_state(folder: str) -> None:
    services = await services_of(folder)
    head = (await services.head_source.current()).tipset
    look_up = id_of(Context(services))
    found = 0
    for record in read_records(recorded(f"{folder}/rpc.jsonl.zst"), re.compile("StateLookupID$"), PATHS):
        address, key = record.params
        if "result" not in record.answer:
            continue
        tipset = head
        if key:
            tipset = await services.index.tipset(TipsetKey.of(parse_cid(link["/"]) for link in key))
        sender = await look_up(tipset.parent_state_root, parse(address))
        assert Address(sender).text() == record.answer["result"]
        found += 1
    assert found > 5


def test_read_car_gives_what_was_hashed() -> None:
    _, objects = read_car(recorded("devnet/chain.car.zst"))
    for cid, raw in objects[:500]:
        assert cid == cid_of(raw, cid.codec)
    assert TipsetKey.of([objects[0][0]]).cids == (objects[0][0],)
