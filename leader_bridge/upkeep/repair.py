"""Where a repair gets objects from, and how it writes them: verified by their hash, children before parents."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from blockstore.cid import Cid, verify
from blockstore.errors import BadCid, HashMismatch, StoreError, StoreUnavailable
from blockstore.generations import ObjectsInto, put_lasting
from blockstore.scan import replace_objects
from blockstore.scan_pages import StoredObject
from blockstore.store import Batch, Store
from leader_bridge.nodes.sources import Fetched, NoSource
from leader_bridge.store.mirror import Fetcher, Mirror
from leader_bridge.upkeep.careful import read_many
from leader_bridge.upkeep.damage import cid_under

log = logging.getLogger(__name__)

#: seconds that a repair waits for nodes that cannot be asked just now
_PATIENCE_SECONDS = 20.0


class StoreFetcher:
    """A `Fetcher` that reads another store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        """What the other store holds, each verified. Errors: StoreError."""
        fetched = Fetched()
        for cid, data in zip(cids, await read_many(self._store, [cid.multihash for cid in cids]), strict=True):
            try:
                if data is not None:
                    verify(cid.multihash, data)
                    fetched.found[cid] = data
                    continue
            except (HashMismatch, BadCid):
                log.warning("%s holds other bytes under %s", self._store.url, cid)
            fetched.missing.append(cid)
        return fetched


class FirstOf:
    """A `Fetcher` that asks one after another for what those before it do not have."""

    def __init__(self, fetchers: Sequence[Fetcher]) -> None:
        self._fetchers = fetchers

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        """Errors: NoSource (nodes cannot be asked), StoreError."""
        fetched = Fetched(missing=list(dict.fromkeys(cids)))
        for fetcher in self._fetchers:
            if not fetched.missing:
                break
            more = await fetcher.fetch(fetched.missing)
            fetched.found.update(more.found)
            fetched.missing = more.missing
        return fetched


class Mender:
    """Mends a store. The process that uses it leads: no bridge writes meanwhile."""

    def __init__(self, store: Store, fetcher: Fetcher) -> None:
        self._store = store
        self._mirror = Mirror(store, fetcher, missing_object_timeout_seconds=_PATIENCE_SECONDS)

    async def fetch(self, cids: Sequence[Cid]) -> dict[Cid, bytes]:
        """Verified bytes of what can be had now. Errors: StoreError."""
        try:
            return (await self._mirror.fetch(cids)).found if cids else {}
        except NoSource as error:
            log.warning("nothing is fetched: %s", error)
            return {}

    async def replace(self, damaged: Sequence[StoredObject]) -> list[StoredObject]:
        """Write the right bytes over damaged objects; those that were mended, as they are now. Errors: StoreError."""
        found = await self.fetch([cid_under(one.multihash) for one in damaged])
        mended = [one._replace(data=found[cid]) for one in damaged if (cid := cid_under(one.multihash)) in found]
        if mended:
            await replace_objects(self._store, mended)
        return mended

    async def put_closed(self, objects: Iterable[tuple[bytes, bytes]]) -> None:
        """Store block headers, which are closed by themselves. Errors: StoreError."""
        await put_lasting(self._store, dict(objects))

    async def close(self, roots: Sequence[Cid], place: int | None = None) -> set[Cid]:
        """Fetch and close everything under `roots`; those of which something cannot be had. `place`: where to (None:
        the current generation). Errors: StoreError."""
        into = ObjectsInto(self._store, place) if place is not None else None
        try:
            return (await self._mirror.close(roots, into)).failed if roots else set()
        except NoSource as error:
            log.warning("nothing is fetched: %s", error)
            return set(roots)
        except StoreUnavailable:
            raise
        except StoreError as error:
            # the walk came to an object that cannot be read; the check comes to it too
            log.warning("nothing is fetched: %s", error)
            return set(roots)

    async def write(self, batch: Batch) -> None:
        """Write rows. Errors: StoreError."""
        if batch:
            await self._store.write(batch)
