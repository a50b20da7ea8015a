"""A shared store whose writes take effect late, in any order, or not at all.

`Server` holds what a cluster has acknowledged; `DelayedSession` stands where the driver stands, under the real
`CassandraStore`. A write is visible and durable when it is acknowledged, not before: each after a delay of its own.
Some fail (never applied), some time out (applied later, or never), some reads fail. Cells keep the newest write by
the time at which it was sent, as Cassandra's do.
"""

from __future__ import annotations

import asyncio
import random
import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.head import CassandraHeadLog
from blockstore.cassandra.session import OutcomeUnknown
from blockstore.cassandra.store import CassandraStore
from blockstore.errors import StoreUnavailable
from blockstore.store import META, SCHEMA_VERSION, Batch
from tests.support.virtual_time import virtual_ms

WALL_AT_START = 1_700_000_000_000
STATIC = ("term", "last", "owner", "renewals", "fence")


@dataclass(frozen=True, slots=True)
class Statement:
    """A parsed statement: `?` are None. `where` is (column, operator)."""

    verb: str
    table: str
    columns: tuple[str, ...]
    literals: tuple[Any, ...]
    where: tuple[tuple[str, str], ...]
    conditions: tuple[tuple[str, Any], ...]
    descending: bool
    limited: bool
    one: bool
    not_exists: bool
    timed: bool = False

    @property
    def conditional(self) -> bool:
        return bool(self.conditions) or self.not_exists


def _value(text: str) -> Any:
    text = text.strip()
    return None if text == "?" else True if text == "true" else int(text)


@lru_cache(maxsize=256)
def parse(cql: str) -> Statement:
    """The statements that `CassandraStore` and `CassandraHeadLog` use, and no others. Errors: AssertionError."""
    timed = " USING TIMESTAMP ?" in cql
    rest, _, conditions = cql.replace(" USING TIMESTAMP ?", "").partition(" IF ")
    not_exists = conditions == "NOT EXISTS"
    pairs = [] if not_exists or not conditions else [one.split(" = ") for one in conditions.split(" AND ")]
    checks = tuple((name, _value(value)) for name, value in pairs)
    if found := re.fullmatch(r"INSERT INTO \w+\.(\w+) \(([^)]*)\) VALUES \(([^)]*)\)", rest):
        columns = tuple(found[2].split(", "))
        literals = tuple(_value(one) for one in found[3].split(","))
        return Statement("write", found[1], columns, literals, (), (), False, False, False, not_exists, timed)
    if found := re.fullmatch(r"UPDATE \w+\.(\w+) SET (.*) WHERE (.*)", rest):
        sets = [one.split(" = ") for one in found[2].split(", ")]
        where = tuple((one.split(" ")[0], "=") for one in found[3].split(" AND "))
        columns = tuple(name for name, _ in sets)
        literals = tuple(_value(value) for _, value in sets)
        return Statement("write", found[1], columns, literals, where, checks, False, False, False, False)
    if found := re.fullmatch(r"DELETE FROM \w+\.(\w+) WHERE (.*)", rest):
        where = tuple((one.split(" ")[0], one.split(" ")[1]) for one in found[2].split(" AND "))
        return Statement("delete", found[1], (), (), where, (), False, False, False, False, timed)
    found = re.fullmatch(
        r"SELECT (.*) FROM \w+\.(\w+) WHERE (.*?)(?: ORDER BY \w+ (ASC|DESC))?(?: LIMIT (\?|1))?", rest
    )
    assert found is not None, f"not understood: {cql}"
    where = tuple((one.split(" ")[0], one.split(" ")[1]) for one in found[3].split(" AND "))
    columns = tuple(found[1].split(", "))
    return Statement(
        "read", found[2], columns, (), where, (), found[4] == "DESC", found[5] == "?", found[5] == "1", False
    )


Cells = dict[str, tuple[int, Any]]


