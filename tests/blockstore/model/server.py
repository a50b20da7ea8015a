"""A model of the servers that speak CQL: what they do with the statements of our stores, by the rules of each.

`CASSANDRA`: a condition on an absent row sees its static columns. A compare-and-set that timed out is settled by the
next SERIAL read or compare-and-set of its partition: it was applied before that, or never will be.

`YCQL` (YugabyteDB): a statement that writes regular columns builds the row's key; where the row is absent its static
columns are cleared before the condition is tested, so no condition holds. A write that timed out may land after any
later read, and what lands last counts. Time-outs are told as invalid queries.

`SCYLLADB`, with limits as strict as it can be set to: cells of at most 1 MiB, a number of rows of a partition (those
that were deleted count until they are purged), no write times that lie far ahead.

Statements of the design before are understood too: `tests.blockstore.model.former_head_log`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from blockstore.cassandra import servers
from blockstore.cassandra.servers import Server as Kind
from blockstore.cassandra.session import error_of
from blockstore.errors import StoreError
from tests.support.virtual_time import virtual_ms

WALL_AT_START = 1_700_000_000_000
#: columns of the former log's partition
STATIC = ("term", "last", "owner", "renewals", "fence")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a server does. `timed_out` and `failed`: (code, text) of a write that is not answered, or was not done."""

    kind: Kind
    absent_row_hides_statics: bool = False
    #: a compare-and-set that timed out is settled by the next SERIAL read or compare-and-set of its partition
    serial_settles: bool = True
    #: of two writes of a cell the one that was sent last counts, not the one that arrives last
    orders_by_write_time: bool = True
    #: how long after its time-out a write may still land, milliseconds
    lands_within_ms: int = 500
    timed_out: tuple[tuple[int, str], ...] = ((servers.WRITE_TIMEOUT, "Operation timed out - received 1 response"),)
    failed: tuple[int, str] = (servers.UNAVAILABLE, "Cannot achieve consistency level QUORUM")
    most_cell_bytes: int = 1 << 60
    most_rows: int = 1 << 60


