"""Reads a whole LMDB store in pages, and replaces single objects: for maintenance, never for a request.

Each page is a read transaction of its own, so a slow reader keeps no page of the file from being used again. What is
put meanwhile may or may not be seen. This module is a friend of `LmdbStore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from blockstore.lmdb.place import items_behind
from blockstore.lmdb.store import LmdbStore
from blockstore.scan_pages import PAGE_BYTES, PAGE_ITEMS, ObjectPage, Part, RowPage, StoredObject, part_name
from blockstore.store import TABLES, Table

#: bytes of a position that name the place
_NUMBER: Final = 8


def object_page(store: LmdbStore, after: bytes) -> ObjectPage | None:
    """The objects behind the position `after` (b"": the first), place by place, in order of their keys; None behind
    the last. One that lies in two places comes twice."""
    at, key = int.from_bytes(after[:_NUMBER], "big"), after[_NUMBER:]
    for place in sorted(store._places, key=lambda place: place.number):
        if place.number < at:
            continue
        found = place.page(key if place.number == at else b"", PAGE_ITEMS, PAGE_BYTES)
        if found:
            objects = [StoredObject(*one) for one in found]
            return ObjectPage(objects, place.number.to_bytes(_NUMBER, "big") + found[-1][0], place.number)
    return None


def row_page(store: LmdbStore, table: Table, after: bytes) -> RowPage | None:
    """The rows of a table behind the position `after`, as `object_page`."""
    database = store._tables.get(table.name)
    found = [] if database is None else _page(store, database, after)
    rows = [(key[1 : 1 + key[0]], key[1 + key[0] :], value) for key, value in found]
    return RowPage(rows, found[-1][0]) if found else None


def _page(store: LmdbStore, database: Any, after: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    with store._begin() as txn, txn.cursor(database) as cursor:
        size = 0
        for key, value in items_behind(cursor, after):
            found.append((key, value))
            size += len(value)
            if size >= PAGE_BYTES or len(found) >= PAGE_ITEMS:
                break
    return found


async def replace_objects(store: LmdbStore, objects: Sequence[StoredObject]) -> None:
    """Write objects over what stands under their keys, closed or loose as each says; new ones where new ones go."""
    for place in store._places:
        held = await place.held_many([one.multihash for one in objects])
        is_current = place.number == store.current_generation
        here = [one for one, how in zip(objects, held, strict=True) if how or is_current]
        await place.replace([(one.multihash, one.data or b"", one.closed) for one in here])


def change_count(store: LmdbStore) -> int:
    """How many transactions have written, in all places."""
    return sum(int(place.environment.env.info()["last_txnid"]) for place in store._places)


def object_count(store: LmdbStore) -> int:
    """How many objects the store's places hold."""
    return sum(place.size()[0] for place in store._places)


def parts(store: LmdbStore) -> list[Part]:
    """Each place where objects are."""
    found = []
    for place in store._places:
        with place.environment.begin() as txn:
            found.append(Part(part_name(place.number), *_size(txn, place.objects)))
    return found


def row_counts(store: LmdbStore) -> dict[str, tuple[int, int]]:
    """(rows, bytes on disk) of each table of rows."""
    with store._begin() as txn:
        return {name: _size(txn, database) for name, database in store._tables.items() if name in TABLES}


def _size(txn: Any, database: Any) -> tuple[int, int]:
    stat = txn.stat(database)
    return stat["entries"], (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * stat["psize"]
