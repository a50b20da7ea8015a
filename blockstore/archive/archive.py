"""One archive: a CAR file with an index, whose objects are read where they are."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Final, TypeVar

from cachetools import LRUCache

from blockstore.archive.carv2_layout import PRAGMA, index_tables
from blockstore.archive.forest_layout import index_frames
from blockstore.archive.layout import Layout, Part, Place, Steps, TooLong, run_steps
from blockstore.archive.source import ByteSource
from blockstore.car.reader import CarReader
from blockstore.car.zstd_frames import ZSTD_MAGICS
from blockstore.cid import Cid, verify
from blockstore.errors import BadCar, BadCid, HashMismatch, StoreError, StoreUnavailable

T = TypeVar("T")

#: bytes at the beginning of a file that hold its header and a snapshot's metadata; and the first object, however long
_BEGINNING: Final = 256 << 10
_FIRST_LOOK: Final = 64
_LONG_BEGINNING: Final = 9 << 20
#: objects that are looked for before others go on (about two milliseconds), and parts that are read at once
_AT_ONCE: Final = 64
_PARTS: Final = 64
#: reads and content, in bytes, of a part that is read beside others; longer ones are read one at a time
_ROUNDS: Final = 3
_SHORT: Final = 1 << 20
#: content of a part that is looked at: the largest section is 8 MiB
MAX_CONTENT: Final = 16 << 20
#: bytes that are decompressed, or hashed, on the event loop: a millisecond's work; and parts of one turn in a thread
_DECODED_HERE: Final = 24 << 10
_HASHED_HERE: Final = 256 << 10
_DECODED_AT_ONCE: Final = 8

#: an object's bytes, None where the archive does not have it, or why it cannot be read
Outcome = bytes | StoreError | None
PartOutcome = Part | StoreError


class Archive:
    """The objects of one file. Opened by `open_archive`.

    Parts of the file (zstd frames, or sections) are kept decompressed, `cache_bytes` of them; one is read and
    decompressed once for all that wait for it. `fingerprint` names the content; `roots` and `head`: see `CarReader`.
    """

    def __init__(
        self, source: ByteSource, layout: Layout, opened: CarReader, executor: Executor, cache_bytes: int
    ) -> None:
        self.name = source.name
        self.roots = opened.roots
        self.head = opened.head
        self.snapshot = opened.snapshot
        self.fingerprint = f"{opened.fingerprint}-{source.size}"
        self.source = source
        self.layout = layout
        self._executor = executor
        self._cache: LRUCache[int, Part] = LRUCache(cache_bytes, getsizeof=lambda part: part.weight)
        #: the reading that is under way, by the part's offset
        self._loading: dict[int, asyncio.Future[PartOutcome]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._long = asyncio.Lock()
        #: objects given, parts found in memory, parts decompressed
        self.reads = 0
        self.hits = 0
        self.decoded = 0

    async def close(self) -> None:
        """Let go of the file."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.source.close()

    async def find(self, multihashes: Sequence[bytes]) -> list[list[Place]]:
        """Where the index says that each object may be. Errors: BadCar, StoreUnavailable."""
        places: list[list[Place]] = []
        for found in await self._find(multihashes):
            if isinstance(found, BadCar):
                raise found
            places.append(found)
        return places

    async def get_many(self, multihashes: Sequence[bytes]) -> list[Outcome]:
        """Each object, verified, or why it cannot be read. Errors: StoreUnavailable."""
        out: list[Outcome] = []
        for start in range(0, len(multihashes), _AT_ONCE):
            if start:
                await asyncio.sleep(0)
            out += await self._some(multihashes[start : start + _AT_ONCE])
        self.reads += sum(isinstance(found, bytes) for found in out)
        return out

    async def _find(self, multihashes: Sequence[bytes]) -> list[list[Place] | BadCar]:
        searches: list[Steps[list[Place]]] = [self.layout.find(multihash) for multihash in multihashes]
        return await run_steps(self.source, searches)

    async def _some(self, multihashes: Sequence[bytes]) -> list[Outcome]:
        out: list[Outcome] = [None] * len(multihashes)
        wanted: dict[int, list[int]] = {}
        for at, places in enumerate(await self._find(multihashes)):
            if isinstance(places, BadCar):
                out[at] = places
                continue
            for place in places:
                wanted.setdefault(place.offset, []).append(at)
        for offsets in _slices(sorted(wanted), _PARTS):
            for offset, part in zip(offsets, await self._parts(offsets), strict=True):
                if isinstance(part, TooLong):
                    async with self._long:
                        await self._take(offset, await self._long_part(offset), wanted[offset], multihashes, out)
                else:
                    await self._take(offset, part, wanted[offset], multihashes, out)
        return out

    async def _take(
        self,
        offset: int,
        part: PartOutcome,
        asked: Iterable[int],
        multihashes: Sequence[bytes],
        out: list[Outcome],
    ) -> None:
        """Take what was asked for out of a part."""
        for at in asked:
            if isinstance(out[at], bytes):
                continue
            multihash = multihashes[at]
            if isinstance(part, StoreError):
                out[at] = part
                continue
            span = part.objects.get(multihash)
            if span is None:
                # another object has the same hash in the index
                if part.cut and out[at] is None:
                    out[at] = BadCar(f"{self.name}: more than {MAX_CONTENT >> 20} MiB in one part", offset)
                continue
            data = part.data[span[0] : span[1]]
            try:
                if len(data) > _HASHED_HERE:
                    await self._aside(lambda: verify(multihash, data))  # noqa: B023
                else:
                    verify(multihash, data)
            except (HashMismatch, BadCid) as error:
                out[at] = BadCar(f"{self.name}: {error}", offset)
            else:
                out[at] = data

    async def _aside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    # --- parts -------------------------------------------------------------------------------------

    async def _parts(self, offsets: Sequence[int]) -> list[PartOutcome]:
        """The parts at these offsets; a TooLong for each that is to be read by itself."""
        waits: dict[int, asyncio.Future[PartOutcome]] = {}
        found: dict[int, PartOutcome] = {}
        mine: list[int] = []
        loop = asyncio.get_running_loop()
        for offset in offsets:
            part = self._cache.get(offset)
            if part is not None:
                self.hits += 1
                found[offset] = part
                continue
            future = self._loading.get(offset)
            if future is None:
                future = self._loading[offset] = loop.create_future()
                mine.append(offset)
            waits[offset] = future
        if mine:
            # a task of its own: others may wait for it when this reader gives up
            task = loop.create_task(self._load(mine))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for offset, future in waits.items():
            found[offset] = await asyncio.shield(future)
        return [found[offset] for offset in offsets]

    async def _load(self, offsets: list[int]) -> None:
        """Read and decompress parts, and tell those that wait."""
        try:
            reads = [self.layout.read(offset) for offset in offsets]
            raws = await run_steps(self.source, reads, _ROUNDS)
            whole: list[tuple[int, bytes]] = []
            for offset, raw in zip(offsets, raws, strict=True):
                if isinstance(raw, BadCar):
                    self._tell(offset, raw)
                else:
                    whole.append((offset, raw))
            for some in _slices(whole, _DECODED_AT_ONCE):
                for offset, part in zip((offset for offset, _ in some), await self._decode(some), strict=True):
                    if isinstance(part, Part) and part.cut:
                        self._tell(offset, TooLong(f"{self.name}: a long part", offset))
                        continue
                    self._keep(offset, part)
                    self._tell(offset, part)
        except StoreError as error:
            for offset in offsets:
                self._tell(offset, error)
        finally:
            for offset in offsets:
                self._tell(offset, StoreUnavailable(f"{self.name} is being closed"))

    def _tell(self, offset: int, outcome: PartOutcome) -> None:
        future = self._loading.pop(offset, None)
        if future is not None and not future.done():
            future.set_result(outcome)

    def _keep(self, offset: int, part: PartOutcome) -> None:
        if isinstance(part, Part) and part.weight <= self._cache.maxsize / 4:
            self._cache[offset] = part

    async def _decode(self, some: Sequence[tuple[int, bytes]], limit: int = _SHORT) -> list[PartOutcome]:
        def decode() -> list[PartOutcome]:
            out: list[PartOutcome] = []
            for offset, raw in some:
                try:
                    out.append(self.layout.parse(offset, raw, limit))
                except BadCar as error:
                    out.append(error)
            return out

        self.decoded += len(some)
        if limit == _SHORT and sum(len(raw) for _, raw in some) <= _DECODED_HERE:
            return decode()
        return await self._aside(decode)

    async def _long_part(self, offset: int) -> PartOutcome:
        """A part that is read by itself; the caller holds the lock, so that there is one in memory."""
        part = self._cache.get(offset)
        if part is not None:
            self.hits += 1
            return part
        (raw,) = await run_steps(self.source, [self.layout.read(offset)])
        if isinstance(raw, BadCar):
            return raw
        (found,) = await self._decode([(offset, raw)], MAX_CONTENT)
        self._keep(offset, found)
        return found


