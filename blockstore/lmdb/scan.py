"""Reads a whole LMDB store in pages, and replaces single objects: for maintenance, never for a request.

Each page is a read transaction of its own, so a slow reader keeps no page of the file from being used again. What is
put meanwhile may or may not be seen. This module is a friend of `LmdbStore`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from blockstore.lmdb.store import LmdbStore
from blockstore.scan_pages import PAGE_BYTES, PAGE_ITEMS, ObjectPage, Part, RowPage, StoredObject
from blockstore.store import TABLES, Table

_CLOSED: Final = b"\1"


def object_page(store: LmdbStore, after: bytes) -> ObjectPage | None:
    """The objects behind the position `after` (b"": the first ones), in order of their keys; None behind the last."""
    found = [StoredObject(key, value[1:], value[:1] == _CLOSED) for key, value in _page(store, store._objects, after)]
    return ObjectPage(found, found[-1].multihash) if found else None


def row_page(store: LmdbStore, table: Table, after: bytes) -> RowPage | None:
    """The rows of a table behind the position `after`, as `object_page`."""
    found = _page(store, store._tables[table.name], after)
    rows = [(key[1 : 1 + key[0]], key[1 + key[0] :], value) for key, value in found]
    return RowPage(rows, found[-1][0]) if found else None


def _page(store: LmdbStore, database: Any, after: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    with store._begin() as txn, txn.cursor(database) as cursor:
        size = 0
        for key, value in _items(cursor, after):
            found.append((key, value))
            size += len(value)
            if size >= PAGE_BYTES or len(found) >= PAGE_ITEMS:
                break
    return found


def _items(cursor: Any, after: bytes) -> Iterator[tuple[bytes, bytes]]:
    there = cursor.set_range(after) if after else cursor.first()
    if there and after and cursor.key() == after:
        there = cursor.next()
    while there:
        yield cursor.key(), cursor.value()
        there = cursor.next()


async def replace_objects(store: LmdbStore, objects: Sequence[StoredObject]) -> None:
    """Write objects over what stands under their keys, closed or loose as each says."""
    await store._write(partial(_replace, database=store._objects, objects=objects))


def _replace(txn: Any, database: Any, objects: Sequence[StoredObject]) -> None:
    for one in sorted(objects):
        txn.put(one.multihash, (_CLOSED if one.closed else b"\0") + (one.data or b""), db=database)


def change_count(store: LmdbStore) -> int:
    """The number of the last transaction that wrote."""
    return int(store._env.info()["last_txnid"])


def object_count(store: LmdbStore) -> int:
    """How many objects the store holds."""
    with store._begin() as txn:
        return int(txn.stat(store._objects)["entries"])


def parts(store: LmdbStore) -> list[Part]:
    """Each place where objects are."""
    with store._begin() as txn:
        objects, size = _size(txn, store._objects)
    return [Part("objects", objects, size)]


def row_counts(store: LmdbStore) -> dict[str, tuple[int, int]]:
    """(rows, bytes on disk) of each table of rows."""
    with store._begin() as txn:
        return {name: _size(txn, store._tables[name]) for name in TABLES}


def _size(txn: Any, database: Any) -> tuple[int, int]:
    stat = txn.stat(database)
    return stat["entries"], (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * stat["psize"]
