"""Looks for more sources while few are in use: at most once a minute, in a list that may change meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Final

from blockstore.background import in_background
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.sources.source import SourceError, SyncSource
from leader_bridge.sync.sources.source_set import DISCOVERY_SECONDS

#: makes the sources that are named now, those of these names left out
FindSources = Callable[[Collection[str]], Sequence[SyncSource]]

_OFFER_SECONDS: Final = 20.0


@contextlib.asynccontextmanager
async def looking_for_sources(pool: Pool, find: FindSources | None) -> AsyncIterator[None]:
    """Look within the block. `find` None: there is nowhere to look."""
    looking = None if find is None else in_background(_look(pool, find), "the search for sources")
    try:
        yield
    finally:
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)


async def _look(pool: Pool, find: FindSources) -> None:
    while True:
        await asyncio.sleep(DISCOVERY_SECONDS)
        wanted = pool.wanted()
        if wanted:
            found = find(pool.standings.keys())
            # who is not asked this time is closed by nobody else
            for source in found[wanted:]:
                await source.close()
            await asyncio.gather(*(_add(pool, source) for source in found[:wanted]))


async def _add(pool: Pool, source: SyncSource) -> None:
    """Use a source if it tells its head, and with it its limit; else it is looked for again."""
    try:
        async with asyncio.timeout(_OFFER_SECONDS):
            await source.offer()
    except (SourceError, TimeoutError):
        await source.close()
    except BaseException:
        # nobody else knows of it yet
        await source.close()
        raise
    else:
        pool.add(source)