def _slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


async def open_archive(source: ByteSource, executor: Executor, cache_bytes: int) -> Archive:
    """Open a file as an archive, and check its header and metadata.

    Errors: BadCar (it has no index that is read here, or is damaged), StoreUnavailable.
    """
    (beginning,) = await source.read_many([(0, _FIRST_LOOK)])
    layout: Layout | None
    if beginning.startswith(PRAGMA):
        layout = await _one(source, index_tables(source.name, source.size, beginning))
    elif beginning[:4] in ZSTD_MAGICS:
        layout = await _one(source, index_frames(source.name, source.size))
        if layout is None:
            raise BadCar(
                f"{source.name} has no index at its end (it is no .forest.car.zst file, or is cut): it can be imported,"
                " not served in place",
                source.size,
            )
    else:
        raise BadCar(
            f"{source.name} is no file with an index (.forest.car.zst, or CARv2 with an index): it can be imported, not"
            " served in place",
            0,
        )
    opened = await _header(source, layout, executor)
    archive = Archive(source, layout, opened, executor, cache_bytes)
    if opened.snapshot is not None:
        await _check_metadata(archive, opened.roots[0])
    return archive


async def _header(source: ByteSource, layout: Layout, executor: Executor) -> CarReader:
    """The header and the metadata, read from as much of the file as they take."""
    loop = asyncio.get_running_loop()
    for length in (_BEGINNING, _LONG_BEGINNING):
        (beginning,) = await source.read_many([(0, min(length, layout.data_end))])
        try:
            return await loop.run_in_executor(executor, lambda: CarReader(io.BytesIO(beginning)))  # noqa: B023
        except BadCar as error:
            if length == _LONG_BEGINNING or layout.data_end <= length:
                raise BadCar(f"{source.name}: {error.reason}", error.offset) from None
    raise AssertionError


async def _one(source: ByteSource, steps: Steps[T]) -> T:
    (found,) = await run_steps(source, [steps])
    if isinstance(found, BadCar):
        raise found
    return found


async def _check_metadata(archive: Archive, root: Cid) -> None:
    """The metadata names the head: its bytes are verified by the root."""
    (found,) = await archive.get_many([root.multihash])
    if isinstance(found, StoreError):
        raise found
    if found is None:
        raise BadCar(f"{archive.name}: the index does not have the snapshot's metadata {root}", 0)
