"""Every statement that the store can send, held against a short list of shapes that each server takes.

The list is ours: what Cassandra, ScyllaDB and YugabyteDB (YCQL) do in the same way. A statement of another shape fails
here before it fails at somebody's server.
"""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from blockstore.cassandra import schema
from blockstore.cassandra.head import ENTRIES, HEAD, CassandraHeadLog
from blockstore.cassandra.probe import probe
from blockstore.cassandra.session import Forbidden, Session
from blockstore.cassandra.store import CassandraStore
from blockstore.cid import multihash_of
from blockstore.errors import Fenced
from blockstore.store import COVERAGE, EVENTS, FILTERS, FLEET, META, TABLES, TIPSETS, Batch, Held, Store
from leader_bridge.follow.lease import LeaseStore
from tests.blockstore.model.delayed_store import DelayedSession, Weather, store_over
from tests.blockstore.model.server import CASSANDRA, Server
from tests.blockstore.store_contract import entry
from tests.support.paths import ROOT

SOURCES = ROOT / "blockstore" / "cassandra"
#: one row, or the first of a key or a partition; a range in the order of the key; the clock
READS = (
    r"SELECT [\w, ]+ FROM T WHERE [pm] = \?( AND (k|seq) = \?)?( LIMIT \?)?",
    r"SELECT k, v FROM T WHERE p = \? AND k >= \?( AND k < \?)? ORDER BY k (ASC|DESC) LIMIT \?",
    r"SELECT seq, entry, visible_at FROM T WHERE p = \? AND seq > \? AND seq < \? ORDER BY seq ASC LIMIT \?",
    r"SELECT toUnixTimestamp\(now\(\)\) FROM system\.local",
)
#: whole rows; an object's flag; rows, the old end of a partition, partitions
WRITES = (
    r"INSERT INTO T \([\w, ]+\) VALUES \(((\?|true)(, )?)+\)",
    r"UPDATE T SET c = true WHERE m = \?",
    r"DELETE FROM T WHERE p = \?( AND k = \?| AND seq <= \?)?",
)
#: of one row that exists; what is compared is written too
COMPARES = (
    r"INSERT INTO T \([\w, ]+\) VALUES \((\?(, )?)+\) IF NOT EXISTS",
    r"UPDATE T SET (?P<sets>.+) WHERE p = \?( AND k = \?)? IF (?P<tests>.+)",
    r"DELETE FROM T WHERE p = \?( AND k = \?)? IF (v|term) = \?",
)
#: tables that have rows which are compared and set
COMPARED = {HEAD, FILTERS.name, FLEET.name}
FORBIDDEN = re.compile(
    r"\b(BATCH|TTL|TIMESTAMP|PER PARTITION|STATIC|CREATE INDEX|MATERIALIZED|FILTERING|TOKEN|CONTAINS)\b|\bIN [(?]",
    re.IGNORECASE,
)
#: words that YCQL does not take as names
RESERVED = frozenset(
    re.findall(
        r"\w+",
        """add allow alter and any apply asc authorize batch begin by columnfamily create default delete desc describe
        drop entries execute exists filtering from full grant if in index infinity insert into is json key keyspace
        keyspaces limit materialized modify nan norecursive not null of offset on or order partition password permission
        permissions primary rename replace revoke schema select set static storage superuser table timestamp to token
        transaction truncate ttl type unlogged update use user users using values view where with writetime""",
    )
)


class Recorder(Session):
    """A session that notes what is sent. Statements that hold `forbidden` are refused as a role's would be."""

    def __init__(self, session: DelayedSession, forbidden: str = "") -> None:
        self._session = session
        self._forbidden = forbidden
        self.unsettled = 0
        self.seen: set[str] = set()
        self.wall = session.wall

    async def execute(self, cql: str, values: Sequence[Any] = (), *, serial: bool = False) -> list[list[Any]]:
        self.seen.add(cql)
        if self._forbidden and self._forbidden in cql:
            raise Forbidden("not allowed")
        return await self._session.execute(cql, values, serial=serial)

    async def close(self) -> None:
        """Nothing to close."""