CASSANDRA = Rules(Kind.CASSANDRA)
YCQL = Rules(
    Kind.YUGABYTEDB,
    absent_row_hides_statics=True,
    serial_settles=False,
    orders_by_write_time=False,
    lands_within_ms=20_000,
    timed_out=(
        (servers.INVALID, "Execution Error. Write(tablet: 1c, num_ops: 1) timed out after 2.5s"),
        (servers.INVALID, "Query failed to execute due to stale metadata cache"),
        (servers.INVALID, "Wrong Metadata Version. Schema version mismatch"),
        (servers.SERVER_ERROR, "Timed out: UpdateConsensus RPC timed out"),
    ),
    failed=(servers.SERVER_ERROR, "Service unavailable: Tablet leader not found"),
)
SCYLLADB = Rules(
    Kind.SCYLLADB,
    timed_out=((servers.WRITE_TIMEOUT, "Operation timed out for ks.head - received only 0 responses from 1"),),
    most_cell_bytes=1 << 20,
    most_rows=5_000,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A parsed statement: `?` are None. `where` is (column, operator)."""

    verb: str
    table: str
    columns: tuple[str, ...]
    literals: tuple[Any, ...] = ()
    where: tuple[tuple[str, str], ...] = ()
    conditions: tuple[tuple[str, Any], ...] = ()
    descending: bool = False
    limited: bool = False
    one: bool = False
    not_exists: bool = False
    timed: bool = False

    @property
    def conditional(self) -> bool:
        return bool(self.conditions) or self.not_exists

    @property
    def partition(self) -> str:
        return "m" if self.table in ("objects", "objects_1", "loose") else "p"


#: columns of the key of a row within its partition; `t` falls
_KEYS: dict[str, tuple[str, ...]] = {
    "objects": (), "objects_1": (), "loose": (), "head": (), "head_log": ("seq",), "head_entries": ("seq",),
    "tipsets_by_term": ("k", "t"), "coverage_by_term": ("k", "t"), "meta_by_term": ("k", "t"),
}  # fmt: skip


def _keys(table: str) -> tuple[str, ...]:
    return _KEYS.get(table, ("k",))


def _value(text: str) -> Any:
    text = text.strip()
    return None if text == "?" else True if text == "true" else int(text)


def _tests(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((one.split(" ")[0], one.split(" ")[1]) for one in text.split(" AND "))


@lru_cache(maxsize=256)
def parse(cql: str) -> Statement:
    """The statements that our stores use, and no others. Errors: AssertionError."""
    timed = " USING TIMESTAMP ?" in cql
    rest, _, conditions = cql.replace(" USING TIMESTAMP ?", "").partition(" IF ")
    not_exists = conditions == "NOT EXISTS"
    pairs = [] if not_exists or not conditions else [one.split(" = ") for one in conditions.split(" AND ")]
    checks = tuple((name, _value(value)) for name, value in pairs)
    if found := re.fullmatch(r"INSERT INTO \w+\.(\w+) \(([^)]*)\) VALUES \(([^)]*)\)", rest):
        columns = tuple(found[2].split(", "))
        literals = tuple(_value(one) for one in found[3].split(","))
        return Statement("write", found[1], columns, literals, not_exists=not_exists, timed=timed)
    if found := re.fullmatch(r"UPDATE \w+\.(\w+) SET (.*) WHERE (.*)", rest):
        sets = [one.split(" = ") for one in found[2].split(", ")]
        literals = tuple(_value(value) for _, value in sets)
        return Statement("write", found[1], tuple(name for name, _ in sets), literals, _tests(found[3]), checks)
    if found := re.fullmatch(r"DELETE FROM \w+\.(\w+) WHERE (.*)", rest):
        return Statement("delete", found[1], (), (), _tests(found[2]), checks, timed=timed)
    found = re.fullmatch(
        r"SELECT (.*) FROM \w+\.(\w+) WHERE (.*?)(?: ORDER BY \w+ (ASC|DESC))?(?: LIMIT (\?|1))?", rest
    )
    assert found is not None, f"not understood: {cql}"
    return Statement(
        "read", found[2], tuple(found[1].split(", ")), where=_tests(found[3]), descending=found[4] == "DESC",
        limited=found[5] == "?", one=found[5] == "1",
    )  # fmt: skip


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
        """Keys of living rows whose first column passes, in order, at most `limit`."""
        low, high = 0, len(self.keys)

        def first(key: Any) -> Any:
            return key[0]

        for operator, value in tests:
            if operator in ("=", ">=", ">"):
                low = max(low, (bisect_right if operator == ">" else bisect_left)(self.keys, value, key=first))
            if operator in ("=", "<", "<="):
                high = min(high, (bisect_left if operator == "<" else bisect_right)(self.keys, value, key=first))
        found = []
        for at in range(high - 1, low - 1, -1) if descending else range(low, high):
            if len(found) == limit:
                break
            if _alive(self.rows[self.keys[at]]):
                found.append(self.keys[at])
        return found


@dataclass(slots=True)
class _Late:
    """A write that timed out and may still land."""

    statement: Statement
    values: list[Any]
    sent: int
    lands: bool
    done: bool = False


class Server:
    """What is acknowledged. `sent` numbers writes as they are sent."""

    def __init__(self, rules: Rules = CASSANDRA) -> None:
        self.rules = rules
        self.sent = 0
        self._tables: dict[str, dict[bytes, _Partition]] = {}
        self._late: dict[tuple[str, bytes], list[_Late]] = {}

    def stamp(self) -> int:
        """The write time of a statement that is sent now."""
        self.sent += 1
        return self.sent

    def error(self, code: int, text: str, *, conditional: bool) -> StoreError:
        """As the session raises what this server told."""
        return error_of(self.rules.kind, code, text, "cassandra://model/ks", conditional=conditional)

    def apply(self, statement: Statement, values: Sequence[Any], sent: int, *, serial: bool = False) -> list[list[Any]]:
        """Do it now, at once: reads and writes are linear in the order of these calls."""
        left = list(values)
        if statement.timed:
            # first in a DELETE, last in an INSERT
            sent = left.pop(0 if statement.verb == "delete" else -1)
        if self.rules.serial_settles and (serial or statement.conditional):
            self._settle(statement, left)
        return {"read": self._read, "write": self._write, "delete": self._delete}[statement.verb](statement, left, sent)

    # --- writes that timed out ---------------------------------------------------------------------

    def later(self, statement: Statement, values: list[Any], sent: int, *, lands: bool) -> _Late:
        """A write that timed out. `land` it, unless it is settled before."""
        late = _Late(statement, values, sent, lands)
        if statement.conditional:
            self._late.setdefault((statement.table, _partition_key(statement, values)), []).append(late)
        return late

    def land(self, late: _Late) -> None:
        """Now, if it lands at all."""
        if not late.done:
            late.done = True
            if late.lands:
                self.apply(late.statement, late.values, late.sent)

    def _settle(self, statement: Statement, values: list[Any]) -> None:
        for late in self._late.pop((statement.table, _partition_key(statement, values)), ()):
            self.land(late)

    # --- statements --------------------------------------------------------------------------------

    def _partition(self, table: str, key: bytes) -> _Partition:
        return self._tables.setdefault(table, {}).setdefault(key, _Partition())

    def _write(self, s: Statement, values: list[Any], sent: int) -> list[list[Any]]:
        cells = {name: values.pop(0) if lit is None else lit for name, lit in zip(s.columns, s.literals, strict=True)}
        cells |= {name: values.pop(0) for name, _ in s.where}
        for name, value in cells.items():
            if isinstance(value, bytes) and len(value) > self.rules.most_cell_bytes:
                raise self.error(servers.INVALID, f"cell {name} of {len(value)} bytes is too large", conditional=False)
        partition = self._partition(s.table, cells.pop(s.partition))
        former = s.table == "head_log"
        static = {name: cells.pop(name) for name in STATIC if name in cells} if former else {}
        key = _row_key(s.table, cells)
        row = None if key is None else partition.rows.get(key)
        exists = row is not None and _alive(row)
        if s.not_exists and (partition.static if former else exists):
            return [[False]]
        for name, literal in s.conditions:
            wanted = values.pop(0) if literal is None else literal
            held = (row or {}) if exists else {}
            if former and name in STATIC:
                # the row's key is built as soon as regular columns are written
                held = {} if self.rules.absent_row_hides_statics and cells and not exists else partition.static
            if held.get(name, (0, None))[1] != wanted:
                return [[False]]
        if s.conditional or not (s.timed or self.rules.orders_by_write_time):
            sent = self.stamp()  # what is compared is written in the order in which it is decided
        for name, value in cells.items():
            target = partition.row(key)
            if target.get(name, (-1, None))[0] < sent:
                target[name] = (sent, value)
        for name, value in static.items():
            partition.static[name] = (sent, value)
        if len(partition.rows) > self.rules.most_rows:
            raise self.error(servers.INVALID, f"partition of {s.table} has too many rows", conditional=False)
        return [[True]] if s.conditional else []

    def _delete(self, s: Statement, values: list[Any], sent: int) -> list[list[Any]]:
        partition = self._partition(s.table, values[0])
        tests = [(op, value) for (_, op), value in zip(s.where[1:], values[1:], strict=False)]
        keys = partition.within(tests, False, 1 << 60)
        checked = values[len(s.where) :]
        if s.conditions or not (s.timed or self.rules.orders_by_write_time):
            sent = self.stamp()
        if s.conditions:
            held = [partition.rows[key].get(name, (0, None))[1] for key in keys for name, _ in s.conditions]
            if held != checked:
                return [[False]]
        for key in keys:
            row = partition.rows[key]
            row["deleted"] = max(row.get("deleted", (-1, True)), (sent, True))
        return [[True]] if s.conditions else []

    def _read(self, s: Statement, values: list[Any], _sent: int) -> list[list[Any]]:
        partition = self._tables.get(s.table, {}).get(values[0])
        if partition is None:
            return []
        if s.one:
            return [[partition.static.get(name, (0, None))[1] for name in s.columns]]
        tests = [(op, value) for (_, op), value in zip(s.where[1:], values[1:], strict=False)]
        keys = partition.within(tests, s.descending, values[-1] if s.limited else 1 << 60)
        former = s.table == "head_log"
        if not keys and former and not tests:
            return [[partition.static.get(name, (0, None))[1] for name in s.columns]]
        columns = [_keys(s.table).index(name) if name in _keys(s.table) else name for name in s.columns]
        return [
            [_plain(key[col]) if isinstance(col, int) else values[0] if col == s.partition
             else (partition.static if former and col in STATIC else partition.rows[key]).get(col, (0, None))[1]
             for col in columns]
            for key in keys
        ]  # fmt: skip


class _Falling(int):
    """A number of a column that is ordered from the greatest down."""

    def __lt__(self, other: int) -> bool:
        return int(self) > int(other)

    def __gt__(self, other: int) -> bool:
        return int(self) < int(other)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, _Falling) else value


def _row_key(table: str, cells: dict[str, Any]) -> tuple[Any, ...] | None:
    """Taken out of the cells; None where a statement names the partition alone and its rows have keys."""
    names = _keys(table)
    if any(name not in cells for name in names):
        return None
    key = tuple(_Falling(cells.pop(name)) if name == "t" else cells.pop(name) for name in names)
    return key or (b"",)


def _partition_key(statement: Statement, values: list[Any]) -> bytes:
    """The partition that a statement is about."""
    if statement.columns and statement.verb == "write" and not statement.where:
        at = statement.columns.index(statement.partition)
        return bytes(values[at - sum(lit is not None for lit in statement.literals[:at])])
    if statement.verb == "write":
        return bytes(values[sum(lit is None for lit in statement.literals)])
    return bytes(values[0])


def _alive(row: Cells) -> bool:
    gone = row.get("deleted", (-1, None))[0]
    return any(sent > gone for name, (sent, _) in row.items() if name != "deleted")


def wall_ms() -> int:
    """The server's clock."""
    return WALL_AT_START + virtual_ms()
