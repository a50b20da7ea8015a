"""Reads a whole Cassandra store in pages, and replaces single objects: for maintenance, never for a request.

A scan is one SELECT without a condition. The driver's paging state is the position; the server takes it from another
session too. Rows come in the order of the servers' tokens. This module is a friend of `CassandraStore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import lz4.block

from blockstore.cassandra.schema import BY_TERM, LOOSE, table_name
from blockstore.cassandra.session import burst
from blockstore.cassandra.store import CassandraStore
from blockstore.cassandra.values import ROW_PARTS, is_cut, unpack
from blockstore.cid import multihash_end
from blockstore.errors import BadCid, Missing
from blockstore.scan_pages import ObjectPage, RowPage, StoredObject
from blockstore.store import Table

#: rows that the server sends at a time: objects may have 1 MiB a cell
_FETCHED: Final = 256
#: the first byte of a position: which of the two tables of objects it is in
_OF_OBJECTS: Final = b"o"
_OF_LOOSE: Final = b"l"


async def object_page(store: CassandraStore, after: bytes) -> ObjectPage | None:
    """The objects behind the position `after` (b"": the first ones); None behind the last.

    Loose objects that followers wrote come behind the others.
    """
    if after[:1] != _OF_LOOSE:
        cql = f"SELECT m, d, c FROM {store._keyspace}.objects"
        rows, state = await store._session.page(cql, after[1:], _FETCHED)
        # part of a value that was cut, or a row that a lost write left without one
        whole = [row for row in rows if row[1] is not None and _is_multihash(row[0])]
        found = await burst(lambda row: _stored(store, store._get, row[0], row[1], bool(row[2])), whole)
        return ObjectPage(found, _OF_OBJECTS + state if state else _OF_LOOSE)
    if after == _OF_LOOSE + b"\0":
        return None
    rows, state = await store._session.page(f"SELECT m, d FROM {store._keyspace}.{LOOSE}", after[1:], _FETCHED)
    whole = [row for row in rows if row[1] is not None and _is_multihash(row[0])]
    found = await burst(lambda row: _stored(store, store._get_apart, row[0], row[1], False), whole)
    return ObjectPage(found, _OF_LOOSE + (state or b"\0"))


def _is_multihash(key: bytes) -> bool:
    """Whether a key of the table of objects is that of an object: parts of values have longer ones."""
    if key[: len(ROW_PARTS)] == ROW_PARTS:
        return False
    try:
        return multihash_end(key, 0) == len(key)
    except BadCid:
        return False


async def _stored(store: CassandraStore, cql: str, multihash: bytes, value: bytes, closed: bool) -> StoredObject:
    try:
        data = unpack(await store._whole(cql, value) if is_cut(value) else value)
    except (Missing, lz4.block.LZ4BlockError, IndexError):
        return StoredObject(multihash, None, closed)
    return StoredObject(multihash, data, closed)


async def row_page(store: CassandraStore, table: Table, after: bytes) -> RowPage | None:
    """The rows of a table behind the position `after`, as `object_page`.

    Of a row that several terms wrote, the one that counts comes again for each of them.
    """
    if after == b"\0":
        return None
    by_term = table.name in BY_TERM
    columns = "p, k" if by_term else "p, k, v"
    cql = f"SELECT {columns} FROM {store._keyspace}.{table_name(table.name)}"
    rows, state = await store._session.page(cql, after[1:], _FETCHED)
    keys = list(dict.fromkeys((row[0][1:], row[1]) for row in rows))
    if by_term:
        values = await store.rows(table, keys)
    else:
        values = await burst(store._value, [row[2] for row in rows])
    found = [(partition, key, value) for (partition, key), value in zip(keys, values, strict=True) if value is not None]
    return RowPage(found, b"s" + state if state else b"\0")


async def replace_objects(store: CassandraStore, objects: Sequence[StoredObject]) -> None:
    """Write objects over what stands under their keys. One that is closed stays closed."""
    store._writable()
    await burst(lambda one: store._put_one(store._put_loose, (one.multihash, one.data or b"")), objects)
    await store.mark_closed(one.multihash for one in objects if one.closed)