@dataclass(slots=True)
class _Partition:
    """`keys` are those of `rows` in order; a row that was deleted stays, marked."""

    static: Cells = field(default_factory=dict)
    rows: dict[Any, Cells] = field(default_factory=dict)
    keys: list[Any] = field(default_factory=list)

    def row(self, key: Any) -> Cells:
        found = self.rows.get(key)
        if found is None:
            found = self.rows[key] = {}
            insort(self.keys, key)
        return found

    def within(self, tests: list[tuple[str, Any]], descending: bool, limit: int) -> list[Any]:
        """Keys of living rows that pass, in order, at most `limit`."""
        low, high = 0, len(self.keys)
        for operator, value in tests:
            if operator in ("=", ">=", ">"):
                low = max(low, (bisect_right if operator == ">" else bisect_left)(self.keys, value))
            if operator in ("=", "<", "<="):
                high = min(high, (bisect_left if operator == "<" else bisect_right)(self.keys, value))
        found = []
        for at in range(high - 1, low - 1, -1) if descending else range(low, high):
            if len(found) == limit:
                break
            if _alive(self.rows[self.keys[at]]):
                found.append(self.keys[at])
        return found


def _key_column(table: str) -> str:
    return {"objects": "", "head_log": "seq"}.get(table, "k")


class Server:
    """What is acknowledged. `sent` numbers writes as they are sent."""

    def __init__(self) -> None:
        self.sent = 0
        self._tables: dict[str, dict[bytes, _Partition]] = {}

    def stamp(self) -> int:
        """The write time of a statement that is sent now."""
        self.sent += 1
        return self.sent

    def apply(self, statement: Statement, values: Sequence[Any], sent: int) -> list[list[Any]]:
        """Do it now, at once: reads and writes are linear in the order of these calls."""
        left = list(values)
        if statement.timed:
            # first in a DELETE, last in an INSERT
            sent = left.pop(0 if statement.verb == "delete" else -1)
        return {"read": self._read, "write": self._write, "delete": self._delete}[statement.verb](statement, left, sent)

    def _partition(self, table: str, key: bytes) -> _Partition:
        return self._tables.setdefault(table, {}).setdefault(key, _Partition())

    def _write(self, s: Statement, values: list[Any], sent: int) -> list[list[Any]]:
        cells = {name: values.pop(0) if lit is None else lit for name, lit in zip(s.columns, s.literals, strict=True)}
        cells |= {name: values.pop(0) for name, _ in s.where}
        partition = self._partition(s.table, cells.pop("m" if s.table == "objects" else "p"))
        key = cells.pop(_key_column(s.table), None)
        row = None if s.table == "head_log" and key is None else partition.rows.get(key)
        if s.not_exists and partition.static:
            return [[False]]
        for name, literal in s.conditions:
            wanted = values.pop(0) if literal is None else literal
            held = partition.static if name in STATIC else row or {}
            if held.get(name, (0, None))[1] != wanted:
                return [[False]]
        if s.conditional:
            sent = self.stamp()  # what is compared is written in the order in which it is decided
        for name, value in cells.items():
            target = partition.static if name in STATIC else partition.row(key)
            if target.get(name, (-1, None))[0] < sent:
                target[name] = (sent, value)
        return [[True]] if s.conditional else []

    def _delete(self, s: Statement, values: list[Any], sent: int) -> list[list[Any]]:
        partition = self._partition(s.table, values[0])
        for key in partition.within([(s.where[1][1], values[1])], False, 1 << 60):
            row = partition.rows[key]
            row["deleted"] = max(row.get("deleted", (-1, True)), (sent, True))
        return []

    def _read(self, s: Statement, values: list[Any], _sent: int) -> list[list[Any]]:
        partition = self._tables.get(s.table, {}).get(values[0])
        if partition is None:
            return []
        if s.one:
            return [[partition.static.get(name, (0, None))[1] for name in s.columns]]
        tests = [(op, value) for (_, op), value in zip(s.where[1:], values[1:], strict=False)]
        keys = partition.within(tests, s.descending, values[-1] if s.limited else 1 << 60)
        if not keys and s.table == "head_log" and not tests:
            return [[None for _ in s.columns]]
        name = _key_column(s.table)
        return [
            [key if col == name else values[0] if col == "m" else partition.rows[key].get(col, (0, None))[1]
             for col in s.columns]
            for key in keys
        ]  # fmt: skip


