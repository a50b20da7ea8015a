"""The archives of a process: opened by its settings, below the store, with their metrics."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from blockstore.archive.named import archives_of, shown_place
from blockstore.store import ObjectStore, Store
from follower.setting_parsers import split_archives
from follower.settings import Settings
from rpc.server.metrics import Metrics

if TYPE_CHECKING:
    from blockstore.archive.tier import Archives

log = logging.getLogger(__name__)


async def open_archives(settings: Settings) -> Archives | None:
    """The archives that the settings name, None where there are none.

    Errors: BadCar (a file that cannot be served in place), StoreUnavailable (a file or the cache cannot be opened).
    """
    places = split_archives(settings["archive"])
    if not places:
        return None
    # imported here: its HTTP client takes a tenth of a second
    from blockstore.archive.tier import ArchiveOptions, Archives

    options = ArchiveOptions(
        memory_bytes=settings["archive_memory_mb"] << 20,
        cache_folder=Path(settings["archive_cache_dir"]),
        cache_bytes=settings["archive_cache_mb"] << 20,
    )
    return await Archives.open(places, options)


@contextlib.asynccontextmanager
async def opened_archives(settings: Settings) -> AsyncIterator[Archives | None]:
    """`open_archives`, closed at the end. Errors: as it."""
    archives = await open_archives(settings)
    try:
        yield archives
    finally:
        if archives is not None:
            await archives.close()


def objects_below(store: Store, archives: Archives | None, *, asks_nodes: bool = False) -> ObjectStore:
    """The store's objects, with those of the archives below them."""
    if archives is None:
        return store
    from blockstore.archive.tier import ArchivedObjects

    return ArchivedObjects(store, archives, asks_nodes=asks_nodes)


async def warn_of_lacking(store: Store, settings: Settings) -> None:
    """Say in the log which archives the store's rows were made over and the settings do not name."""
    named = {shown_place(place) for place in split_archives(settings["archive"])}
    lacking = [name for name in await archives_of(store) if name not in named]
    if lacking:
        log.warning(
            "rows of the store lead to objects of archives that the setting archive does not name: %s",
            ", ".join(lacking),
        )


def register(metrics: Metrics, archives: Archives) -> None:
    """Declare the metrics."""
    for name, doc, figure in (
        ("follower_archive_reads", "Objects that an archive gave, verified.", "reads"),
        ("follower_archive_cache_hits", "Parts of an archive that were found decompressed in memory.", "hits"),
        ("follower_archive_parts_read", "Parts of an archive that were read and decompressed.", "decoded"),
        ("follower_archive_requests", "Reads of an archive's file: on this machine, or requests.", "fetches"),
        ("follower_archive_bytes_fetched", "Bytes that these reads have brought.", "fetched_bytes"),
        (
            "follower_archive_blocks_cached",
            "Blocks of a remote archive that were found on this machine.",
            "cached_blocks",
        ),
        ("follower_archive_retries", "Requests for parts of an archive that were made again.", "retries"),
    ):
        metrics.labelled_counter(name, doc, "archive", _reader(archives, figure))
    metrics.counter(
        "follower_archive_failures",
        "Objects that an archive has and that could not be read: damage, or a server that does not answer.",
        lambda: archives.failures,
    )


def _reader(archives: Archives, figure: str) -> Callable[[], Mapping[str, float]]:
    return lambda: archives.figures(figure)
