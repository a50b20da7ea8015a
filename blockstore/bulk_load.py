"""Stores a batch of an import: closed and loose objects in one transaction, where the store has transactions.

Where each object costs a statement, what the caller knows about objects saves statements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Protocol, runtime_checkable

from blockstore.car.closed_order import Pairs
from blockstore.lmdb.store import LmdbStore
from blockstore.store import Store


@runtime_checkable
class PerObjectStore(Protocol):
    """A store where each object costs a statement. What the caller knows about objects saves statements."""

    async def put_closed(self, objects: Iterable[tuple[bytes, bytes]]) -> None:
        """Store closed objects. What they link to is durable already."""

    async def mark_closed(self, multihashes: Iterable[bytes]) -> None:
        """Set the closed flag on objects that this instance wrote. Does not check that they exist."""


def has_per_object_cost(store: Store) -> bool:
    """Whether each object costs a round trip, so that skipping objects pays."""
    return isinstance(store, PerObjectStore)


async def load_objects(store: Store, levels: Sequence[Pairs], loose: Pairs) -> None:
    """Store verified (multihash, bytes), as calls of `put_many` do.

    `levels` are closed: below the first one's objects is nothing that is not held, below the others' what the levels
    before them bring. Errors: StoreFull, StoreUnavailable.
    """
    if not isinstance(store, LmdbStore):
        for level in levels:
            if isinstance(store, PerObjectStore):
                await store.put_closed(level)
            else:
                await store.put_many(level, closed=True)
        await store.put_many(loose, closed=False)
        return
    await store.load(chain.from_iterable(levels), loose)


class Closes(Protocol):
    """What sets closed flags: a store, or what stands before one."""

    async def close_many(self, multihashes: Sequence[bytes]) -> None:
        """As `Store.close_many`."""


async def close_objects(store: Closes, put: Sequence[bytes], others: Sequence[bytes]) -> None:
    """Set the closed flag. `put`: objects that `load_objects` wrote by this instance; `others`: any held ones.

    Errors: Missing, StoreUnavailable.
    """
    if isinstance(store, PerObjectStore):
        await store.mark_closed(put)
        await store.close_many(others)
    else:
        await store.close_many([*put, *others])
