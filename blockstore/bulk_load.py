"""Storing a batch of an import: closed and loose objects in one transaction where the store has such.

In LMDB's tree the keys of a batch are scattered over all leaves. One sorted pass over both kinds touches each
page once, and one commit writes it once; as two calls in smaller transactions it would cost about twice that.
This module is a friend of `LmdbStore`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol, runtime_checkable

from blockstore.lmdb_store import LmdbStore
from blockstore.store import Store

Pairs = list[tuple[bytes, bytes]]


@runtime_checkable
class PutsLeaves(Protocol):
    """A store for which objects with nothing below them cost less to close."""

    async def put_leaves(self, objects: Iterable[tuple[bytes, bytes]]) -> None:
        """Store such objects, closed."""


async def load_objects(store: Store, closed: Pairs, loose: Pairs) -> None:
    """Store verified (multihash, bytes), as two calls of `put_many` do; `closed` ones link to nothing.

    Errors: StoreFull, StoreUnavailable.
    """
    if not isinstance(store, LmdbStore):
        # what an import closes as it comes has nothing below it
        if isinstance(store, PutsLeaves):
            await store.put_leaves(closed)
        else:
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
