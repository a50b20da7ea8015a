"""Storing a batch of an import: closed and loose objects in one transaction where the store has such.

In LMDB's tree the keys of a batch are scattered over all leaves. One sorted pass over both kinds touches each
page once, and one commit writes it once; as two calls in smaller transactions it would cost about twice that.
This module is a friend of `LmdbStore`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from blockstore.lmdb_store import LmdbStore
from blockstore.store import Store

Pairs = list[tuple[bytes, bytes]]


async def load_objects(store: Store, closed: Pairs, loose: Pairs) -> None:
    """Store verified (multihash, bytes), as two calls of `put_many` do. Errors: StoreFull, StoreUnavailable."""
    if not isinstance(store, LmdbStore):
        await store.put_many(closed, closed=True)
        await store.put_many(loose, closed=False)
        return
    await store._write(partial(_load, database=store._objects, closed=closed, loose=loose))


def _load(txn: Any, database: Any, closed: Pairs, loose: Pairs) -> None:
    items = [(multihash, b"\1" + data) for multihash, data in closed]
    items += [(multihash, b"\0" + data) for multihash, data in loose]
    items.sort()
    cursor = txn.cursor(database)
    # what is held stays as it is; a leaf that was loose is closed by the last pass, like any other object
    cursor.putmulti(items, overwrite=False)
