"""How far the filling of a store is: a row of it, written with what it speaks of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import orjson

from blockstore.store import META, Batch, Store

#: META row, partition b""
SYNC: Final = b"sync"

HEADERS_STAGE: Final = "headers"
CONTENTS_STAGE: Final = "messages, receipts and events"
STATE_STAGE: Final = "state"
INDEX_STAGE: Final = "indices"
HEADS_STAGE: Final = "heads"
STAGES: Final = (HEADS_STAGE, HEADERS_STAGE, CONTENTS_STAGE, STATE_STAGE, INDEX_STAGE)


@dataclass(slots=True)
class Checkpoint:
    """`head`: the tipset that is filled up to, hex; `height`: its epoch; `floor`: the lowest epoch that is wanted.

    `next_key` and `above`: the next header to get, hex, and the epoch below which it is. `contents_done`: contents are
    held up to this epoch. `pivot`: states of the tipsets above it are wanted, too. `round`: heads that were chosen.
    """

    head: str = ""
    height: int = -1
    floor: int = 0
    next_key: str = ""
    above: int = -1
    contents_done: int = -1
    pivot: int = -1
    round: int = 0
    stage: str = HEADS_STAGE

    def put(self, batch: Batch) -> None:
        """Add the row to a batch."""
        batch.put(META, b"", SYNC, orjson.dumps(asdict(self)))

    async def save(self, store: Store) -> None:
        """Write the row. Errors: StoreError."""
        batch = Batch()
        self.put(batch)
        await store.write(batch)


async def load_checkpoint(store: Store) -> Checkpoint | None:
    """The row of a filling that has not ended; None where there is none, or one of another version."""
    value = await store.row(META, b"", SYNC)
    if value is None:
        return None
    try:
        return Checkpoint(**orjson.loads(value))
    except (TypeError, ValueError):
        return Checkpoint()
