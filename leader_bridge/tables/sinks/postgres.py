"""Tables in PostgreSQL: rows come by COPY, a span is a transaction, and the ledger is a table beside the others.

Tables are made where they are not there, in the first schema of the connection's search path.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from blockstore.store_url import public_url
from leader_bridge.tables.sinks.sink import Ledger, SinkError
from leader_bridge.tables.table import Row, Table, Task, Type, memory_of

#: the ledger
LEDGER: Final = "extracted_tipsets"
#: epochs of a transaction: a reader waits for no more, and a killed run loses no more
SPAN_EPOCHS: Final = 60
_CONNECT_SECONDS: Final = 30
#: of a connection, where the URL says nothing else: a machine that is gone is noticed within a minute or two, though it
#: closes nothing (seconds, tries; of the last one milliseconds)
_KEEPALIVE: Final = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 6,
    "tcp_user_timeout": 90_000,
}
#: seconds after which a server that does not answer a rollback is left
_ROLLBACK_SECONDS: Final = 10.0
#: rows of a task that wait to be sent, in about so many bytes of memory
_SENT_BYTES: Final = 8 << 20
#: one lock for those who make tables at the same time
_MAKING_TABLES: Final = 0x6C6F7466

_MAKE_LEDGER: Final = """
CREATE TABLE IF NOT EXISTS extracted_tipsets (
    task text NOT NULL, height bigint NOT NULL, tipset text NOT NULL, row_count bigint NOT NULL,
    extracted_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (task, height)
)
"""


def _column_type(kind: Type) -> str:
    return "numeric" if kind is Type.WIDE else kind.value


def create_statement(table: Table) -> sql.Composed:
    """The CREATE TABLE of a table."""
    columns = [
        sql.SQL("{} {}{}").format(
            sql.Identifier(one.name),
            sql.SQL(_column_type(one.type)),
            sql.SQL("" if one.is_nullable else " NOT NULL"),
        )
        for one in table.columns
    ]
    key = sql.SQL(", ").join(map(sql.Identifier, table.key))
    return sql.SQL("CREATE TABLE IF NOT EXISTS {} ({}, PRIMARY KEY ({}))").format(
        sql.Identifier(table.name), sql.SQL(", ").join(columns), key
    )


class PostgresSink:
    """A database. Open it with `open`."""

    def __init__(self, url: str, connection: psycopg.AsyncConnection[Any], name: str) -> None:
        self.name = name
        self._url = url
        self.span = SPAN_EPOCHS
        self._connection = connection
        self._loads: dict[str, _Load] = {}

    @classmethod
    async def open(cls, url: str, tables: Sequence[Table]) -> PostgresSink:
        """Connect, and make the tables. Errors: SinkError."""
        # the query may hold a password too
        name = public_url(url).partition("?")[0]
        try:
            conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            # its text may quote the password
            raise SinkError(f"{name}: no PostgreSQL URL; write special characters of a password as %XX") from None
        connection = await _connect(url, name)
        sink = cls(url, connection, name)
        try:
            await sink._make_tables(tables)
        except BaseException:
            await connection.close()
            raise
        return sink

    async def _make_tables(self, tables: Sequence[Table]) -> None:
        try:
            async with self._connection.transaction():
                await self._connection.execute("SELECT pg_advisory_xact_lock(%s)", [_MAKING_TABLES])
                await self._connection.execute(_MAKE_LEDGER)
                for table in tables:
                    await self._connection.execute(create_statement(table))
                    await self._check_columns(table)
        except psycopg.Error as error:
            raise _sink_error(self.name, error) from None

    async def _check_columns(self, table: Table) -> None:
        found = await self._connection.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(sql.Identifier(table.name)))
        there = {column.name for column in found.description or ()}
        missing = [column for column in table.names if column not in there]
        if missing:
            raise SinkError(f"{self.name}: table {table.name} lacks the column {', '.join(missing)}")

    async def begin(self, low: int, high: int, tasks: Sequence[Task]) -> Mapping[str, Ledger]:
        """As `Sink.begin`. A connection that was lost is made anew."""
        if self._connection.closed:
            self._connection = await _connect(self._url, self.name)
        try:
            found = await self._connection.execute(
                "SELECT task, height, tipset FROM extracted_tipsets WHERE task = ANY(%s) AND height BETWEEN %s AND %s",
                [[task.name for task in tasks], low, high],
            )
            ledgers: dict[str, Ledger] = {task.name: {} for task in tasks}
            async for name, height, tipset in found:
                ledgers[name][height] = tipset
            return ledgers
        except psycopg.Error as error:
            raise _sink_error(self.name, error) from None

    async def replace(self, task: Task, height: int, tipset: str | None, parts: AsyncIterator[list[Row]]) -> int:
        """As `Sink.replace`."""
        load = self._loads.setdefault(task.name, _Load(self._connection, task))
        try:
            return await load.replace(height, tipset, parts)
        except psycopg.Error as error:
            raise _sink_error(self.name, error) from None

    async def end(self) -> None:
        """As `Sink.end`."""
        try:
            if self._connection.info.transaction_status is TransactionStatus.INERROR:
                raise SinkError(f"{self.name}: the rows of a span are lost, for one of them was refused")
            # in one order, so that two workers never wait for each other's locks in a circle
            for name in sorted(self._loads):
                await self._loads[name].flush()
            await self._connection.commit()
        except psycopg.Error as error:
            raise _sink_error(self.name, error) from None
        finally:
            self._loads = {}

    async def abandon(self) -> None:
        """As `Sink.abandon`."""
        self._loads = {}
        try:
            async with asyncio.timeout(_ROLLBACK_SECONDS):
                await self._connection.rollback()
        except (psycopg.Error, TimeoutError):
            await self._connection.close()

    async def close(self) -> None:
        """As `Sink.close`."""
        await self._connection.close()


class _Load:
    """The rows of one task in the transaction of a span: sent together, whatever tipsets they are of."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], task: Task) -> None:
        self._connection = connection
        self._task = task
        self._texts = [at for at, one in enumerate(task.table.columns) if one.type in (Type.TEXT, Type.JSON)]
        self._rows: list[Row] = []
        self._bytes = 0
        #: epochs whose old rows are still there
        self._old: list[int] = []
        #: (epoch, tipset, rows) for the ledger
        self._done: list[tuple[int, str, int]] = []

    async def replace(self, height: int, tipset: str | None, parts: AsyncIterator[list[Row]]) -> int:
        kept, count = len(self._rows), 0
        self._old.append(height)
        try:
            async for part in parts:
                self._rows += part
                count += len(part)
                self._bytes += memory_of(part)
                if self._bytes >= _SENT_BYTES:
                    await self.flush()
                    kept = 0
        except BaseException:
            del self._rows[kept:]
            if height in self._old:
                self._old.remove(height)
            else:
                # some are sent already: then what was there before is gone too, and the ledger says so
                self._old.append(height)
            raise
        if tipset is not None:
            self._done.append((height, tipset, count))
        return count

    async def flush(self) -> None:
        """Send what is waiting. Errors: psycopg.Error."""
        name, table = self._task.name, sql.Identifier(self._task.table.name)
        if self._old:
            # another worker may be at the same epochs
            await self._connection.execute(
                "SELECT pg_advisory_xact_lock(hashtext(%s), height) FROM unnest(%s::int[]) AS height",
                [name, sorted(self._old)],
            )
            await self._connection.execute(sql.SQL("DELETE FROM {} WHERE height = ANY(%s)").format(table), [self._old])
            await self._connection.execute(
                "DELETE FROM extracted_tipsets WHERE task = %s AND height = ANY(%s)", [name, self._old]
            )
        if self._rows:
            columns = sql.SQL(", ").join(map(sql.Identifier, self._task.table.names))
            async with (
                self._connection.cursor() as cursor,
                cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(table, columns)) as copy,
            ):
                for row in self._rows:
                    await copy.write_row(_without_nul(row, self._texts))
        if self._done:
            heights, tipsets, counts = zip(*self._done, strict=True)
            await self._connection.execute(
                "INSERT INTO extracted_tipsets (task, height, tipset, row_count)"
                " SELECT %s, * FROM unnest(%s::bigint[], %s::text[], %s::bigint[])",
                [name, list(heights), list(tipsets), list(counts)],
            )
        self._rows, self._old, self._done, self._bytes = [], [], [], 0


