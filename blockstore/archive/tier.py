"""The archives below a store: an object that the store lacks is looked for in each of them, in their order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import lmdb

from blockstore.archive.archive import Archive, Outcome, open_archive
from blockstore.archive.block_cache import BlockCache
from blockstore.archive.http_source import HttpFile, open_http
from blockstore.archive.named import is_url, shown_place
from blockstore.archive.source import ArchiveChanged, ByteSource, LocalFile
from blockstore.errors import BadCar, StoreError, StoreUnavailable
from blockstore.store import ObjectStore

log = logging.getLogger(__name__)

_THREADS: Final = 4
#: seconds between two tries to open an archive that cannot be read
_REOPEN_SECONDS: Final = 5.0
#: seconds between two lines in the log about damage
_SAY_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class ArchiveOptions:
    """`memory_bytes` of decompressed parts a process; `cache_bytes` of remote files in `cache_folder`, in all."""

    memory_bytes: int = 64 << 20
    cache_folder: Path | None = None
    cache_bytes: int = 1 << 30


class Archives:
    """Archives in the order in which they are asked. Opened by `open`; `close` it."""

    def __init__(self, places: Sequence[str], options: ArchiveOptions) -> None:
        self._options = options
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="archive")
        self._cache: BlockCache | None = None
        self._places = list(places)
        self._open: list[Archive | None] = [None] * len(self._places)
        self._opening = [asyncio.Lock() for _ in self._places]
        #: why an archive is not open, and when it was tried last
        self._refusals: list[StoreError | None] = [None] * len(self._places)
        self._tried = [0.0] * len(self._places)
        self._said = 0.0
        #: objects that were damaged, or could not be read
        self.failures = 0
        self._past = [_Figures() for _ in self._places]

    @classmethod
    async def open(cls, places: Sequence[str], options: ArchiveOptions | None = None) -> Archives:
        """Open archives: paths and URLs. One that cannot be reached now is tried again when it is needed.

        Errors: BadCar (a file without an index that is read here), StoreUnavailable (a file on this machine).
        """
        self = cls(places, options or ArchiveOptions())
        try:
            await self._open_cache()
            for at, place in enumerate(self._places):
                try:
                    await self._opened(at)
                except BadCar:
                    raise
                except StoreError as error:
                    if not is_url(place):
                        raise
                    log.warning("%s; it is tried again", error)
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Close the files. A second call does nothing."""
        for at, archive in enumerate(self._open):
            if archive is not None:
                self._open[at] = None
                await archive.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    @property
    def names(self) -> list[str]:
        """The archives' names, without secrets."""
        return [shown_place(place) for place in self._places]

    async def first(self) -> Archive:
        """The first archive, whose head is the chain's. Errors: BadCar, StoreUnavailable."""
        return await self._opened(0)

    async def all(self) -> list[Archive]:
        """Every archive. Errors: BadCar, StoreUnavailable."""
        return [await self._opened(at) for at in range(len(self._places))]

    async def outcomes(self, multihashes: Sequence[bytes]) -> list[Outcome]:
        """Each object from the first archive that has it; None, or the first error, where none gives it."""
        out: list[Outcome] = [None] * len(multihashes)
        left = list(range(len(multihashes)))
        for at in range(len(self._places)):
            if not left:
                break
            found = await self._from(at, [multihashes[number] for number in left])
            still: list[int] = []
            for number, outcome in zip(left, found, strict=True):
                if isinstance(outcome, bytes):
                    out[number] = outcome
                else:
                    out[number] = out[number] or outcome
                    still.append(number)
            left = still
        failed = [found for found in out if isinstance(found, StoreError)]
        if failed:
            self._say(failed)
        return out

    def _say(self, failed: Sequence[StoreError]) -> None:
        self.failures += len(failed)
        now = time.monotonic()
        if not self._said or now - self._said >= _SAY_SECONDS:
            self._said = now
            log.error("%d objects cannot be read from an archive, the first one because: %s", len(failed), failed[0])

    async def _from(self, at: int, multihashes: Sequence[bytes]) -> Sequence[Outcome]:
        try:
            archive = await self._opened(at)
            try:
                found = await archive.get_many(multihashes)
            except ArchiveChanged as error:
                await self._drop(at, archive, error)
                raise
            changed = next((outcome for outcome in found if isinstance(outcome, ArchiveChanged)), None)
            if changed is not None:
                await self._drop(at, archive, changed)
            return found
        except StoreError as error:
            return [error] * len(multihashes)

    # --- opening -----------------------------------------------------------------------------------

    async def _open_cache(self) -> None:
        folder = self._options.cache_folder
        if folder is None or not any(map(is_url, self._places)):
            return
        try:
            self._cache = await asyncio.to_thread(BlockCache, folder, self._options.cache_bytes)
        except (OSError, lmdb.Error) as error:
            raise StoreUnavailable(f"the cache of archives in {folder} cannot be opened: {error}") from None

    async def _opened(self, at: int) -> Archive:
        archive = self._open[at]
        if archive is not None:
            return archive
        async with self._opening[at]:
            archive = self._open[at]
            if archive is not None:
                return archive
            refusal = self._refusals[at]
            if refusal is not None and time.monotonic() - self._tried[at] < _REOPEN_SECONDS:
                raise refusal
            self._tried[at] = time.monotonic()
            try:
                archive = self._open[at] = await self._open_one(self._places[at])
            except StoreError as error:
                self._refusals[at] = error
                raise
            self._refusals[at] = None
            return archive

    async def _open_one(self, place: str) -> Archive:
        source: ByteSource
        if is_url(place):
            source = await open_http(place, self._executor, self._cache)
        else:
            try:
                source = LocalFile(place, self._executor)
            except OSError as error:
                raise StoreUnavailable(f"{place}: {error.strerror}") from None
        try:
            return await open_archive(source, self._executor, self._options.memory_bytes // len(self._places))
        except BaseException:
            await source.close()
            raise

    async def _drop(self, at: int, archive: Archive, error: ArchiveChanged) -> None:
        """Close an archive whose file has changed: the next read opens the new one."""
        if self._open[at] is not archive:
            return
        self._open[at] = None
        log.error("%s; it is opened anew", error)
        self._past[at].add(archive)
        await archive.close()

    # --- figures -----------------------------------------------------------------------------------

    def figures(self, name: str) -> dict[str, float]:
        """A figure (an attribute of `_Figures`) of each archive since the start, by the archive's name."""
        out: dict[str, float] = {}
        for at, place in enumerate(self._places):
            now = _Figures()
            now.merge(self._past[at])
            if (archive := self._open[at]) is not None:
                now.add(archive)
            shown = shown_place(place)
            out[shown] = out.get(shown, 0) + getattr(now, name)
        return out


@dataclass(slots=True)
class _Figures:
    """What was done with an archive: see `Archive` and `HttpFile`."""

    reads: int = 0
    hits: int = 0
    decoded: int = 0
    fetches: int = 0
    fetched_bytes: int = 0
    cached_blocks: int = 0
    retries: int = 0

    def add(self, archive: Archive) -> None:
        self.reads += archive.reads
        self.hits += archive.hits
        self.decoded += archive.decoded
        self.fetches += archive.source.fetches
        self.fetched_bytes += archive.source.fetched_bytes
        if isinstance(archive.source, HttpFile):
            self.cached_blocks += archive.source.cached_blocks
            self.retries += archive.source.retries

    def merge(self, other: _Figures) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class ArchivedObjects:
    """A store's objects, and below them those of archives. What is written goes to the store alone.

    `asks_nodes`: full nodes are asked for what is not found here, so that damage to an archive is no error.
    """

    def __init__(self, store: ObjectStore, archives: Archives, *, asks_nodes: bool = False) -> None:
        self._store = store
        self._archives = archives
        self._asks_nodes = asks_nodes

    async def get(self, multihash: bytes) -> bytes | None:
        """The object, or None. Errors: StoreError, for one that an archive has and that cannot be read."""
        data = await self._store.get(multihash)
        return data if data is not None else (await self._below([multihash]))[0]

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """The objects in the order asked for. Errors: as `get`."""
        out = await self._store.get_many(multihashes)
        missing = [at for at, data in enumerate(out) if data is None]
        if missing:
            for at, data in zip(missing, await self._below([multihashes[at] for at in missing]), strict=True):
                out[at] = data
        return out

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        """As `Store.put_many`."""
        await self._store.put_many(objects, closed=closed)

    async def _below(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for outcome in await self._archives.outcomes(multihashes):
            if isinstance(outcome, StoreError):
                if not self._asks_nodes:
                    raise outcome
                outcome = None
            found.append(outcome)
        return found
