"""Reads bytes at an offset of a local file. What is in the page cache is read at once, the rest in a thread."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Final, Protocol

from blockstore.errors import BadCar, StoreUnavailable

#: (offset, length) in bytes
Span = tuple[int, int]

#: what a filesystem answers that cannot tell whether bytes are in memory
_NO_FLAG: Final = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class ArchiveChanged(StoreUnavailable):
    """The file is not the one that was opened. It is opened anew for the next read."""


class ByteSource(Protocol):
    """A file that is read at any offset. Its content does not change."""

    #: what people call it; without credentials
    name: str
    #: in bytes
    size: int
    #: bytes read of the file so far: from the disk or over the network, not from a cache of ours
    fetched_bytes: int
    #: reads of the file, or requests
    fetches: int

    async def read_many(self, spans: Sequence[Span]) -> list[bytes]:
        """The bytes of each span, in order; shorter where the file ends. Errors: StoreUnavailable, ArchiveChanged."""

    async def close(self) -> None:
        """Let go of the file."""


class LocalFile:
    """A file on this machine. Errors on opening: BadCar (no plain file), OSError."""

    def __init__(self, path: str | Path, executor: Executor) -> None:
        self.name = str(path)
        self._executor = executor
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            if not os.path.isfile(self._file):
                raise BadCar(f"{path} is no file that can be read at any offset", 0)
            self._opened = self._state()
        except BaseException:
            os.close(self._file)
            raise
        self.size = self._opened[0]
        self.fetched_bytes = 0
        self.fetches = 0
        self._may_ask_memory = hasattr(os, "preadv") and hasattr(os, "RWF_NOWAIT")

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    async def read_many(self, spans: Sequence[Span]) -> list[bytes]:
        """As `ByteSource.read_many`."""
        if self._file < 0:
            raise StoreUnavailable(f"{self.name} is closed")
        if self._state() != self._opened:
            raise ArchiveChanged(f"{self.name} was written to while it was served from")
        self.fetches += len(spans)
        out = [b""] * len(spans)
        left = list(range(len(spans)))
        if self._may_ask_memory:
            left = [at for at in left if not self._from_memory(spans[at], at, out)]
        if left:
            loop = asyncio.get_running_loop()
            try:
                read = await loop.run_in_executor(self._executor, self._read, [spans[at] for at in left])
            except OSError as error:
                raise StoreUnavailable(f"{self.name}: {error.strerror}") from None
            for at, data in zip(left, read, strict=True):
                out[at] = data
        self.fetched_bytes += sum(map(len, out))
        return out

    def _from_memory(self, span: Span, at: int, out: list[bytes]) -> bool:
        """Read a span if it is in the page cache, all of it. Whether it was."""
        offset, length = span
        length = min(length, self.size - offset)
        if length <= 0:
            return True
        buffer = bytearray(length)
        try:
            read = os.preadv(self._file, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _NO_FLAG:
                self._may_ask_memory = False
            return False
        if read != length:
            return False
        out[at] = bytes(buffer)
        return True

    def _read(self, spans: Sequence[Span]) -> list[bytes]:
        # an offset that an index gives may be more than a file can have
        ends = [min(length, self.size - offset) for offset, length in spans]
        return [os.pread(self._file, end, span[0]) if end > 0 else b"" for end, span in zip(ends, spans, strict=True)]

    async def close(self) -> None:
        """As `ByteSource.close`."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
