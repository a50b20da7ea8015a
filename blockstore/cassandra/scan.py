"""Reads a whole Cassandra store in pages, and replaces single objects: for maintenance, never for a request.

A scan is one SELECT without a condition. The driver's paging state is the position; the server takes it from another
session too. Rows come in the order of the servers' tokens. This module is a friend of `CassandraStore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from blockstore.cassandra.place import whole_value
from blockstore.cassandra.schema import BY_TERM, LOOSE, table_name
from blockstore.cassandra.session import burst
from blockstore.cassandra.store import CassandraStore
from blockstore.cassandra.values import ROW_PARTS, unpack
from blockstore.cid import multihash_end
from blockstore.errors import BadCid, StoreError, StoreUnavailable
from blockstore.generations import LASTING
from blockstore.scan_pages import ObjectPage, RowPage, StoredObject
from blockstore.store import Table

#: rows that the server sends at a time: objects may have 1 MiB a cell
_FETCHED: Final = 256
#: bytes of the number of a place, with which a position begins; this number is that of the loose objects apart
_NUMBER: Final = 8
_APART: Final = 1 << 62


async def object_page(store: CassandraStore, after: bytes) -> ObjectPage | None:
    """The objects behind the position `after` (b"": the first ones), place by place; None behind the last.

    Loose objects that followers wrote come behind the others. One that lies in two places comes twice.
    """
    layout = await store.layout()
    numbers = sorted({LASTING, *layout.held, _APART})
    at, state = int.from_bytes(after[:_NUMBER], "big"), after[_NUMBER:]
    number = next((one for one in numbers if one >= at), None)
    if number is None:
        return None
    found, state = await _page(store, number, state if number == at else b"")
    place = None if number == _APART else number
    if not state:
        # the next place; behind the last one there is none
        number += 1
    return ObjectPage(found, number.to_bytes(_NUMBER, "big") + state, place)


async def _page(store: CassandraStore, number: int, state: bytes) -> tuple[list[StoredObject], bytes]:
    """One page of a place, and where it goes on (b"": nowhere)."""
    if number == _APART:
        name, get, columns = f"{store._keyspace}.{LOOSE}", store._get_apart, "m, d"
    else:
        place = store.place(number)
        name, get, columns = place.name, place.get_cql, "m, d, c"
    rows, state = await store._session.page(f"SELECT {columns} FROM {name}", state, _FETCHED)
    # part of a value that was cut, or a row that a lost write left without one
    whole = [row for row in rows if row[1] is not None and _is_multihash(row[0])]
    found = await burst(lambda row: _stored(store, get, row[0], row[1], len(row) > 2 and bool(row[2])), whole)
    return found, state


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
        data = unpack(await whole_value(store._session, cql, value))
    except StoreUnavailable:
        raise
    except StoreError:
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
    layout = await store.layout()
    for number in (LASTING, *layout.held):
        place = store.place(number)
        held = await place.held_many([one.multihash for one in objects])
        here = [one for one, how in zip(objects, held, strict=True) if how or number == layout.current]
        await place.put_many([(one.multihash, one.data or b"") for one in here], closed=False)
        await place.mark_closed([one.multihash for one in here if one.closed])
