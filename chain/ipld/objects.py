"""Reads objects by CID, for all readers of the chain. Caches them. In lazy mode it fetches missing ones from nodes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from blockstore.cid import Cid, verify
from blockstore.errors import HashMismatch, Missing, StoreError, StoreUnavailable
from blockstore.store import ObjectStore
from chain.genesis_parent import GENESIS_PARENT, GENESIS_PARENT_MULTIHASH
from chain.ipld.object_cache import ObjectCache

log = logging.getLogger(__name__)

#: Asks full nodes for objects. Returns for each, in order: its bytes, None if no node has it, or the error that
#: prevented an answer. Raises StoreError when no node could be asked.
Fetch = Callable[[Sequence[Cid]], Awaitable[Sequence[bytes | StoreError | None]]]

_Found = bytes | StoreError | None

_MADE_BYTES = 64 << 20


class FetchFailed(StoreUnavailable):
    """An object that is not held, and that no full node gives now."""

    def __init__(self, cid: Cid, reason: str) -> None:
        super().__init__(f"object {cid}; a full node would have it, but cannot be asked now: {reason}")


class ObjectReader(Protocol):
    """The source that trees and decoders read objects from."""

    async def get(self, cid: bytes) -> bytes:
        """The object's bytes. Errors: Missing."""

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        """The objects in the order of `cids`, in one round trip. Errors: Missing (names the first missing object)."""


async def let_others_go_on(reader: ObjectReader) -> None:
    """Let others go on in a walk: a local store answers without waiting. A reader with a `checkpoint` tells when."""
    checkpoint = getattr(reader, "checkpoint", None)
    await (asyncio.sleep(0) if checkpoint is None else checkpoint())


