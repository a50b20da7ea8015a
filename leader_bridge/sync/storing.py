"""Fetchers that have stored what came before its source is asked again: a kill loses what was in flight, no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blockstore.cid import Cid
from blockstore.generations import ObjectPlace
from blockstore.store import Held, Store
from leader_bridge.nodes.sources import Fetched
from leader_bridge.store.mirror import Fetcher, Mirror, split_links
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.requests import Priority


class StoringFetcher:
    """Objects from the pool, stored in `place` as they come: what has no links closed, the rest loose.

    Only for walks that write to the same place.
    """

    def __init__(self, pool: Pool, place: ObjectPlace, priority: Priority = Priority.LOW) -> None:
        self._pool = pool
        self._place = place
        self._priority = priority

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        """Errors: Closed, StoreError, BadObject."""
        return await self._pool.objects(cids, self._priority, self._store)

    async def _store(self, found: Mapping[Cid, bytes]) -> Mapping[Cid, Held]:
        stored = {cid: Held.LOOSE if any(split_links(cid, data)) else Held.CLOSED for cid, data in found.items()}
        for how in (Held.CLOSED, Held.LOOSE):
            some = [(cid.multihash, data) for cid, data in found.items() if stored[cid] == how]
            if some:
                await self._place.put_many(some, closed=how == Held.CLOSED)
        return stored


def prompt_mirror(store: Store, fetcher: Fetcher, *, in_flight: int = 2, actor_code: bool = False) -> Mirror:
    """Walks that write what they have got at once."""
    return Mirror(store, fetcher, in_flight=in_flight, actor_code=actor_code, flush_objects=1, spill_bytes=1)
