"""The stage of states: everything under the state root of the pivot, by batches of objects from many sources.

The walk stores children before parents and stops at what is closed, so a killed one goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from blockstore.cid import Cid
from blockstore.generations import objects_of
from blockstore.store import Store
from leader_bridge.imports.progress import Reporter
from leader_bridge.nodes.sources import Fetched
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.storing import StoringFetcher, prompt_mirror


class _Counted:
    """A `Fetcher` that shows how much has come."""

    def __init__(self, fetcher: StoringFetcher, progress: Reporter) -> None:
        self._fetcher = fetcher
        self._progress = progress
        self._objects = self._bytes = 0

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        fetched = await self._fetcher.fetch(cids)
        self._objects += len(fetched.found)
        self._bytes += sum(map(len, fetched.found.values()))
        self._progress.at(self._objects, f"{self._bytes / 1e6:,.0f} MB")
        return fetched


async def close_states(
    store: Store, pool: Pool, roots: Sequence[Cid], progress: Reporter, *, actor_code: bool = False
) -> set[Cid]:
    """Get everything under some state roots; those that no source holds whole. Errors: StoreError, BadObject."""
    progress.phase("state", None, "objects")
    progress.at(0)
    place = objects_of(store)
    mirror = prompt_mirror(
        store,
        _Counted(StoringFetcher(pool, place), progress),
        # each source has a request in flight, and the next one waits
        in_flight=2 * pool.most_at_once + 1,
        actor_code=actor_code,
    )
    return (await mirror.close(roots, place)).failed
