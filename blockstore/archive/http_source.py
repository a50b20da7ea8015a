"""Reads bytes at an offset of a file on an HTTP server, by ranges. What comes is kept in a cache on disk.

Every answer must be of the version of the file that was opened (its ETag, its date and its length), or it is an
ArchiveChanged. Sources: RFC 9110, sections 13.1.5 (If-Range), 14.2 and 14.4 (ranges).
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from cachetools import LRUCache

from blockstore.archive.block_cache import BLOCK, BlockCache, identity_of
from blockstore.archive.named import shown_place
from blockstore.archive.source import ArchiveChanged, Span
from blockstore.errors import BadCar, StoreUnavailable

log = logging.getLogger(__name__)

#: one request brings at most so many blocks: a MiB
_BLOCKS: Final = 32
#: requests under way at once, to one server
_PARALLEL: Final = 8
#: blocks that are kept in memory: those of an index are read again and again
_MEMORY_BLOCKS: Final = 512
_TRIES: Final = 4
_FIRST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 5.0
#: seconds that a server may name for a wait (Retry-After) to be waited out
_RETRY_AFTER: Final = 10.0
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=10, sock_read=15)
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})$", re.ASCII)
#: answers after which the same request may succeed
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class _Version:
    """What tells a file from another one at the same address."""

    size: int
    etag: str
    modified: str

    @property
    def condition(self) -> str:
        """The value of If-Range: only a strong ETag or a date may stand there."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


class _TryAgain(Exception):
    """An answer that the same request may not get again. `wait`: seconds that the server names."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(slots=True)
class HttpOptions:
    """How a server is asked. Seconds; `timeout` as aiohttp's."""

    tries: int = _TRIES
    first_wait: float = _FIRST_WAIT
    timeout: aiohttp.ClientTimeout = field(default_factory=lambda: _TIMEOUT)


