"""Copies the tables of schema 1 to those of schema 2. The old ones stay, for whoever wants to go back.

Schema 1 kept the log in one partition with static columns and fenced rows by write times. Its bridges must be stopped:
the old log is fenced first, so that one which still runs publishes no more. May be run again after it broke off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from cassandra.concurrent import execute_concurrent_with_args

from blockstore.cassandra import schema
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.head import BUCKET, CHAIN, ENTRIES, STAMP_WITHIN_MS, HeadRow
from blockstore.errors import StoreError
from blockstore.store_clock import wall_ms

_OLD_LOG: Final = "head_log"
_OLD_CHAIN: Final = b"head"
#: the row that says which schema a store has: written last, by who calls
_SCHEMA_KEY: Final = b"\0schema"
_AT_ONCE: Final = 64
_BATCH: Final = 4096


def copy_tables(address: CassandraAddress, delta_ms: int) -> HeadRow:
    """Copy every row; the head row to begin with. `delta_ms` is that of the bridge which wrote them. Blocks.

    Errors: StoreUnavailable, Forbidden, StoreError.
    """
    found: list[HeadRow] = []
    schema.with_session(address, lambda session: found.append(_copy(session, address.keyspace, delta_ms)))
    return found[0]


def old_tables(keyspace: str) -> list[str]:
    """The statements that remove what was copied."""
    return [f"DROP TABLE {keyspace}.{name}" for name in (_OLD_LOG, *sorted(schema.BY_TERM))]


def _copy(session: Any, keyspace: str, delta_ms: int) -> HeadRow:
    term, last, owner, renewals = _fence(session, keyspace)
    for name in sorted(schema.BY_TERM):
        insert = f"INSERT INTO {keyspace}.{schema.table_name(name)} (p, k, t, v) VALUES (?, ?, ?, ?)"
        rows = session.execute(f"SELECT p, k, v FROM {keyspace}.{name}")
        _insert(session, insert, ((p, k, term << 32, v) for p, k, v in rows if k != _SCHEMA_KEY))
    newest: tuple[int, bytes, int] = (0, b"", 0)
    previous = 0

    def entries() -> Iterator[tuple[bytes, int, bytes, int]]:
        nonlocal newest, previous
        cql = f"SELECT seq, entry, visible_at FROM {keyspace}.{_OLD_LOG} WHERE p = %s ORDER BY seq ASC"
        for seq, entry, visible_at in session.execute(cql, (_OLD_CHAIN,)):
            if seq is None:
                continue
            # one that never got a stamp, and one that a still older version prepared
            stamp = visible_at or -wall_ms()
            if newest[0]:
                before = newest[2] if newest[2] > 0 else -newest[2] + delta_ms + STAMP_WITHIN_MS
                previous = before
                yield CHAIN + (newest[0] // BUCKET).to_bytes(8, "big"), newest[0], newest[1], before
            newest = (seq, entry, stamp)

    _insert(session, f"INSERT INTO {keyspace}.{ENTRIES} (p, seq, entry, visible_at) VALUES (?, ?, ?, ?)", entries())
    if newest[0] != last:
        raise StoreError(f"the old head log ends at entry {newest[0]}, and says that it ends at {last}")
    return HeadRow(term, last, owner or b"", renewals or 0, newest[1], newest[2], previous)


def _fence(session: Any, keyspace: str) -> tuple[int, int, bytes | None, int | None]:
    """Begin a term in the old log; (term, last, owner, renewals)."""
    state = f"SELECT term, last, owner, renewals FROM {keyspace}.{_OLD_LOG} WHERE p = %s LIMIT 1"
    take = f"UPDATE {keyspace}.{_OLD_LOG} SET term = %s WHERE p = %s IF term = %s"
    while True:
        row = session.execute(state, (_OLD_CHAIN,)).one()
        if row is None or row[0] is None:
            return 0, 0, b"", 0
        if session.execute(take, (row[0] + 1, _OLD_CHAIN, row[0])).one()[0]:
            return row[0] + 1, row[1], row[2], row[3]


def _insert(session: Any, cql: str, rows: Iterable[tuple[object, ...]]) -> None:
    prepared = session.prepare(cql)
    source = iter(rows)
    while batch := list(islice(source, _BATCH)):
        execute_concurrent_with_args(session, prepared, batch, concurrency=_AT_ONCE)
