"""Whether a file is imported in the order of its keys, and how its sorted objects get into the store."""

from __future__ import annotations

import asyncio
import gc
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from blockstore.lmdb.sorted_load import append_sorted, last_key
from blockstore.lmdb.store import LmdbStore
from blockstore.store import Store
from leader_bridge.imports.progress import Reporter
from leader_bridge.imports.sorted_runs import SortedRuns

#: disk space that sorting a file may take, the store included, in sizes of the file. Compressed ones grow
_ROOM: Final = 3


async def begin_sorting(
    store: Store, folder: Path, fingerprint: str, size: int | None, above: int, *, closes: bool, progress: Reporter
) -> SortedRuns | None:
    """Runs for a file of `size` bytes that is larger than `above`; None where it is stored as it comes.

    What `folder` held is deleted: it was another file's. Only a store without objects can be appended to.
    Errors: OSError, StoreUnavailable.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if size is None or size <= above or not isinstance(store, LmdbStore) or await last_key(store) is not None:
        return None
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < _ROOM * size:
        progress.say(
            f"{folder} has {free / 1e9:,.1f} GB free, and sorting {size / 1e9:,.1f} GB takes up to {_ROOM} times as "
            "much: the objects are stored as they come, which is slower"
        )
        return None
    return await asyncio.to_thread(SortedRuns.begin, folder, fingerprint, size, closes=closes)


async def store_sorted(store: Store, runs: SortedRuns, progress: Reporter) -> None:
    """Append the objects of whole runs to the store, and delete them there. Goes on where an earlier call was killed.

    Errors: StoreError, OSError.
    """
    assert isinstance(store, LmdbStore)
    with without_collector():
        if not runs.is_decided:
            progress.phase("links", None, "passes")
            await asyncio.to_thread(runs.decide)
        if runs.is_loose:
            progress.say("what is closed is told by the last pass")
        progress.phase("sorted", len(runs.buckets), "parts")
        after = await last_key(store)
        coming = asyncio.create_task(asyncio.to_thread(runs.bucket, 0, after))
        try:
            for number in runs.buckets:
                items = await coming
                if number + 1 < len(runs.buckets):
                    coming = asyncio.create_task(asyncio.to_thread(runs.bucket, number + 1, after))
                await append_sorted(store, items)
                runs.drop(number)
                progress.at(number + 1)
        finally:
            await asyncio.gather(coming, return_exceptions=True)


@contextmanager
def without_collector() -> Iterator[None]:
    """No search for cycles inside: a batch is a hundred thousand tuples, none of them in a cycle."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