async def everything(store: CassandraStore, session: Recorder) -> None:
    """Call every method, in each of its ways."""
    await store._log.make()
    await store.swap(FILTERS, b"p", b"k", None, None)
    for before, after in ((None, b"1"), (b"1", b"2"), (b"2", None)):
        assert await store.swap(FILTERS, b"p", b"k", before, after)
    loose, closed = multihash_of(b"loose"), multihash_of(b"closed")
    await store.put_many([(loose, b"loose")], closed=False)
    await store.put_many([(closed, b"closed")], closed=True)
    await store.put_many([(multihash_of(b"%d" % n), b"%d" % n) for n in range(3)], closed=True)
    await store.put_closed([(closed, b"closed")])
    await store.mark_closed([closed])
    await store.close_many([loose])
    assert await store.held_many([loose, closed, b"none"]) == [Held.CLOSED, Held.CLOSED, Held.ABSENT]
    assert await store.get_many([loose, b"none"]) == [b"loose", None]
    big = bytes(range(256)) * 10
    for table in (EVENTS, META, TIPSETS, COVERAGE):
        await store.write(Batch([(table, b"p", b"k", big)]))
        assert await store.row(table, b"p", b"k") == big
        for end in (None, b"z"):
            for reverse in (False, True):
                assert await store.scan(table, b"p", end=end, reverse=reverse) == [(b"k", big)]
        await store.write(Batch([], [(table, b"p", b"k")]))
    await store.drop_partitions(COVERAGE, [b"p"])
    assert (await store.layout()).current == store.current_generation
    for is_closed in (False, True):
        await store.place(0).put_many([(closed, b"closed")], closed=is_closed)
    term = await store.new_term("one")
    for seq in range(1, 5):
        await store.append_head(entry(seq, term))
    await store.renew_lease(term, 2)
    assert (await store.lease()).renewals == 2
    assert await store.head_entries(1)
    assert (await store.head_tail(3)).entries
    with suppress(Fenced):
        await store.append_head(entry(9, term))
    await store.trim_head_log(1)
    await store.clock_ms()
    await store.stats()
    await probe(session, "ks")


@pytest.fixture(scope="module")
def statements() -> set[str]:
    """What is sent by a bridge, and by a follower whose role may not write objects."""
    bridge = Recorder(DelayedSession(Server(CASSANDRA), Weather(write_ms=0, slow_reads=0), 0))
    store = store_over(bridge, 20, 5)  # type: ignore[arg-type]

    async def run() -> set[str]:
        await everything(store, bridge)
        follower = Recorder(bridge._session, "INTO ks.objects")
        web = store_over(follower, 20, 5)  # type: ignore[arg-type]
        await web.put_many([(multihash_of(b"apart"), b"apart")], closed=False)
        assert await web.get(multihash_of(b"apart")) == b"apart"
        return bridge.seen | follower.seen

    with pytest.MonkeyPatch.context() as patched:
        # a log of several partitions
        patched.setattr("blockstore.cassandra.head.BUCKET", 2)
        sent = asyncio.run(run())
    # whatever either class has ready is sent somewhere above
    ready = [value for one in (store, store._log) for value in vars(one).values() if isinstance(value, str)]
    unsent = {cql for cql in ready if re.match("SELECT|INSERT|UPDATE|DELETE", cql)} - sent
    assert not unsent, f"the test does not send {unsent}"
    return sent


def shape_of(cql: str) -> tuple[str, str]:
    """(the statement with T for its table, the table)."""
    found = re.search(r"\bks\.(\w+)", cql)
    return re.sub(r"\bks\.\w+", "T", cql), found[1] if found else ""


def fault(cql: str) -> str:
    """What is wrong with a statement; "" for nothing."""
    if FORBIDDEN.search(cql):
        return "a word that we do not use"
    shape, table = shape_of(cql)
    if any(re.fullmatch(one, shape) for one in (*READS, *WRITES)):
        return ""
    found = next((found for one in COMPARES if (found := re.fullmatch(one, shape))), None)
    if found is None:
        return "a shape that is not listed"
    if table not in COMPARED:
        return "a condition on a table whose rows are not compared"
    if "tests" in found.groupdict():
        written = {one.split(" = ")[0] for one in found["sets"].split(", ")}
        compared = [re.fullmatch(r"(\w+) = (\?|0)", one) for one in found["tests"].split(" AND ")]
        if not all(one is not None and one[1] in written for one in compared):
            return "a condition on what is not written"
    return ""


