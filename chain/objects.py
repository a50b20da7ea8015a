"""Objects by CID, as every reader of the chain sees them: cached, verified, fetched when lazily held."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from cachetools import LRUCache

from blockstore.cid import Cid, verify
from blockstore.errors import HashMismatch, Missing
from blockstore.store import Store

#: Asks a full node for objects: the bytes in the order asked for, None for one it does not have.
Fetch = Callable[[Sequence[Cid]], Awaitable[list[bytes | None]]]

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
    verified by its hash, and stored as a loose object. Absence is never cached.
    """

    def __init__(self, store: Store, *, cache_bytes: int = 64 << 20, fetch: Fetch | None = None) -> None:
        self._store = store
        self._fetch = fetch
        self._cache: LRUCache[bytes, bytes] = LRUCache(cache_bytes, getsizeof=lambda v: len(v) + _OVERHEAD)
        self._cache_limit = cache_bytes // 16
        self._waiting: dict[bytes, asyncio.Future[bytes | None]] = {}
        self.reads = 0
        self.round_trips = 0
        self.fetched = 0

    async def get(self, cid: bytes) -> bytes:
        """The object's bytes. Errors: Missing, HashMismatch (a lying source)."""
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
        """The objects in the order asked for. Errors: Missing, HashMismatch."""
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
        return out  # type: ignore[return-value]

    async def has(self, cid: bytes) -> bool:
        """Whether the object is held here (no source is asked)."""
        multihash = Cid(cid).multihash
        return multihash[:1] == b"\0" or bool((await self._store.held_many([multihash]))[0])

    async def _fetch_missing(self, cids: Sequence[Cid]) -> list[bytes]:
        if self._fetch is None:
            raise Missing(cids[0])
        waits: list[asyncio.Future[bytes | None]] = []
        mine: list[Cid] = []
        loop = asyncio.get_running_loop()
        for cid in cids:
            future = self._waiting.get(cid)
            if future is None:
                future = self._waiting[cid] = loop.create_future()
                mine.append(cid)
            waits.append(future)
        if mine:
            await self._ask(mine)
        out: list[bytes] = []
        for cid, future in zip(cids, waits, strict=True):
            data = await asyncio.shield(future)
            if data is None:
                raise Missing(cid)
            out.append(data)
        return out

    async def _ask(self, cids: list[Cid]) -> None:
        assert self._fetch is not None
        try:
            found = await self._fetch(cids)
            good: list[tuple[bytes, bytes]] = []
            bad: HashMismatch | None = None
            for cid, data in zip(cids, found, strict=True):
                if data is None:
                    continue
                try:
                    verify(cid.multihash, data)
                except HashMismatch as error:
                    bad = error
                else:
                    good.append((cid.multihash, data))
            await self._store.put_many(good, closed=False)
            self.fetched += len(good)
            if bad is not None:
                raise bad
        except BaseException as error:
            for cid in cids:
                future = self._waiting.pop(cid, None)
                if future is not None and not future.done():
                    if isinstance(error, Exception):
                        future.set_exception(error)
                        future.exception()  # seen: whoever waits raises it, nobody may be waiting
                    else:
                        future.cancel()
            raise
        for cid, data in zip(cids, found, strict=True):
            future = self._waiting.pop(cid)
            if not future.done():
                future.set_result(data)