class HttpFile:
    """A file on an HTTP server. Opened by `open_http`."""

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        executor: Executor,
        cache: BlockCache | None,
        options: HttpOptions | None = None,
    ) -> None:
        self.name = shown_place(url)
        self.size = 0
        self.fetched_bytes = 0
        self.fetches = 0
        #: requests that were made again
        self.retries = 0
        #: blocks found in memory or on the disk
        self.cached_blocks = 0
        self._url = url
        self._session = session
        self._executor = executor
        self._cache = cache
        self._options = options or HttpOptions()
        self._version: _Version | None = None
        self._identity = b""
        self._memory: LRUCache[int, bytes] = LRUCache(_MEMORY_BLOCKS)
        #: the request that is under way for each block
        self._coming: dict[int, asyncio.Future[bytes | Exception]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(_PARALLEL)

    async def open(self) -> None:
        """Learn the file's length and version. Errors: BadCar (no ranges, or an empty file), StoreUnavailable."""
        data = await self._request(0, BLOCK - 1)
        assert self._version is not None
        self.size = self._version.size
        # where an ETag names the content, a signature in the URL may differ from one start to the next
        self._identity = identity_of((self.name if self._version.etag else self._url, self._version))
        self._memory[0] = data

    async def read_many(self, spans: Sequence[Span]) -> list[bytes]:
        """As `ByteSource.read_many`."""
        wanted: dict[int, None] = {}
        for offset, length in spans:
            end = min(offset + length, self.size)
            if offset < end:
                wanted.update(dict.fromkeys(range(offset // BLOCK, (end - 1) // BLOCK + 1)))
        blocks = await self._blocks(list(wanted))
        return [self._cut(blocks, offset, length) for offset, length in spans]

    def _cut(self, blocks: dict[int, bytes], offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        first, last = offset // BLOCK, (end - 1) // BLOCK
        data = blocks[first] if first == last else b"".join(blocks[at] for at in range(first, last + 1))
        return data[offset - first * BLOCK : end - first * BLOCK]

    async def close(self) -> None:
        """As `ByteSource.close`."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    # --- blocks ------------------------------------------------------------------------------------

    async def _blocks(self, numbers: list[int]) -> dict[int, bytes]:
        """Blocks from memory, from the disk, or by requests, one for each run of neighbours."""
        found: dict[int, bytes] = {}
        left: list[int] = []
        for number in numbers:
            data = self._memory.get(number)
            if data is None:
                left.append(number)
            else:
                found[number] = data
        if left and self._cache is not None:
            keys = [(self._identity, number) for number in left]
            loop = asyncio.get_running_loop()
            for (_, number), data in (await loop.run_in_executor(self._executor, self._cache.get_many, keys)).items():
                if len(data) == min(BLOCK, self.size - number * BLOCK):
                    found[number] = self._memory[number] = data
            left = [number for number in left if number not in found]
        self.cached_blocks += len(found)
        for number, future in self._request_blocks(sorted(left)).items():
            outcome = await asyncio.shield(future)
            if isinstance(outcome, Exception):
                raise outcome
            found[number] = outcome
        return found

    def _request_blocks(self, numbers: list[int]) -> dict[int, asyncio.Future[bytes | Exception]]:
        loop = asyncio.get_running_loop()
        waits: dict[int, asyncio.Future[bytes | Exception]] = {}
        run: list[int] = []
        for number in numbers:
            future = self._coming.get(number)
            if future is None:
                future = self._coming[number] = loop.create_future()
                if run and (run[-1] + 1 != number or len(run) == _BLOCKS):
                    self._start(run)
                    run = []
                run.append(number)
            waits[number] = future
        if run:
            self._start(run)
        return waits

    def _start(self, run: list[int]) -> None:
        # a task of its own: others may wait for these blocks when this reader gives up
        task = asyncio.get_running_loop().create_task(self._fetch_run(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch_run(self, run: list[int]) -> None:
        outcome: Exception = StoreUnavailable(f"{self.name} is being closed")
        blocks: dict[int, bytes] = {}
        try:
            async with self._places:
                data = await self._request(run[0] * BLOCK, min((run[-1] + 1) * BLOCK, self.size) - 1)
            blocks = {number: data[at * BLOCK : (at + 1) * BLOCK] for at, number in enumerate(run)}
            self._memory.update(blocks)
            if self._cache is not None:
                stored = {(self._identity, number): block for number, block in blocks.items()}
                await asyncio.get_running_loop().run_in_executor(self._executor, self._cache.put_many, stored)
        except (StoreUnavailable, BadCar) as error:
            outcome = error
        finally:
            for number in run:
                future = self._coming.pop(number)
                if not future.done():
                    future.set_result(blocks.get(number, outcome))

    # --- requests ----------------------------------------------------------------------------------

    async def _request(self, first: int, last: int) -> bytes:
        """The bytes from `first` to `last`, asked for again where that may help. Errors: StoreUnavailable, BadCar."""
        wait = self._options.first_wait
        for attempt in range(self._options.tries):
            if attempt:
                self.retries += 1
            self.fetches += 1
            try:
                return await self._ask(first, last)
            except _TryAgain as error:
                reason, named = str(error), error.wait
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                # aiohttp's own texts may hold the whole URL
                reason, named = type(error).__name__, 0.0
            log.info("%s: bytes %d to %d: %s", self.name, first, last, reason)
            if attempt + 1 < self._options.tries:
                await asyncio.sleep(min(_RETRY_AFTER, max(named, wait * random.uniform(0.5, 1.0))))
                wait = min(_LONGEST_WAIT, wait * 2)
        raise StoreUnavailable(f"{self.name} cannot be read now: {reason}")

    async def _ask(self, first: int, last: int) -> bytes:
        headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        if self._version is not None and self._version.condition:
            headers["If-Range"] = self._version.condition
        async with self._session.get(self._url, headers=headers, timeout=self._options.timeout) as response:
            status = response.status
            if status in _PASSING:
                raise _TryAgain(f"status {status}", _seconds(response.headers.get("Retry-After", "")))
            if status in (200, 416):
                self._refuse_whole(response)
            if status != 206:
                raise StoreUnavailable(f"{self.name} cannot be read: the server answers status {status}")
            told = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            if told is None or response.headers.get("Content-Encoding", "identity") != "identity":
                raise BadCar(f"{self.name}: the server answers a range without saying which", first)
            begins, ends, size = map(int, told.groups())
            version = _version(size, response)
            if self._version is None:
                self._version = version
            elif version != self._version:
                raise ArchiveChanged(f"{self.name} has changed on its server")
            if begins != first or ends != min(last, size - 1):
                raise _TryAgain(f"bytes {begins} to {ends} were sent")
            wanted = ends - first + 1
            try:
                data = await response.content.readexactly(wanted)
            except asyncio.IncompleteReadError as error:
                raise _TryAgain(f"{len(error.partial)} of {wanted} bytes were sent") from None
            self.fetched_bytes += len(data)
            return data

    def _refuse_whole(self, response: aiohttp.ClientResponse) -> None:
        """The server sends the whole file, or says that the range is not in it."""
        if self._version is None:
            if response.status == 416 or response.headers.get("Content-Length") == "0":
                raise BadCar(f"{self.name} is empty", 0)
            raise BadCar(f"{self.name}: the server does not serve ranges (it answers status 200 to one)", 0)
        same = _version(self._version.size, response) == self._version
        if same and response.status == 200:
            raise _TryAgain("the whole file was sent")
        raise ArchiveChanged(f"{self.name} has changed on its server")


def _version(size: int, response: aiohttp.ClientResponse) -> _Version:
    """An ETag tells versions apart better than a date does, and the machines behind one address may differ in dates."""
    etag = response.headers.get("ETag", "")
    return _Version(size, etag, "" if etag else response.headers.get("Last-Modified", ""))


def _seconds(text: str) -> float:
    """Retry-After in seconds; 0 where it is a date or nonsense."""
    return float(text) if text.isdigit() and len(text) < 6 else 0.0


async def open_http(
    url: str, executor: Executor, cache: BlockCache | None, options: HttpOptions | None = None
) -> HttpFile:
    """Open a file on an HTTP server. Errors: BadCar (it does not serve ranges), StoreUnavailable."""
    session = aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=_PARALLEL))
    file = HttpFile(url, session, executor, cache, options)
    try:
        await file.open()
    except BaseException:
        await file.close()
        raise
    return file
