"""Which epochs an index covers: ranges, both ends included, in one COVERAGE row an index."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from blockstore.store import COVERAGE, Batch, Store

#: rows of TIPSETS and HEIGHTS exist for every tipset of these epochs
TIPSETS_INDEX = b"tipsets"
#: so do those of MESSAGES for every message in them
MESSAGES_INDEX = b"messages"

Ranges = list[tuple[int, int]]


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same epochs in as few ranges as can be, rising."""
    out: Ranges = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return out


async def covered(store: Store, index: bytes) -> Ranges:
    """The ranges that an index covers."""
    value = await store.row(COVERAGE, b"", index)
    return [] if value is None else [(low, high) for low, high in orjson.loads(value)]


def save_coverage(batch: Batch, index: bytes, ranges: Ranges) -> None:
    """Write the ranges with a batch."""
    batch.put(COVERAGE, b"", index, orjson.dumps(ranges))
