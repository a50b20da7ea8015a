"""Appends objects in the order of their keys to an LMDB store that holds none: each page is written once.

Inserted in the order of a file, whose keys are hashes, each batch touches nearly every leaf of the tree, and once the
tree is larger than memory each touch is a read and a write of the disk. This module is a friend of `LmdbStore`, and
`_target` is the one place that knows where in it objects are.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Any, Final

from blockstore.lmdb.place import LmdbPlace, packed
from blockstore.lmdb.store import LmdbStore

#: bytes of one transaction: LMDB keeps its pages in memory until it ends
_TRANSACTION_BYTES: Final = 64 << 20


def _target(store: LmdbStore) -> LmdbPlace:
    """The place that objects are appended to."""
    return store.place(store.current_generation)


async def last_key(store: LmdbStore) -> bytes | None:
    """The greatest multihash that is held; None in a store without objects."""
    place = _target(store)
    with place.environment.begin() as txn, txn.cursor(place.objects) as cursor:
        return cursor.key() if cursor.last() else None


async def append_sorted(store: LmdbStore, items: list[tuple[bytes, bytes]]) -> None:
    """Store (multihash, flag and bytes), sorted and each once, all behind `last_key`.

    What another has put behind it meanwhile costs the append, no object. Errors: StoreFull, StoreUnavailable.
    """
    place = _target(store)
    source = iter(items)
    while part := _part(source):
        await place.environment.write(partial(_append, database=place.objects, items=part))


def _part(source: Any) -> list[tuple[bytes, bytes]]:
    part: list[tuple[bytes, bytes]] = []
    size = 0
    while size < _TRANSACTION_BYTES and (more := list(islice(source, 10_000))):
        part += more
        size += sum([len(value) for _, value in more])
    return part


def _append(txn: Any, database: Any, items: list[tuple[bytes, bytes]]) -> None:
    items = [(multihash, packed(value)) for multihash, value in items]
    cursor = txn.cursor(database)
    _, added = cursor.putmulti(items, overwrite=False, append=True)
    if added < len(items):
        # some key is not behind the last one: an append passes over it without a word
        cursor.putmulti(items, overwrite=False)
