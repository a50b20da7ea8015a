"""Reads objects of a store that may be damaged: one that cannot be read is as one that is not there."""

from __future__ import annotations

from collections.abc import Sequence

from blockstore.errors import StoreError, StoreUnavailable
from blockstore.store import ObjectStore


async def read_many(store: ObjectStore, multihashes: Sequence[bytes]) -> list[bytes | None]:
    """The objects in the order asked for; None for what is absent or cannot be read. Errors: StoreUnavailable."""
    try:
        return await store.get_many(multihashes)
    except StoreUnavailable:
        raise
    except StoreError:
        return [await _read(store, multihash) for multihash in multihashes]


async def _read(store: ObjectStore, multihash: bytes) -> bytes | None:
    try:
        return await store.get(multihash)
    except StoreUnavailable:
        raise
    except StoreError:
        return None
