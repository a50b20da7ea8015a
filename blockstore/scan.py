"""Scans of whole stores, whatever the backend: the objects, and the rows of a table, in pages.

For checks, copies and figures, never for a request. The one place outside `open` that knows every backend.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from blockstore.errors import StoreError
from blockstore.generations import LASTING, GenerationalStore
from blockstore.lmdb import scan as lmdb_scan
from blockstore.lmdb.store import LmdbStore
from blockstore.scan_pages import ObjectPage, Part, RowPage, StoredObject, part_name
from blockstore.store import Store, Table


def _unknown(store: Store) -> StoreError:
    return StoreError(f"{store.url}: stores of this kind cannot be read as a whole")


async def object_pages(store: Store, after: bytes = b"") -> AsyncIterator[ObjectPage]:
    """All objects behind the position `after`. What is put meanwhile may or may not be seen. Errors: StoreError."""
    while True:
        page = await _object_page(store, after)
        if page is None:
            return
        yield page
        after = page.position


async def _object_page(store: Store, after: bytes) -> ObjectPage | None:
    if isinstance(store, LmdbStore):
        return lmdb_scan.object_page(store, after)
    # importing its drivers takes a third of a second
    from blockstore.cassandra import scan as cassandra_scan
    from blockstore.cassandra.store import CassandraStore

    if isinstance(store, CassandraStore):
        return await cassandra_scan.object_page(store, after)
    raise _unknown(store)


async def row_pages(store: Store, table: Table, after: bytes = b"") -> AsyncIterator[RowPage]:
    """All rows of a table behind the position `after`. Errors: StoreError."""
    while True:
        page = await _row_page(store, table, after)
        if page is None:
            return
        yield page
        after = page.position


async def _row_page(store: Store, table: Table, after: bytes) -> RowPage | None:
    if isinstance(store, LmdbStore):
        return lmdb_scan.row_page(store, table, after)
    from blockstore.cassandra import scan as cassandra_scan
    from blockstore.cassandra.store import CassandraStore

    if isinstance(store, CassandraStore):
        return await cassandra_scan.row_page(store, table, after)
    raise _unknown(store)


async def replace_objects(store: Store, objects: Sequence[StoredObject]) -> None:
    """Write verified objects over what stands under their keys; durable on return. Errors: StoreError."""
    if isinstance(store, LmdbStore):
        await lmdb_scan.replace_objects(store, objects)
        return
    from blockstore.cassandra import scan as cassandra_scan
    from blockstore.cassandra.store import CassandraStore

    if not isinstance(store, CassandraStore):
        raise _unknown(store)
    await cassandra_scan.replace_objects(store, objects)


def change_count(store: Store) -> int | None:
    """A number that grows with each write to the store, by whatever process; None where the store has none."""
    return lmdb_scan.change_count(store) if isinstance(store, LmdbStore) else None


def object_count(store: Store) -> int | None:
    """How many objects there are, where the store knows without counting."""
    return lmdb_scan.object_count(store) if isinstance(store, LmdbStore) else None


def parts(store: Store) -> list[Part]:
    """Where the objects are, and how much that takes: figures that cost nothing."""
    if isinstance(store, LmdbStore):
        return lmdb_scan.parts(store)
    places = (store.current_generation, LASTING) if isinstance(store, GenerationalStore) else ()
    return [Part(part_name(place), None, None) for place in places] or [Part("objects", None, None)]


def table_sizes(store: Store) -> dict[str, tuple[int, int]]:
    """(rows, bytes on disk) of each table of rows; empty where only a scan would tell them."""
    return lmdb_scan.row_counts(store) if isinstance(store, LmdbStore) else {}
