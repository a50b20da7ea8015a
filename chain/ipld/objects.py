"""Objects by CID, as every reader of the chain sees them: cached, verified, fetched when lazily held."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from cachetools import LRUCache

from blockstore.cid import Cid, verify
from blockstore.errors import HashMismatch, Missing, StoreError, StoreUnavailable
from blockstore.store import Store

log = logging.getLogger(__name__)

#: Asks full nodes for objects: for each, in order, its bytes, None where no node has it, or why it cannot be
#: told now. Raises StoreError, when nothing at all can be told.
Fetch = Callable[[Sequence[Cid]], Awaitable[Sequence[bytes | StoreError | None]]]

_Found = bytes | StoreError | None

#: what a cached entry costs beside its bytes
_OVERHEAD = 150


class ObjectReader(Protocol):
    """What trees and decoders read from."""

    async def get(self, cid: bytes) -> bytes:
        """The object's bytes. Errors: Missing."""

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        """The objects in the order asked for: one round trip. Errors: Missing (the first that is)."""


class Objects:
    """An ObjectReader over a store, with an LRU cache of `cache_bytes`.

    With `fetch` (lazy state) a missing object is asked of the sources once however many wait for it,
    verified by its hash, and stored as a loose object; what is missed at the same moment goes into one
    request. Absence is never cached.
    """

    def __init__(self, store: Store, *, cache_bytes: int = 64 << 20, fetch: Fetch | None = None) -> None:
        self._store = store
        self._fetch = fetch
        self._cache: LRUCache[bytes, bytes] = LRUCache(cache_bytes, getsizeof=lambda v: len(v) + _OVERHEAD)
        self._cache_limit = cache_bytes // 16
        #: by multihash
        self._waiting: dict[bytes, asyncio.Future[_Found]] = {}
        self._wanted: list[Cid] = []
        self._asking: set[asyncio.Task[None]] = set()
        self.reads = 0
        self.round_trips = 0
        self.fetched = 0

    async def get(self, cid: bytes) -> bytes:
        """The object's bytes. Errors: Missing, HashMismatch (a lying source), StoreUnavailable."""
        multihash = cid[2:] if cid[:1] == b"\x01" and cid[1] < 0x80 else Cid(cid).multihash
        found = self._cache.get(multihash)
        if found is not None:
            return found
        if multihash[:1] == b"\0":
            return Cid(cid).identity_content
        self.reads += 1
        self.round_trips += 1
        data = await self._store.get(multihash)
        if data is None:
            data = (await self._fetch_missing([Cid(cid)]))[0]
        if len(data) < self._cache_limit:
            self._cache[multihash] = data
        return data

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        """The objects in the order asked for. Errors: Missing, HashMismatch, StoreUnavailable."""
        out: list[bytes | None] = [None] * len(cids)
        asked: list[int] = []
        hashes: list[bytes] = []
        for at, cid in enumerate(cids):
            multihash = Cid(cid).multihash
            if multihash[:1] == b"\0":
                out[at] = Cid(cid).identity_content
            elif (found := self._cache.get(multihash)) is not None:
                out[at] = found
            else:
                asked.append(at)
                hashes.append(multihash)
        if asked:
            self.reads += len(asked)
            self.round_trips += 1
            missing: list[int] = []
            for at, multihash, data in zip(asked, hashes, await self._store.get_many(hashes), strict=True):
                if data is None:
                    missing.append(at)
                    continue
                out[at] = data
                if len(data) < self._cache_limit:
                    self._cache[multihash] = data
            if missing:
                wanted = [Cid(cids[at]) for at in missing]
                for at, data in zip(missing, await self._fetch_missing(wanted), strict=True):
                    out[at] = data
                    if len(data) < self._cache_limit:
                        self._cache[Cid(cids[at]).multihash] = data
        return out  # type: ignore[return-value]

    async def has(self, cid: bytes) -> bool:
        """Whether the object is held here (no source is asked)."""
        multihash = Cid(cid).multihash
        return multihash[:1] == b"\0" or bool((await self._store.held_many([multihash]))[0])

    async def _fetch_missing(self, cids: Sequence[Cid]) -> list[bytes]:
        if self._fetch is None:
            raise Missing(cids[0])
        waits: list[asyncio.Future[_Found]] = []
        loop = asyncio.get_running_loop()
        for cid in cids:
            # by multihash: one object may be named under two codecs
            future = self._waiting.get(cid.multihash)
            if future is None:
                future = self._waiting[cid.multihash] = loop.create_future()
                if not self._wanted:
                    # what others miss until this task's first step goes into the same request
                    asking = loop.create_task(self._ask_wanted())
                    self._asking.add(asking)
                    asking.add_done_callback(self._asking.discard)
                self._wanted.append(cid)
            waits.append(future)
        out: list[bytes] = []
        for cid, future in zip(cids, waits, strict=True):
            # a request that is given up must not take the object from the others that wait for it
            found = await asyncio.shield(future)
            if found is None:
                raise Missing(cid)
            if not isinstance(found, bytes):
                raise found
            out.append(found)
        return out

    async def _ask_wanted(self) -> None:
        cids, self._wanted = self._wanted, []
        outcomes: dict[bytes, _Found] = {}
        try:
            outcomes = await self._asked(cids)
        except StoreError as error:
            outcomes = dict.fromkeys((cid.multihash for cid in cids), error)
        except Exception as error:
            log.exception("objects could not be fetched")
            wrapped = StoreUnavailable(f"an object cannot be fetched now: {type(error).__name__}")
            outcomes = dict.fromkeys((cid.multihash for cid in cids), wrapped)
        finally:
            for cid in cids:
                future = self._waiting.pop(cid.multihash)
                if future.done():
                    continue
                if cid.multihash in outcomes:
                    future.set_result(outcomes[cid.multihash])
                else:
                    future.cancel()

    async def _asked(self, cids: list[Cid]) -> dict[bytes, _Found]:
        """What became of each, by multihash: bytes that are verified and stored, None, or an error."""
        assert self._fetch is not None
        outcomes: dict[bytes, _Found] = {}
        # whoever missed an object may have looked just before another's fetch of it was stored
        left: list[Cid] = []
        for cid, data in zip(cids, await self._store.get_many([cid.multihash for cid in cids]), strict=True):
            if data is None:
                left.append(cid)
            else:
                outcomes[cid.multihash] = data
        if not left:
            return outcomes
        good: list[tuple[bytes, bytes]] = []
        for cid, found in zip(left, await self._fetch(left), strict=True):
            outcomes[cid.multihash] = found
            if isinstance(found, bytes):
                try:
                    verify(cid.multihash, found)
                except HashMismatch as error:
                    outcomes[cid.multihash] = error
                else:
                    good.append((cid.multihash, found))
        await self._store.put_many(good, closed=False)
        self.fetched += len(good)
        return outcomes
