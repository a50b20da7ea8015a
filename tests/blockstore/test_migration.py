"""A store of schema 1 on a real server: refused with the command named, copied by that command, and then as before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from blockstore.cassandra import schema
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.head import CassandraHeadLog
from blockstore.cassandra.migration import old_tables
from blockstore.cassandra.session import AcsyllaSession
from blockstore.cassandra.store import CassandraStore
from blockstore.cid import multihash_of
from blockstore.errors import Fenced, SchemaMismatch
from blockstore.head_log import encode_entry
from blockstore.open import SharedStoreOptions, open_store
from blockstore.store import COVERAGE, META, TIPSETS
from blockstore.store_clock import wall_ms
from follower.cli import main
from tests.blockstore.model.former_head_log import FormerHeadLog
from tests.blockstore.store_contract import entry
from tests.support.cassandra.stores import keyspace_url

KEYSPACE = "follower_former"
ROWS = [("tipsets", b"", b"k%d" % n, b"\0tipset %d" % n) for n in range(300)] + [
    ("coverage", b"", b"messages", b"\0[0, 3]"),
    ("meta", b"", b"network", b"\0devnet"),
    ("meta", b"", b"\0schema", b"\x001"),
]


@dataclass
class Former:
    """What the version before left: 3 entries, and a fourth that is only prepared where `prepared`."""

    url: str
    session: AcsyllaSession
    log: FormerHeadLog
    term: int


@pytest.fixture(params=[False, True], ids=["stamped", "prepared"])
async def former(request: pytest.FixtureRequest) -> AsyncIterator[Former]:
    url = keyspace_url(KEYSPACE)
    place = CassandraAddress.parse(url)
    plain = "(p blob, k blob, v blob, PRIMARY KEY (p, k))"
    schema.run(
        place,
        [
            f"DROP KEYSPACE IF EXISTS {KEYSPACE}",
            schema.keyspace_statement(KEYSPACE),
            *(f"CREATE TABLE {KEYSPACE}.{name} {plain}" for name in ("tipsets", "coverage", "meta", "messages")),
            f"CREATE TABLE {KEYSPACE}.objects (m blob PRIMARY KEY, d blob, c boolean)",
            f"CREATE TABLE {KEYSPACE}.head_log (p blob, seq bigint, entry blob, visible_at bigint, term bigint STATIC, "
            "last bigint STATIC, owner blob STATIC, renewals bigint STATIC, fence bigint STATIC, PRIMARY KEY (p, seq))",
        ],
    )
    session = await AcsyllaSession.open(place)
    log = FormerHeadLog(session, KEYSPACE, 50, 5)
    await log.make()
    await log.new_term("first")
    term = await log.new_term("one")
    for seq in (1, 2, 3):
        await log.append(entry(seq, term))
    if request.param:
        blob = encode_entry(entry(4, term))
        assert (await session.execute(log._prepare, [blob, -wall_ms(), 4, b"head", 4, term, 3]))[0][0]
    for table, partition, key, value in ROWS:
        cql = f"INSERT INTO {KEYSPACE}.{table} (p, k, v) VALUES (?, ?, ?) USING TIMESTAMP ?"
        await session.execute(cql, [b"p" + partition, key, value, log.fence])
    object_ = [multihash_of(b"an object"), b"\0an object"]
    await session.execute(f"INSERT INTO {KEYSPACE}.objects (m, d, c) VALUES (?, ?, true)", object_)
    yield Former(url, session, log, term)
    await session.close()


@pytest.mark.parametrize("may_create", [False, True])
async def test_it_is_refused_with_the_command_named(former: Former, may_create: bool) -> None:
    for readonly in (False, True):
        with pytest.raises(SchemaMismatch, match=r"follower schema --store cassandra://.* --apply"):
            await open_store(former.url, readonly=readonly, shared=SharedStoreOptions(may_create_tables=may_create))
    assert (await former.log.head()).seq == 3  # type: ignore[union-attr]


async def test_it_is_copied_by_the_command(former: Former, capsys: pytest.CaptureFixture[str]) -> None:
    # the fourth, where there is one, becomes visible by itself some time
    before = await former.log.entries(0, 3)
    prepared = (await former.log.tail()).prepared
    # twice: what broke off is begun again, and what is done is left alone
    for _ in range(2):
        await run("schema", "--store", former.url, "--apply")
    assert f"DROP TABLE {KEYSPACE}.head_log" in capsys.readouterr().out
    store = await CassandraStore.open(former.url, delta_ms=50, epsilon_ms=5, may_create_tables=False)
    try:
        assert await store.head_entries(0, 3) == before
        assert (await store.head_tail()).prepared == prepared
        for table, key, value in ((META, b"network", b"devnet"), (COVERAGE, b"messages", b"[0, 3]")):
            assert await store.row(table, b"", key) == value
        assert len(await store.scan(TIPSETS, b"")) == 300
        assert await store.get(multihash_of(b"an object")) == b"an object"
        # the former bridge has been fenced, and the next term goes on from what it left
        with pytest.raises(Fenced):
            await former.log.append(entry(5 if prepared else 4, former.term))
        term = await store.new_term("two")
        assert term > former.term
        last = 4 if prepared else 3
        await store.append_head(entry(last + 1, term))
        found = await store.head_entries(0)
        assert [one.seq for one in found] == list(range(1, last + 2))
        assert all(b.visible_at >= a.visible_at + 10 for a, b in pairwise(found))
        # without the tables that were copied it is the same
        schema.run(CassandraAddress.parse(former.url), old_tables(KEYSPACE))
        assert await store.head_entries(0) == found
    finally:
        await store.close()
    again = await CassandraStore.open(former.url, may_create_tables=False)
    assert isinstance(again._log, CassandraHeadLog)
    await again.close()


async def run(*arguments: str) -> None:
    """The command, which has an event loop of its own."""
    assert await asyncio.to_thread(main, list(arguments)) == 0
