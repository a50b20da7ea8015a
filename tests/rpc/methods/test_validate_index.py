"""`ChainValidateIndex`: right on the recorded chain, and a row that lacks or lies is found out in Lotus' words."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
import pytest_asyncio

from blockstore.memory import MemoryStore
from blockstore.store import COVERAGE, EVENTS, HEIGHTS, MESSAGES, TIPSETS, Batch, Store, Table
from chain.index.chain_index import ChainIndex, height_row
from chain.index.event_rows import IndexedEvent, at_key, chunk_row, decode_group, mark_partition, put_events
from chain.state.tipset_events import TipsetEvent
from chain.tipset import Tipset
from chain.tipset_messages import load_message_cids
from follower.commands.comparison import Record, read_records
from leader_bridge.imports.importer import import_car
from rpc.context import Context
from rpc.methods import register_all
from rpc.permissions import ALL_PERMISSIONS, DEFAULT_PERMISSIONS
from rpc.server.dispatch import Dispatcher
from rpc.services import Services
from tests.support.recorded import recorded
from tests.support.served import services_over

pytestmark = [pytest.mark.recorded, pytest.mark.asyncio(loop_scope="module")]

VALIDATE = re.compile("ChainValidateIndex")


def _records(folder: str) -> list[Record]:
    return list(read_records(recorded(f"{folder}/rpc.jsonl.zst"), VALIDATE))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store() -> AsyncIterator[Store]:
    register_all()
    made = MemoryStore()
    await import_car(made, recorded("devnet/chain.car.zst"), network_file=recorded("devnet/network.json"))
    yield made


async def _validate(store: Store, epoch: int, backfill: bool = False, allowed: frozenset[str] = ALL_PERMISSIONS) -> Any:
    services = await services_over(store)
    ctx = Context(services, permissions=allowed)
    body = {"jsonrpc": "2.0", "id": 1, "method": "Filecoin.ChainValidateIndex", "params": [epoch, backfill]}
    return orjson.loads((await Dispatcher(services).http(1, orjson.dumps(body), ctx))[1])


async def test_recorded_validations_are_equal_backfill_or_not(store: Store) -> None:
    records = _records("devnet")
    assert len(records) == 9
    assert sum(record.answer["result"]["IndexedEventsCount"] for record in records) > 0
    for record in records:
        epoch = record.params[0]
        for backfill in (False, True):
            assert (await _validate(store, epoch, backfill))["result"] == record.answer["result"]


async def test_a_null_round_holds_nothing(store: Store) -> None:
    services = await services_over(store)
    head = (await services.head_source.current()).tipset
    held = {tipset.height async for tipset in _down(services.index, head)}
    epoch = next(epoch for epoch in range(head.height) if epoch not in held)
    assert (await _validate(store, epoch))["result"] == {
        "TipSetKey": [],
        "Height": epoch,
        "IndexedMessagesCount": 0,
        "IndexedEventsCount": 0,
        "IndexedEventEntriesCount": 0,
        "Backfilled": False,
        "IsNullRound": True,
    }


async def _down(index: ChainIndex, tipset: Tipset) -> AsyncIterator[Tipset]:
    while True:
        yield tipset
        if tipset.height == 0:
            return
        tipset = await index.parent(tipset)


async def test_only_below_the_head(store: Store) -> None:
    head = await store.head()
    assert head is not None
    height = head.head.height
    for epoch in (height, height + 7):
        assert (await _validate(store, epoch))["error"]["message"] == (
            f"cannot validate index at epoch {epoch}, can only validate at an epoch less than chain head epoch {height}"
        )
    assert (await _validate(store, -1))["error"]["message"].startswith("failed to get tipset at height -1")


async def test_backfill_wants_the_permission_that_a_node_wants(store: Store) -> None:
    epoch = _records("devnet")[0].params[0]
    refused = await _validate(store, epoch, True, DEFAULT_PERMISSIONS)
    assert refused["error"]["message"] == "missing permission to invoke 'ChainValidateIndex' (need 'write')"
    assert "result" in await _validate(store, epoch, False, DEFAULT_PERMISSIONS)


class Rows:
    """The rows of one recorded tipset with events, to be spoilt one at a time."""

    def __init__(self, services: Services, tipset: Tipset, messages: list[bytes]) -> None:
        self.store = services.store
        self.tipset = tipset
        digest = tipset.key.block_hash
        partition, prefix = height_row(tipset.height)
        self.height = (HEIGHTS, partition, prefix + tipset.key.cid)
        self.own = (TIPSETS, bytes(tipset.key.cid), b"")
        self.message = (MESSAGES, messages[0], tipset.height.to_bytes(8, "big") + tipset.key.cid)
        self.mark = (COVERAGE, mark_partition(tipset.height), at_key(tipset.height, digest))
        self.chunk = (EVENTS, *chunk_row(tipset.height, digest, 0))
        self.digest = digest

    async def spoilt(self, row: tuple[Table, bytes, bytes], value: bytes | None, backfill: bool = False) -> str:
        """What is said while a row is missing (None) or another."""
        before = await self.store.row(*row)
        assert before is not None
        await self._put(row, value)
        try:
            answer = await _validate(self.store, self.tipset.height, backfill)
        finally:
            await self._put(row, before)
        return str(answer["error"]["message"])

    async def _put(self, row: tuple[Table, bytes, bytes], value: bytes | None) -> None:
        batch = Batch()
        if value is None:
            batch.delete(*row)
        else:
            batch.put(*row, value)
        await self.store.write(batch)

    async def events(self) -> list[IndexedEvent]:
        chunk = await self.store.row(*self.chunk)
        assert chunk is not None
        return [event for place in range(chunk[0]) for event in decode_group(chunk, place)]

    def chunk_of(self, events: list[IndexedEvent]) -> bytes:
        batch = Batch()
        put_events(batch, self.tipset.height, self.digest, events)
        return next(value for table, _, _, value in batch.puts if table is EVENTS)


@pytest_asyncio.fixture(loop_scope="module")
async def rows(store: Store) -> Rows:
    services = await services_over(store)
    head = (await services.head_source.current()).tipset
    epoch = next(one.params[0] for one in _records("devnet") if one.answer["result"]["IndexedEventsCount"])
    tipset = await services.index.at_height(head, epoch)
    cids = [await load_message_cids(services.objects, block.messages) for block in tipset.blocks]
    return Rows(services, tipset, [bytes(cid) for some in cids for kind in some for cid in kind])


async def test_a_missing_tipset_row(rows: Rows) -> None:
    said = f"missing tipset at height {rows.tipset.height} in the chain index, set backfill flag to true to fix"
    assert await rows.spoilt(rows.height, None) == said
    assert await rows.spoilt(rows.height, b"another") == said
    assert (await rows.spoilt(rows.height, None, backfill=True)).startswith(f"{said}; a follower cannot backfill")


async def test_a_missing_message_row(rows: Rows) -> None:
    epoch = rows.tipset.height
    assert re.fullmatch(
        rf"failed to verify indexed data at height {epoch}: message count mismatch for height {epoch}: "
        r"chainstore has (\d+), index has \d+",
        await rows.spoilt(rows.message, None),
    )


async def test_missing_events(rows: Rows) -> None:
    epoch, events = rows.tipset.height, len(await rows.events())
    for row in (rows.mark, rows.chunk):
        assert await rows.spoilt(row, None) == (
            f"failed to verify indexed data at height {epoch}: event count mismatch for height {epoch}: "
            f"chainstore has {events}, index has 0"
        )
    assert "index corruption" in await rows.spoilt(rows.mark, b"\x00")
    assert "index corruption" in await rows.spoilt(rows.chunk, b"\x01\x00\x00\x00\x01\x00")


def _changed(events: list[IndexedEvent]) -> Iterator[list[IndexedEvent]]:
    first, rest = events[0], events[1:]
    event: TipsetEvent = first.event
    entry = event.entries[0]
    for other in (replace(entry, value=entry.value + b"x"), replace(entry, flags=entry.flags ^ 1)):
        yield [replace(first, event=replace(event, entries=(other, *event.entries[1:]))), *rest]
    yield [replace(first, event=replace(event, emitter=event.emitter + 1)), *rest]


async def test_events_that_are_not_the_receipts(rows: Rows) -> None:
    for events in _changed(await rows.events()):
        said = await rows.spoilt(rows.chunk, rows.chunk_of(events))
        assert "index corruption: events AMT root mismatch for message bafy" in said
        assert re.search(r"Index root: bafy\w+, Receipt root: bafy\w+$", said)
