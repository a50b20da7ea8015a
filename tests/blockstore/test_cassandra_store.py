"""The Cassandra store against the contract, on a real server; publishing when a step is lost or comes twice."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from blockstore.cassandra import schema as cassandra_schema
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.head import CHAIN, CassandraHeadLog
from blockstore.cassandra.schema import SCHEMA_VERSION
from blockstore.cassandra.session import AcsyllaSession, OutcomeUnknown, Session
from blockstore.cassandra.store import CassandraStore
from blockstore.cassandra.values import pack, unpack
from blockstore.cid import multihash_of
from blockstore.errors import Fenced, SchemaMismatch, StoreError, StoreUnavailable
from blockstore.generations import LASTING
from blockstore.head_log import encode_entry
from blockstore.store import META, RECORDED, REPORTS, Batch, Held, Store, Table
from tests.blockstore.generations_contract import GenerationsContract, drop_previous, named, next_generation
from tests.blockstore.store_contract import StoreContract, entry
from tests.support.cassandra.server import cassandra_hosts, copies

USED = (
    "objects", "head", "head_entries", "meta_by_term", "tipsets_by_term", "events", "messages", "filters",
)  # fmt: skip


def _url() -> str:
    return f"cassandra://{cassandra_hosts()}/follower_test"


async def _empty(tables: Sequence[str] = USED) -> CassandraStore:
    """The test keyspace, made if it is not there, with these tables empty."""
    store = await CassandraStore.open(_url(), delta_ms=200, epsilon_ms=50, replication=copies())
    place = CassandraAddress.parse(_url())
    cassandra_schema.run(place, [f"TRUNCATE {place.keyspace}.{name}" for name in tables])
    await store.close()
    return await CassandraStore.open(_url(), delta_ms=200, epsilon_ms=50)


@contextlib.asynccontextmanager
async def _made() -> AsyncIterator[Store]:
    store = await _empty(["messages", "coverage_by_term"])
    yield store
    await store.close()


@pytest.fixture
async def store() -> AsyncIterator[CassandraStore]:
    store = await _empty()
    yield store
    await store.close()


class TestCassandraStore(GenerationsContract, StoreContract):
    histories = 5

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        store = await _empty()
        yield store
        await store.close()

    @pytest.fixture
    def store_factory(self) -> Callable[[], object]:
        _url()
        return _made


class Flaky(Session):
    """A session that times out once at a statement holding `word`: before or after it is applied."""

    def __init__(self, session: Session, word: str, applied: bool) -> None:
        self.session, self.word, self.applied = session, word, applied
        self.hit = self.unsettled = 0

    async def execute(self, cql: str, values: Sequence[Any] = (), *, serial: bool = False) -> list[list[Any]]:
        if self.word in cql and " IF " in cql and not self.hit:
            self.hit = 1
            if self.applied:
                await self.session.execute(cql, values, serial=serial)
            raise OutcomeUnknown("timed out")
        return await self.session.execute(cql, values, serial=serial)

    async def close(self) -> None:
        await self.session.close()


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("word", ["owner = ?", "entry = ?, visible_at = ?", "last = ?, visible_at = ?"])
async def test_a_time_out_is_settled(store: CassandraStore, word: str, applied: bool) -> None:
    flaky = Flaky(await AcsyllaSession.open(CassandraAddress.parse(_url())), word, applied)
    log = CassandraHeadLog(flaky, CassandraAddress.parse(_url()).keyspace, 50, 5)
    term = await log.new_term("one")
    assert term == 1
    for seq in (1, 2):
        await log.append(entry(seq, term))
    assert flaky.hit
    entries = await store.head_entries(0)
    assert [e.seq for e in entries] == [1, 2]
    assert entries[1].visible_at >= entries[0].visible_at + 10
    await flaky.close()


async def test_a_new_term_stamps_what_an_older_one_left_prepared(store: CassandraStore) -> None:
    session = await AcsyllaSession.open(CassandraAddress.parse(_url()))
    clock = [1_000]
    log = CassandraHeadLog(session, CassandraAddress.parse(_url()).keyspace, 500, 50, now=lambda: clock[0])
    old = await log.new_term("old")
    await log.append(entry(1, old))
    row = await log._read()
    await log._write_entry(row)
    values = [old, 2, encode_entry(entry(2, old)), -1_000, 1500]
    assert await log._cas(log._prepare, [*values, CHAIN, old, 1, row.visible_at])
    tail = await store.head_tail()
    assert ([e.seq for e in tail.entries], tail.prepared) == ([1], True)
    new = await log.new_term("new")
    tail = await store.head_tail(2)
    assert ([(e.seq, e.visible_at) for e in tail.entries], tail.prepared) == ([(1, 1500), (2, 1600)], False)
    with pytest.raises(Fenced):
        await log.append(entry(3, old))
    await log.append(entry(3, new))
    with pytest.raises(Fenced):
        await log.renew(old, 1)
    await log.renew(new, 4)
    lease = await store.lease()
    assert (lease.term, lease.owner, lease.renewals) == (new, "new", 4)
    # the newest entry stands in the head row, those before it in the log
    logged = await log._range(0, 100, 100)
    assert [(e.seq, e.visible_at) for e in logged] == [(1, 1500), (2, 1600)]
    await session.close()


@pytest.mark.parametrize(("made_by", "word"), [(SCHEMA_VERSION + 1, "newer"), (SCHEMA_VERSION - 1, "older")])
async def test_other_schemas_are_refused(store: CassandraStore, made_by: int, word: str) -> None:
    await store.write(Batch([(META, b"", b"\0schema", b"%d" % made_by)]))
    with pytest.raises(SchemaMismatch, match=word):
        await CassandraStore.open(_url(), readonly=True)
    await store.write(Batch([(META, b"", b"\0schema", b"%d" % SCHEMA_VERSION)]))


async def test_readers_make_nothing_and_write_nothing(store: CassandraStore) -> None:
    with pytest.raises(StoreUnavailable, match="not been made"):
        await CassandraStore.open(f"cassandra://{cassandra_hosts()}/follower_none", readonly=True)
    reader = await CassandraStore.open(_url(), readonly=True)
    with pytest.raises(StoreUnavailable, match="read-only"):
        await reader.put_many([(b"x", b"y")], closed=False)
    await reader.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await reader.get(b"x")


async def test_a_store_without_generations_is_taken_over(store: CassandraStore) -> None:
    old, new = (multihash_of(b"old"), b"old"), (multihash_of(b"new"), b"new")
    await store.place(LASTING).put_many([old], closed=True)
    address = CassandraAddress.parse(_url())
    cassandra_schema.run(address, [f"DROP TABLE {address.keyspace}.objects_1"])
    await store.write(Batch([(META, b"", b"\0schema", b"2")]))
    with pytest.raises(SchemaMismatch, match="older"):
        await CassandraStore.open(_url(), readonly=True)
    writer = await CassandraStore.open(_url())
    await writer.put_many([new], closed=True)
    reader = await CassandraStore.open(_url(), readonly=True)
    assert await reader.get_many([old[0], new[0]]) == [b"old", b"new"]
    assert await writer.held_many([old[0], new[0]]) == [Held.CLOSED, Held.CLOSED]
    await writer.close()
    await reader.close()


@pytest.mark.parametrize("table", [REPORTS, RECORDED], ids=lambda table: table.name)
async def test_a_store_that_is_older_than_a_table_gets_it(store: CassandraStore, table: Table) -> None:
    address = CassandraAddress.parse(_url())
    cassandra_schema.run(address, [f"DROP TABLE {address.keyspace}.{table.name}"])
    # a reader can do without, and makes nothing
    reader = await CassandraStore.open(_url(), readonly=True)
    with pytest.raises(StoreUnavailable, match="has not been made yet"):
        await reader.row(table, b"p", b"k")
    writer = await CassandraStore.open(_url())
    await writer.write(Batch([(table, b"p", b"k", b"v")]))
    assert await writer.row(table, b"p", b"k") == b"v"
    await writer.close()
    await reader.close()


async def test_reads_under_way_at_once_notice_a_switch_and_a_drop(store: CassandraStore) -> None:
    if (await store.layout()).previous is not None:
        await drop_previous(store)
    lasting, new = ([named(f"{kind} {at}") for at in range(200)] for kind in ("lasting", "new"))
    await store.place(LASTING).put_many(lasting, closed=True)
    reader = await CassandraStore.open(_url(), readonly=True)
    assert None not in await reader.get_many([one[0] for one in lasting])
    # the reader has just read the layout, and it changes
    await next_generation(store)
    await store.put_many(new, closed=True)
    assert None not in await reader.get_many([one[0] for one in new])
    await drop_previous(store)
    assert None not in await reader.get_many([one[0] for one in lasting + new])
    await reader.close()


def test_values_are_packed_where_it_gains() -> None:
    for data in (b"", b"a" * 10, b"a" * 5000, bytes(range(256)) * 2):
        assert unpack(pack(data)) == data
    assert len(pack(b"a" * 5000)) < 100
    assert pack(bytes(range(256))) == b"\0" + bytes(range(256))


def test_places() -> None:
    place = CassandraAddress.parse("cassandra://me:p%40ss@a,b:19042/ks")
    assert (place.hosts, place.port, place.keyspace) == (("a", "b"), 19042, "ks")
    assert (place.user, place.password) == ("me", "p@ss")
    assert place.url == "cassandra://a,b:19042/ks"
    for wrong in ("cassandra://a", "cassandra://a/KS", "cassandra:///ks", "cassandra://me@a/ks", "cassandra://,/ks"):
        with pytest.raises(StoreError):
            CassandraAddress.parse(wrong)
    with pytest.raises(StoreError) as told:
        CassandraAddress.parse("cassandra://me:secret@a/B")
    assert "secret" not in str(told.value)
