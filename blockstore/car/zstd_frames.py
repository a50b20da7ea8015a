"""Zstandard streams frame by frame and block by block.

The framing is read here and only the blocks are handed to the library. That tells a stream that ends where
a frame ends from one that was cut (the library's readers take both for the end), passes over skippable
frames (Forest keeps its index in them), and bounds memory whatever the ratio: a block decompresses to
128 KiB at most. Source: RFC 8878, sections 3.1.1 and 3.1.2.
"""

from __future__ import annotations

from typing import Final, Protocol

import zstandard

from blockstore.errors import BadCar

_FRAME_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = frozenset(bytes((0x50 | low, 0x2A, 0x4D, 0x18)) for low in range(16))
#: how a zstd file may begin
ZSTD_MAGICS: Final = _SKIPPABLE | {_FRAME_MAGIC}

#: windows up to 2 GiB (`--long=31`, which some snapshots are made with) are decompressed
_MAX_WINDOW: Final = 1 << 31
#: output gathered before it is handed on
_ENOUGH: Final = 1 << 20
_READ: Final = 1 << 20
_MAX_BLOCK: Final = 128 << 10


class Source(Protocol):
    """A file, as far as it is needed here."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end."""


class ZstdFrames:
    """The decompressed bytes of a zstd file of any number of frames."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = b""
        self._at = 0
        #: compressed bytes taken so far, read-ahead included
        self.consumed = 0
        self._produced = 0
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._checksum = False
        self._wrong: str | None = None

    def skip(self, count: int) -> int:
        """Compressed bytes cannot be passed over."""
        return 0

    def read(self) -> bytes:
        """Some more decompressed bytes, about a MiB; b"" at the end. Errors: BadCar.

        What was decompressed before an error is given out first: the error comes with the next call.
        """
        parts: list[bytes] = []
        size = 0
        while size < _ENOUGH and self._wrong is None:
            try:
                if self._frame is None and not self._next_frame():
                    break
                data = self._block()
            except _Cut:
                self._wrong = "the compressed file ends within a zstd frame"
                break
            except (_Malformed, zstandard.ZstdError) as error:
                self._wrong = f"the compressed file is corrupted ({error})"
                break
            parts.append(data)
            size += len(data)
        if self._wrong is not None and not size:
            raise BadCar(self._wrong, self._produced)
        self._produced += size
        return b"".join(parts)

    def _have(self, size: int) -> bool:
        """Get `size` bytes into the buffer, from the position on."""
        if len(self._buffer) - self._at >= size:
            return True
        parts = [self._buffer[self._at :]]
        have = len(parts[0])
        while have < size and (more := self._source.read(_READ)):
            self.consumed += len(more)
            parts.append(more)
            have += len(more)
        self._buffer, self._at = b"".join(parts), 0
        return have >= size

    def _take(self, size: int) -> bytes:
        if not self._have(size):
            raise _Cut
        at = self._at
        self._at += size
        return self._buffer[at : at + size]

    def _next_frame(self) -> bool:
        """Begin the next frame with data; False where the file ends with a frame."""
        while self._have(1):
            magic = self._take(4)
            if magic in _SKIPPABLE:
                left = int.from_bytes(self._take(4), "little")
                while left:
                    left -= len(self._take(min(left, _READ)))
                continue
            if magic != _FRAME_MAGIC:
                raise _Malformed(f"{magic.hex()} where a frame begins")
            descriptor = self._take(1)
            flags = descriptor[0]
            single = flags >> 5 & 1
            sizes = (single, 2, 4, 8)[flags >> 6] + (0, 1, 2, 4)[flags & 3] + (1 - single)
            self._checksum = bool(flags & 4)
            self._frame = self._decompressor.decompressobj()
            self._frame.decompress(magic + descriptor + self._take(sizes))
            return True
        return False

    def _block(self) -> bytes:
        """The next block's content."""
        assert self._frame is not None
        head = self._take(3)
        word = int.from_bytes(head, "little")
        last, kind, size = word & 1, word >> 1 & 3, word >> 3
        if kind == 3:
            raise _Malformed("a block of reserved type")
        if size > _MAX_BLOCK:
            raise _Malformed(f"a block of {size} bytes")
        data = self._frame.decompress(head + self._take(1 if kind == 1 else size))
        if last:
            if self._checksum:
                data += self._frame.decompress(self._take(4))
            self._frame = None
        return data


class _Cut(Exception):
    """The file ends too early."""


class _Malformed(Exception):
    """The framing makes no sense."""