def _without_nul(row: Row, texts: Sequence[int]) -> Row:
    """PostgreSQL keeps no character 0, as text or escaped in JSON: both are left out, as Lily does."""
    if not any(row[at] is not None and ("\0" in row[at] or "\\u0000" in row[at]) for at in texts):
        return row
    out = list(row)
    for at in texts:
        if out[at] is not None:
            out[at] = _clean(out[at])
    return tuple(out)


def _clean(text: str) -> str:
    text = text.replace("\0", "")
    if "\\u0000" not in text:
        return text
    # a backslash that is escaped itself begins no escape
    return "\\\\".join(part.replace("\\u0000", "") for part in text.split("\\\\"))


async def _connect(url: str, name: str) -> psycopg.AsyncConnection[Any]:
    """Errors: SinkError."""
    try:
        own = {"connect_timeout": _CONNECT_SECONDS, **_KEEPALIVE}
        named = conninfo_to_dict(url)
        return await psycopg.AsyncConnection.connect(
            make_conninfo(url, **{name: value for name, value in own.items() if name not in named})
        )
    except psycopg.Error as error:
        raise _sink_error(name, error) from None


def _sink_error(name: str, error: psycopg.Error) -> SinkError:
    """The error without what is no business of a log: of several lines the first, which is the server's."""
    text = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return SinkError(f"{name}: {text}")