def test_every_statement_has_a_listed_shape(statements: set[str]) -> None:
    assert len(statements) > 40
    assert {cql: fault(cql) for cql in statements if fault(cql)} == {}


def test_every_listed_shape_is_used(statements: set[str]) -> None:
    shapes = {shape_of(cql)[0] for cql in statements}
    for one in (*READS, *WRITES, *COMPARES):
        assert any(re.fullmatch(one, shape) for shape in shapes), one


@pytest.mark.parametrize(
    "cql",
    [
        "INSERT INTO ks.tipsets_by_term (p, k, v) VALUES (?, ?, ?) USING TIMESTAMP ?",
        "UPDATE ks.head_log SET entry = ?, last = ? WHERE p = ? AND seq = ? IF term = ? AND last = ?",
        "UPDATE ks.head SET last = ? WHERE p = ? IF term = ?",
        "UPDATE ks.objects SET d = ? WHERE m = ? IF c = ?",
        "SELECT v FROM ks.events WHERE p IN ?",
        "SELECT v FROM ks.events WHERE v = ? ALLOW FILTERING",
        "SELECT k, v FROM ks.events PER PARTITION LIMIT 1",
        "BEGIN BATCH INSERT INTO ks.events (p, k, v) VALUES (?, ?, ?) APPLY BATCH",
        "INSERT INTO ks.events (p, k, v) VALUES (?, ?, ?) USING TTL 5",
        "SELECT term FROM ks.head WHERE p = ? LIMIT 1",
    ],
)
def test_others_are_found(cql: str) -> None:
    assert fault(cql)


def test_the_tables_have_no_word_that_a_server_keeps_for_itself() -> None:
    rows = {schema.table_name(name) for name in TABLES if name != "head_log"}
    assert set(schema.tables()) == {HEAD, ENTRIES, "objects", "objects_1", "loose", *rows}
    for cql in schema.statements("ks", 3)[1:]:
        assert not FORBIDDEN.search(cql)
        table, columns, key = re.fullmatch(  # type: ignore[union-attr]
            r"CREATE TABLE IF NOT EXISTS ks\.(\w+) \((.*?)(, PRIMARY KEY \([\w, ]+\)|)\)"
            r"( WITH CLUSTERING ORDER BY \(k ASC, t DESC\))?",
            cql,
        ).group(1, 2, 3)
        names = [one.split()[0] for one in columns.split(", ")]
        assert not RESERVED & {table, *names}, cql
        assert {" ".join(one.split()[1:]) for one in columns.split(", ")} <= {
            "blob", "bigint", "boolean", "blob PRIMARY KEY",
        }  # fmt: skip
        assert key or "PRIMARY KEY" in columns


def test_no_source_holds_a_forbidden_word() -> None:
    """In texts, not in docstrings; `migration` reads what was made before."""
    looked_at = 0
    for path in sorted(SOURCES.glob("*.py")):
        for text in texts_of(path):
            if re.search(r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE)\b", text):
                looked_at += 1
                assert not FORBIDDEN.search(text), (path.name, text)
    assert looked_at > 30


def texts_of(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def test_the_calls_above_are_all_there_are() -> None:
    """A method that is new is called in `everything`, or named here."""
    source = Path(__file__).read_text()
    methods = {name for name in vars(CassandraStore) if not name.startswith("_")}
    methods |= {name for one in (Store, LeaseStore) for name in vars(one) if not name.startswith("_")}
    quiet = {"open", "close", "url", "publish_delay_ms", "epsilon_ms", "rows", "head", "looks", "current_generation"}
    # of whole tables: the contract tries them on a real server
    quiet |= {"generations", "make_generation", "drop_generation"}
    assert {name for name in methods - quiet if f".{name}(" not in source} == set()
    log = {name for name in vars(CassandraHeadLog) if not name.startswith("_")}
    assert log <= {
        "make", "new_term", "renew", "lease", "append", "publish_delay_ms", "tail", "head", "entries", "trim", "remove",
        "last",
    }  # fmt: skip
