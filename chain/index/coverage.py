"""Which epochs an index covers: ranges, both ends included, in one COVERAGE row an index."""

from __future__ import annotations

from typing import Final

import orjson

from blockstore.store import COVERAGE, Store

Ranges = list[tuple[int, int]]

#: rows of MESSAGES exist for every message of these epochs
MESSAGES_INDEX: Final = b"messages"


async def covered(store: Store, index: bytes) -> Ranges:
    """The ranges that an index covers, rising."""
    value = await store.row(COVERAGE, b"", index)
    return [] if value is None else [(low, high) for low, high in orjson.loads(value)]


def contains(ranges: Ranges, epoch: int) -> bool:
    """Whether an epoch is in one of the ranges."""
    return any(low <= epoch <= high for low, high in ranges)


def ranges_text(ranges: Ranges, most: int = 4) -> str:
    """Ranges in a few words, the newest of many: "epochs 3 to 7 and 9 to 20"."""
    if not ranges:
        return "no epochs"
    shown = [str(low) if low == high else f"{low} to {high}" for low, high in ranges[-most:]]
    head = "epochs " if len(ranges) <= most else f"{len(ranges) - most} older ranges and epochs "
    return head + (shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}")