def _alive(row: Cells) -> bool:
    gone = row.get("deleted", (-1, None))[0]
    return any(sent > gone for name, (sent, _) in row.items() if name != "deleted")


@dataclass(slots=True)
class Weather:
    """How one session fares. Milliseconds and chances; `breaks(cql)` True: this statement fails now."""

    write_ms: int = 500
    read_ms: int = 50
    slow_reads: float = 0.1
    fail: float = 0.0
    time_out: float = 0.0
    fail_reads: float = 0.0
    breaks: Callable[[str], bool] = lambda _: False


class DelayedSession:
    """A `Session` over a `Server`. Its clock is the running loop's."""

    def __init__(self, server: Server, weather: Weather, seed: int, clock_ahead: int = 0) -> None:
        self.server = server
        self.weather = weather
        self.clock_ahead = clock_ahead
        self.failed = 0
        self._rng = random.Random(seed)
        self._late: set[asyncio.Task[None]] = set()

    def wall(self) -> int:
        """This machine's clock, milliseconds."""
        return WALL_AT_START + virtual_ms() + self.clock_ahead

    async def execute(self, cql: str, values: Sequence[Any] = (), *, serial: bool = False) -> list[list[Any]]:
        if "toUnixTimestamp" in cql:
            return [[WALL_AT_START + virtual_ms()]]
        statement, w, rng = parse(cql), self.weather, self._rng
        if statement.verb == "read":
            if rng.random() < w.slow_reads:
                await asyncio.sleep(rng.random() * w.read_ms / 1000)
            if w.breaks(cql) or rng.random() < w.fail_reads:
                self.failed += 1
                raise StoreUnavailable("a read fails")
            return self.server.apply(statement, values, 0)
        sent = self.server.stamp()
        fate = rng.random()
        await asyncio.sleep(rng.random() * w.write_ms / 1000)
        if w.breaks(cql) or fate < w.fail:
            self.failed += 1
            raise StoreUnavailable("a write fails")
        if fate < w.fail + w.time_out:
            self.failed += 1
            if rng.random() < 0.5:
                task = asyncio.create_task(self._apply_late(statement, list(values), sent))
                self._late.add(task)
                task.add_done_callback(self._late.discard)
            raise OutcomeUnknown("a write times out")
        return self.server.apply(statement, values, sent)

    async def _apply_late(self, statement: Statement, values: list[Any], sent: int) -> None:
        await asyncio.sleep(self._rng.random() * self.weather.write_ms / 1000)
        self.server.apply(statement, values, sent)

    async def close(self) -> None:
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)


def store_over(
    session: DelayedSession, delta_ms: int, epsilon_ms: int, kind: type[CassandraStore] = CassandraStore
) -> CassandraStore:
    """The real store over such a session."""
    place = CassandraAddress.parse("cassandra://delayed/ks")
    return kind(session, place, CassandraHeadLog(session, "ks", delta_ms, epsilon_ms, session.wall), readonly=False)


async def made(server: Server, delta_ms: int, epsilon_ms: int) -> None:
    """What a first writer writes."""
    session = DelayedSession(server, Weather(write_ms=0), 0)
    store = store_over(session, delta_ms, epsilon_ms)
    await store._log.make()
    batch = Batch()
    batch.put(META, b"", b"\0schema", b"%d" % SCHEMA_VERSION)
    await store.write(batch)