class Objects:
    """An ObjectReader over a store (and the archives below it), with an LRU cache of `cache_bytes`.

    With `fetch` (lazy state), a missing object is fetched once for all that wait for it, verified by its hash, and
    stored as a loose object. Objects that are missed in the same step of the event loop go into one request. Absence is
    never cached.
    """

    def __init__(self, store: ObjectStore, *, cache_bytes: int = 64 << 20, fetch: Fetch | None = None) -> None:
        self._store = store
        self._fetch = fetch
        self._cache = ObjectCache(cache_bytes)
        #: objects of states that were executed here and are on no chain yet
        self._made = ObjectCache(_MADE_BYTES)
        #: the fetch that is under way for each multihash
        self._waiting: dict[bytes, asyncio.Future[_Found]] = {}
        self._to_fetch: list[Cid] = []
        self._fetch_tasks: set[asyncio.Task[None]] = set()
        self.reads = 0
        self.round_trips = 0
        self.fetched = 0

    @property
    def cached_bytes(self) -> int:
        """The memory of the cached objects, in bytes."""
        return self._cache.used_bytes

    @property
    def cache_bytes(self) -> int:
        """The most that they may take."""
        return self._cache.max_bytes

    @property
    def is_lazy(self) -> bool:
        """Whether full nodes are asked for objects that are missing."""
        return self._fetch is not None

    async def get(self, cid: bytes) -> bytes:
        """The object's bytes. Errors: Missing, HashMismatch (a node sent other bytes), StoreUnavailable."""
        multihash = cid[2:] if cid[:1] == b"\x01" and cid[1] < 0x80 else Cid(cid).multihash
        found = self._cache.get(multihash)
        if found is not None:
            return found
        if multihash[:1] == b"\0":
            return Cid(cid).identity_content
        self.reads += 1
        self.round_trips += 1
        data = await self._store.get(multihash) or self._made.get(multihash)
        if data is None:
            data = (await self._fetch_missing([Cid(cid)]))[0]
        self._cache.put(multihash, data)
        return data

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        """The objects in the order of `cids`. Errors: Missing, HashMismatch, StoreUnavailable."""
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
                data = data or self._made.get(multihash)
                if data is None:
                    missing.append(at)
                    continue
                out[at] = data
                self._cache.put(multihash, data)
            if missing:
                wanted = [Cid(cids[at]) for at in missing]
                for at, data in zip(missing, await self._fetch_missing(wanted), strict=True):
                    out[at] = data
                    self._cache.put(Cid(cids[at]).multihash, data)
        return out  # type: ignore[return-value]

    def is_cached(self, cid: bytes) -> bool:
        """Whether the object is in memory."""
        return Cid(cid).multihash in self._cache

    def cached(self, multihash: bytes) -> bytes | None:
        """The object if it is in memory."""
        return self._cache.get(multihash)

    async def get_held(self, multihash: bytes) -> bytes | None:
        """The object if it is held here: no node is asked. Errors: StoreError."""
        return self._cache.get(multihash) or await self._store.get(multihash)

    def drop_cached(self) -> None:
        """Drop the objects in memory that are stored."""
        self._cache.clear()

    def remember(self, objects: Mapping[bytes, bytes]) -> None:
        """Keep objects (bytes by multihash) that are not stored, the newest 64 MiB of them, in memory."""
        for multihash, data in objects.items():
            self._made.put(multihash, data)

    async def _fetch_missing(self, cids: Sequence[Cid]) -> list[bytes]:
        if any(cid.multihash == GENESIS_PARENT_MULTIHASH for cid in cids):
            others = iter(await self._fetch_missing([cid for cid in cids if cid.multihash != GENESIS_PARENT_MULTIHASH]))
            return [GENESIS_PARENT if cid.multihash == GENESIS_PARENT_MULTIHASH else next(others) for cid in cids]
        if not cids:
            return []
        if self._fetch is None:
            raise Missing(cids[0])
        waits: list[asyncio.Future[_Found]] = []
        loop = asyncio.get_running_loop()
        for cid in cids:
            # by multihash: two CIDs of different codecs may name one object
            future = self._waiting.get(cid.multihash)
            if future is None:
                future = self._waiting[cid.multihash] = loop.create_future()
                if not self._to_fetch:
                    # what other readers miss before this task's first step goes into the same request
                    task = loop.create_task(self._fetch_batch())
                    self._fetch_tasks.add(task)
                    task.add_done_callback(self._fetch_tasks.discard)
                self._to_fetch.append(cid)
            waits.append(future)
        out: list[bytes] = []
        for cid, future in zip(cids, waits, strict=True):
            # the cancellation of one reader must not cancel the fetch for the others
            found = await asyncio.shield(future)
            if found is None:
                raise Missing(cid)
            if not isinstance(found, bytes):
                raise found
            out.append(found)
        return out

    async def _fetch_batch(self) -> None:
        cids, self._to_fetch = self._to_fetch, []
        outcomes: dict[bytes, _Found] = {}
        try:
            outcomes = await self._fetch_and_store(cids)
        except StoreError as error:
            outcomes = dict.fromkeys((cid.multihash for cid in cids), error)
        except Exception as error:
            log.exception("cannot fetch objects")
            wrapped = StoreUnavailable(f"cannot fetch an object now: {type(error).__name__}")
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

    async def _fetch_and_store(self, cids: list[Cid]) -> dict[bytes, _Found]:
        """The outcome for each multihash: bytes (verified and stored), None (no node has it), or an error."""
        assert self._fetch is not None
        outcomes: dict[bytes, _Found] = {}
        # another fetch may have stored an object after this reader had missed it
        to_ask: list[Cid] = []
        for cid, data in zip(cids, await self._store.get_many([cid.multihash for cid in cids]), strict=True):
            if data is None:
                to_ask.append(cid)
            else:
                outcomes[cid.multihash] = data
        if not to_ask:
            return outcomes
        verified: list[tuple[bytes, bytes]] = []
        for cid, found in zip(to_ask, await self._fetch(to_ask), strict=True):
            outcomes[cid.multihash] = found
            if isinstance(found, bytes):
                try:
                    verify(cid.multihash, found)
                except HashMismatch as error:
                    outcomes[cid.multihash] = error
                else:
                    verified.append((cid.multihash, found))
        await self._store.put_many(verified, closed=False)
        self.fetched += len(verified)
        return outcomes
