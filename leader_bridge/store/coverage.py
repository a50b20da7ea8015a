"""Writing which epochs an index covers: with the rows themselves."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from blockstore.store import COVERAGE, Batch
from chain.index.coverage import Ranges

#: rows of TIPSETS and HEIGHTS exist for every tipset of these epochs
TIPSETS_INDEX = b"tipsets"


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same epochs in as few ranges as can be, rising."""
    out: Ranges = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return out


def without(ranges: Ranges, others: Ranges) -> Ranges:
    """The epochs of `ranges` that are in none of `others`."""
    left = list(ranges)
    for low, high in merge_ranges(others):
        cut: Ranges = []
        for first, last in left:
            if first < low:
                cut.append((first, min(last, low - 1)))
            if last > high:
                cut.append((max(first, high + 1), last))
        left = cut
    return left


def save_coverage(batch: Batch, index: bytes, ranges: Ranges) -> None:
    """Write the ranges with a batch."""
    batch.put(COVERAGE, b"", index, orjson.dumps(ranges))
