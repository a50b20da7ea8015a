"""Down to which epoch followers were asked of what the store lacks: one row of FLEET, which every role may write.

A follower lowers the epoch, the bridge fills the store down to it and removes the row. Two followers that write at
once may lose one of the epochs; the next question for it writes it again.
"""

from __future__ import annotations

from typing import Final

import orjson

from blockstore.store import FLEET, Batch, Store

_PARTITION: Final = b"wanted"
_LOWEST: Final = b"lowest"


async def load_wanted_epoch(store: Store) -> int | None:
    """The lowest epoch that is wanted; None where none is. Errors: StoreError."""
    value = await store.row(FLEET, _PARTITION, _LOWEST)
    if value is None:
        return None
    try:
        epoch = orjson.loads(value)
    except ValueError:
        return None
    return epoch if isinstance(epoch, int) and epoch >= 0 else None


async def want_epoch(store: Store, epoch: int) -> bool:
    """Have the store filled down to this epoch; False where that is wanted already. Errors: StoreError."""
    before = await load_wanted_epoch(store)
    if before is not None and before <= epoch:
        return False
    batch = Batch()
    batch.put(FLEET, _PARTITION, _LOWEST, orjson.dumps(epoch))
    await store.write(batch)
    return True


async def forget_wanted_epoch(store: Store, epoch: int) -> None:
    """Remove the row, unless a lower epoch is wanted by now. Errors: StoreError."""
    wanted = await load_wanted_epoch(store)
    if wanted is not None and wanted >= epoch:
        batch = Batch()
        batch.delete(FLEET, _PARTITION, _LOWEST)
        await store.write(batch)
