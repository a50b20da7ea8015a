"""The mark of a store that a copy fills: what is closed in it may lack what is below, until the copy has ended.

A bridge or an import that took it for a whole store would leave holes behind.
"""

from __future__ import annotations

from typing import Final

from blockstore.errors import Unfinished
from blockstore.store import META, Store

#: META row, partition b"": the progress of the copy, as JSON
COPY: Final = b"copy"


async def refuse_unfinished_copy(store: Store) -> None:
    """Errors: Unfinished, for a store that a copy has not finished."""
    if await store.row(META, b"", COPY) is not None:
        raise Unfinished(
            f"{store.url} holds a copy that has not ended: run the same `follower store copy` again, or use a new store"
        )
