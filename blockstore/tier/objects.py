"""A store's objects with the local disk before it and ranked sources behind: what readers read from.

One read of an object is under way at a time, whoever asks: readers of this process wait for the same future, and
processes of the machine that share a disk tier for the one that has the claim. Absence is never kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from blockstore.cid import verify
from blockstore.errors import BadCid, HashMismatch, StoreError, StoreUnavailable
from blockstore.store import ObjectStore
from blockstore.tier.claims import Claims
from blockstore.tier.disk import DiskTier
from blockstore.tier.sources import PROBED, Outcome, RankedSources

log = logging.getLogger(__name__)

#: bytes of memory of objects that wait to be written to disk
_QUEUE_BYTES: Final = 32 << 20
#: bytes that are reserved for an object before its size is known
_EXPECTED_BYTES: Final = 16 << 10
#: uses that wait to be written; more are not counted
_USES: Final = 8192
#: seconds for which objects and uses are gathered before they are written
_GATHER_SECONDS: Final = 0.05
_USES_SECONDS: Final = 1.0
#: how long another process that has the claim is waited for, and how often the disk is looked at, in seconds
_OTHER_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.004
_CLOSE_SECONDS: Final = 5.0


class TieredObjects:
    """An ObjectStore. `store` takes what is written, `sources` are read; `disk` and `claims` may be left out.

    Bound to the event loop that it was first used in. `close` writes what waits.
    """

    def __init__(
        self,
        store: ObjectStore,
        sources: RankedSources[bytes],
        *,
        disk: DiskTier | None = None,
        claims: Claims | None = None,
        queue_bytes: int = _QUEUE_BYTES,
    ) -> None:
        self._store = store
        self.sources = sources
        self._disk = disk
        self._claims = claims if disk is not None else None
        self._reading: dict[bytes, asyncio.Future[Outcome]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._queue: dict[bytes, bytes] = {}
        #: bytes of the queue, and of what is being fetched for it
        self.reserved_bytes = 0
        self._queue_bytes = queue_bytes
        self._uses: dict[bytes, int] = {}
        self._writing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="object tier") if disk is not None else None
        #: objects found on disk; objects asked of the sources; reads that waited for another of this process, or of
        #: another process; objects that were not kept for want of room in the queue
        self.disk_hits = self.fetched = self.joined = self.waited = self.passed_through = 0

    # --- reading -----------------------------------------------------------------------------------

    async def get(self, multihash: bytes) -> bytes | None:
        """As `Store.get`. Errors: StoreError."""
        return (await self.get_many([multihash]))[0]

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """As `Store.get_many`. Errors: StoreError, for an object that a source which cannot be asked may hold."""
        out = self._local(multihashes)
        waits: dict[int, asyncio.Future[Outcome]] = {}
        fresh: list[bytes] = []
        loop = asyncio.get_running_loop()
        for at, multihash in enumerate(multihashes):
            if out[at] is not None:
                continue
            future = self._reading.get(multihash)
            if future is None:
                future = self._reading[multihash] = loop.create_future()
                fresh.append(multihash)
            else:
                self.joined += 1
            waits[at] = future
        if fresh:
            # a task of its own: the cancellation of one reader must not take the object from the others
            self._start(self._read(fresh))
        for at, future in waits.items():
            outcome = await asyncio.shield(future)
            if isinstance(outcome, StoreError):
                raise outcome
            out[at] = outcome
        return out

    def local(self, multihash: bytes) -> bytes | None:
        """The object if it is on this machine's disk. For those that must not cause a request."""
        return self._local([multihash])[0]

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        """As `Store.put_many`."""
        await self._store.put_many(objects, closed=closed)

    async def keep(self, objects: Iterable[tuple[bytes, bytes]]) -> int:
        """Keep objects on disk that nobody has asked for yet, and whose hashes were checked; how many were given.

        Waits until they are written. Without a disk, nothing is kept.
        """
        given = 0
        batch: dict[bytes, bytes] = {}
        size = 0
        for multihash, data in objects:
            given += 1
            if batch and self._disk is not None and size + len(data) > self._disk.batch_bytes:
                await self._write_now(batch)
                batch, size = {}, 0
            batch[multihash] = data
            size += len(data)
        await self._write_now(batch)
        return given

    async def drop_disk(self) -> None:
        """Drop what is kept on disk, for all processes of this machine."""
        if self._disk is not None and self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._disk.drop_all)

    async def _write_now(self, batch: Mapping[bytes, bytes]) -> None:
        if batch and self._disk is not None and self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._disk.write, batch)

    def _local(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        if self._disk is None:
            return [None] * len(multihashes)
        found = self._disk.get_many(multihashes)
        for at, multihash in enumerate(multihashes):
            if found[at] is None:
                found[at] = self._queue.get(multihash)
            else:
                self.disk_hits += 1
                if len(self._uses) < _USES or multihash in self._uses:
                    self._uses[multihash] = self._uses.get(multihash, 0) + 1
        if self._uses:
            self._write_later()
        return found

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self, multihashes: Sequence[bytes]) -> None:
        """Fulfil the futures of these objects."""
        claims = self._claims
        mine: list[bytes] = []
        other: list[bytes] = []
        for one in multihashes:
            (mine if claims is None or claims.take(one) else other).append(one)
        try:
            if other:
                self._start(self._wait_for_others(other))
            if mine and claims is not None and self._disk is not None:
                # another process may have brought it between the look and the claim
                for multihash, data in zip(mine, self._disk.get_many(mine), strict=True):
                    if data is not None:
                        self._settle(multihash, data)
                        claims.give(multihash)
                mine = [one for one in mine if one in self._reading]
            if mine:
                await self._fetch(mine, claimed=claims is not None)
        finally:
            for multihash in mine:
                # cancelled: whoever waits must not wait for ever
                self._settle(multihash, StoreUnavailable("the process stops"))

    async def _wait_for_others(self, multihashes: Sequence[bytes]) -> None:
        """Wait for objects that other processes fetch; what does not come is fetched here."""
        assert self._disk is not None and self._claims is not None
        self.waited += len(multihashes)
        left = list(multihashes)
        until = asyncio.get_running_loop().time() + _OTHER_SECONDS
        try:
            while left and asyncio.get_running_loop().time() < until:
                await asyncio.sleep(_LOOK_SECONDS)
                still: list[bytes] = []
                freed: list[bytes] = []
                for multihash in left:
                    # the claim is given back behind the write: who gets it looks once more
                    (freed if self._claims.take(multihash) else still).append(multihash)
                for multihash, data in zip(left, self._disk.get_many(left), strict=True):
                    if data is not None:
                        self._settle(multihash, data)
                        if multihash in freed:
                            self._claims.give(multihash)
                claimed = [one for one in freed if one in self._reading]
                left = [one for one in still if one in self._reading]
                if claimed:
                    await self._fetch(claimed, claimed=True)
            if left:
                await self._fetch(left, claimed=False)
        finally:
            for multihash in multihashes:
                self._settle(multihash, StoreUnavailable("the process stops"))

    async def _fetch(self, multihashes: Sequence[bytes], *, claimed: bool) -> None:
        """Ask the sources, verify, keep. Gives claims back when the objects are on disk."""
        reserved = self._reserve(len(multihashes))
        kept: list[bytes] = []
        try:
            outcomes = await self._ask_sources(multihashes)
            for multihash, outcome in zip(multihashes, outcomes, strict=True):
                if isinstance(outcome, bytes) and self._disk is not None:
                    size = len(outcome)
                    # what was reserved is used up first; more must be free
                    more = max(0, size - reserved)
                    if size <= self._disk.object_bytes and self.reserved_bytes + more <= self._queue_bytes:
                        self.reserved_bytes += more
                        reserved -= size - more
                        self._queue[multihash] = outcome
                        kept.append(multihash)
                    else:
                        self.passed_through += 1
                self._settle(multihash, outcome)
        finally:
            self.reserved_bytes -= reserved
            if claimed and self._claims is not None:
                for multihash in multihashes:
                    if multihash not in kept:
                        self._claims.give(multihash)
        if kept:
            self._write_later()

    def _reserve(self, count: int) -> int:
        """Bytes of the queue for so many objects that are about to be fetched: what is free, if it is less."""
        if self._disk is None:
            return 0
        size = max(0, min(count * _EXPECTED_BYTES, self._queue_bytes - self.reserved_bytes))
        self.reserved_bytes += size
        return size

    async def _ask_sources(self, multihashes: Sequence[bytes]) -> Sequence[Outcome]:
        self.fetched += len(multihashes)
        try:
            return await self.sources.read(multihashes)
        except StoreError as error:
            return [error] * len(multihashes)

    def _settle(self, multihash: bytes, outcome: Outcome) -> None:
        future = self._reading.pop(multihash, None)
        if future is not None and not future.done():
            future.set_result(outcome)

    # --- writing -----------------------------------------------------------------------------------

    def _write_later(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_on())

    async def _write_on(self) -> None:
        """Write until nothing waits."""
        while self._queue or self._uses:
            await asyncio.sleep(_GATHER_SECONDS if self._queue else _USES_SECONDS)
            await self._write_some()

    async def _write_some(self) -> None:
        assert self._disk is not None and self._thread is not None
        batch: dict[bytes, bytes] = {}
        size = 0
        for multihash, data in self._queue.items():
            size += len(data)
            if batch and size > self._disk.batch_bytes:
                break
            batch[multihash] = data
        uses, self._uses = self._uses, {}
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._disk.write, batch, uses.items())
        finally:
            for multihash, data in batch.items():
                self._queue.pop(multihash, None)
                self.reserved_bytes -= len(data)
                if self._claims is not None:
                    self._claims.give(multihash)

    async def close(self) -> None:
        """Write what waits, for a few seconds at most; close the disk tier. A second call does nothing."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._disk is None or self._thread is None:
            return
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                while self._queue or self._uses:
                    await self._write_some()
        except TimeoutError:
            log.info("%d objects were not written to the object tier", len(self._queue))
        # a write that is under way ends first
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._disk.close()
        if self._claims is not None:
            self._claims.close()
        self._thread = None


def verified(multihash: bytes, data: bytes, name: str) -> Outcome:
    """The object that a source sent, or the error that says it sent another. A hash that is not known here passes."""
    try:
        verify(multihash, data)
    except BadCid:
        return data
    except HashMismatch:
        log.error("%s answered bytes that are not those of multihash %s", name, multihash.hex())
        return StoreUnavailable(f"{name} answered other bytes")
    return data


class StoreSource:
    """A store as a source. Errors of one object are errors of the request, as they are in a store."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store = store
        self.name = name

    async def read(self, keys: Sequence[bytes]) -> Sequence[Outcome]:
        """See Source."""
        if len(keys) == 1:
            found = [await self._store.get(keys[0])]
        else:
            found = await self._store.get_many(keys)
        return [None if data is None else verified(key, data, self.name) for key, data in zip(keys, found, strict=True)]

    async def probe(self) -> None:
        """See Source."""
        await self._store.get(PROBED.multihash)
