"""The epoch down to which a store that began empty is to be filled."""

from __future__ import annotations

from typing import Final

import orjson

from blockstore.store import META, Batch, Store

_FLOOR: Final = b"backfill_floor"


def save_floor(batch: Batch, epoch: int) -> None:
    """Write the epoch with a batch."""
    batch.put(META, b"", _FLOOR, orjson.dumps(epoch))


async def load_floor(store: Store) -> int | None:
    """The epoch of `save_floor`; None in a store that was imported."""
    value = await store.row(META, b"", _FLOOR)
    return None if value is None else int(orjson.loads(value))
