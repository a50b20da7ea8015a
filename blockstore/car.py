"""CAR files, read as a stream and verified: v1, v2, either in zstd, and Forest's (zstd frames and an index).

Sources: the IPLD specifications "CARv1" and "CARv2"; Forest's `.forest.car.zst` (ordinary zstd frames, its
index in skippable ones). Offsets are bytes of the decompressed stream.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

import cbor2
import zstandard

from blockstore.cid import Cid, read_cid, read_uvarint, uvarint, verify
from blockstore.errors import BadCar, BadCid, HashMismatch

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_V2_PRAGMA: Final = b"\x0a\xa1gversion\x02"
_READ: Final = 4 << 20
#: the largest section that is read; real ones stay below 2 MiB, the limit is what a stray length may cost
MAX_SECTION: Final = 64 << 20
_MAX_HEADER: Final = 1 << 20
_PREFIX: Final = b"\x01\x71\xa0\xe4\x02\x20"


@dataclass(frozen=True, slots=True)
class Section:
    """One object of a CAR: its CID, its bytes, and where its length prefix begins."""

    cid: Cid
    data: bytes
    offset: int


class CarReader:
    """Reads one CAR from front to end. `roots` and `version` are known once it is made.

    `size` and `position` are of the file as it lies on disk (None and 0 for a pipe): what a progress bar
    needs. Errors: BadCar, OSError.
    """

    def __init__(self, source: Path | BinaryIO, *, verified: bool = True) -> None:
        if isinstance(source, Path):
            self._file: Any = source.open("rb")
            self._owned = True
            self.size: int | None = source.stat().st_size
        else:
            self._file = source
            self._owned = False
            self.size = None
        self._verified = verified
        self._counter: Any = _Counter(self._file)
        try:
            magic = self._counter.peek(4)
            self._compressed = magic == _ZSTD_MAGIC or (len(magic) == 4 and magic[1:] == b"\x2a\x4d\x18")
            self._stream: Any = self._counter
            if self._compressed:
                self._stream = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(
                    self._counter, read_size=1 << 20, read_across_frames=True
                )
            self._buffer = b""
            self._base = 0  # offset in the stream of the buffer's first byte
            self._at = 0
            self._end: int | None = None  # where the data ends, for v2
            #: CIDs of sections that may be larger than MAX_SECTION: hashed while read, given without bytes
            self.skimmed: set[Cid] = set()
            self.version = 1
            self.roots = self._header()
        except BaseException:
            self.close()
            raise

    @property
    def offset(self) -> int:
        """Where in the decompressed stream the next section begins."""
        return self._base + self._at

    @property
    def position(self) -> int:
        """How many bytes of the file have been read."""
        return int(self._counter.count)

    def close(self) -> None:
        """Close the file if it was opened here."""
        if self._owned:
            self._file.close()

    def __enter__(self) -> CarReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # --- header ------------------------------------------------------------------------------------

    def _header(self) -> tuple[Cid, ...]:
        if not self._fill(1):
            raise BadCar("an empty file", 0)
        if self._fill(11) and self._buffer[self._at : self._at + 11] == _V2_PRAGMA:
            self.version = 2
            if not self._fill(51):
                raise BadCar("CARv2 header is cut short", self.offset)
            head = self._buffer[self._at + 27 : self._at + 51]
            data_offset = int.from_bytes(head[0:8], "little")
            data_size = int.from_bytes(head[8:16], "little")
            if data_offset < 51:
                raise BadCar(f"CARv2 data offset {data_offset} lies within the header", 11)
            self.skip_to(data_offset)
            self._end = data_offset + data_size
        start = self.offset
        size = self._length()
        if size is None or not 0 < size <= _MAX_HEADER:
            raise BadCar("not a CAR: the header's length is impossible", start)
        if not self._fill(size):
            raise BadCar("the header is cut short", start)
        raw = self._buffer[self._at : self._at + size]
        self._at += size
        try:
            header = cbor2.loads(raw, tag_hook=lambda tag, *_: Cid(tag.value[1:]))
            if header["version"] != 1:
                raise BadCar(f"CAR version {header['version']!r} is not read here", start)
            roots = tuple(header["roots"])
        except BadCar:
            raise
        except Exception as error:
            raise BadCar(
                f"not a CAR: the header is no CBOR map of version and roots ({type(error).__name__})", start
            ) from None
        if not all(isinstance(root, Cid) for root in roots):
            raise BadCar("the header's roots are not links", start)
        return roots

    # --- sections ----------------------------------------------------------------------------------

    def batches(self, objects: int = 10_000, size: int = 16 << 20) -> Iterator[list[Section]]:
        """The sections in order, in lists of about `objects` or `size` bytes, each verified by its hash.

        A list ends early before an error is raised, so what came before it is not lost. Errors: BadCar.
        """
        batch: list[Section] = []
        held = 0
        while True:
            try:
                section = self._section()
            except BadCar:
                if batch:
                    yield batch
                raise
            if section is None:
                break
            batch.append(section)
            held += len(section.data)
            if len(batch) >= objects or held >= size:
                yield batch
                batch, held = [], 0
        if batch:
            yield batch

    def __iter__(self) -> Iterator[Section]:
        for batch in self.batches():
            yield from batch

    def _section(self) -> Section | None:
        start = self._base + self._at
        if self._end is not None and start >= self._end:
            return None
        size = self._length()
        if size is None:
            if self._end is not None and start < self._end:
                raise BadCar("the file is cut short", start)
            return None
        if size == 0:
            raise BadCar("a section of length 0", start)
        if size > MAX_SECTION and (skimmed := self._skim(start, size)) is not None:
            return skimmed
        if size > MAX_SECTION:
            raise BadCar(f"a section of {size} bytes (the limit is {MAX_SECTION})", start)
        if self._at + size > len(self._buffer) and not self._fill(size):
            raise BadCar("the file is cut short", start)
        at = self._at
        end = at + size
        buffer = self._buffer
        if buffer[at : at + 6] == _PREFIX and size >= 38:
            cid = Cid(buffer[at : at + 38])
            data = buffer[at + 38 : end]
            if self._verified and hashlib.blake2b(data, digest_size=32).digest() != cid[6:]:
                raise BadCar(f"the bytes of {cid} do not hash to it: the file is corrupted", start)
        else:
            try:
                cid, data_at = read_cid(buffer[at:end])
                data = buffer[at + data_at : end]
                if self._verified:
                    verify(cid.multihash, data)
            except HashMismatch:
                raise BadCar(f"the bytes of {cid} do not hash to it: the file is corrupted", start) from None
            except BadCid as error:
                raise BadCar(f"a section without a proper CID ({error})", start) from None
        self._at = end
        return Section(cid, data, start)

    def _skim(self, start: int, size: int) -> Section | None:
        """A section of `skimmed`, hashed piece by piece and given without its bytes; None for any other."""
        self._fill(128)
        try:
            cid, length = read_cid(self._buffer[self._at : self._at + 128])
        except BadCid:
            return None
        if cid not in self.skimmed or cid.multihash[:4] != b"\xa0\xe4\x02\x20":
            return None
        digest = hashlib.blake2b(digest_size=32)
        self._at += length
        left = size - length
        while left:
            if not self._fill(1):
                raise BadCar("the file is cut short", start)
            piece = self._buffer[self._at : self._at + left]
            digest.update(piece)
            self._at += len(piece)
            left -= len(piece)
        if digest.digest() != cid.multihash[4:]:
            raise BadCar(f"the bytes of {cid} do not hash to it: the file is corrupted", start)
        return Section(cid, b"", start)

    def skip_to(self, offset: int) -> None:
        """Go on at an offset of the decompressed stream that lies ahead. Errors: BadCar (the file ends before)."""
        while self._base + len(self._buffer) < offset:
            self._base += len(self._buffer)
            self._buffer, self._at = b"", 0
            if not self._compressed and self._file.seekable():
                # what was read ahead is used up: the file stands at `_base`
                self._counter.seek(offset)
                self._base = offset
                return
            if not self._fill(1):
                raise BadCar(f"the file ends before offset {offset}", self._base)
        self._at = offset - self._base

    def _length(self) -> int | None:
        """The length prefix here, or None at the end of the stream."""
        if self._at + 9 > len(self._buffer):
            self._fill(9)
        if self._at == len(self._buffer):
            return None
        first = self._buffer[self._at]
        if first < 0x80:
            self._at += 1
            return first
        try:
            size, at = read_uvarint(self._buffer[self._at : self._at + 10], 0)
        except BadCid as error:
            raise BadCar(f"a section's length: {error}", self.offset) from None
        self._at += at
        return size

    def _fill(self, wanted: int) -> bool:
        """Have `wanted` bytes in the buffer from here on; False when the stream ends before."""
        have = len(self._buffer) - self._at
        if have >= wanted:
            return True
        parts = [self._buffer[self._at :]]
        self._base += self._at
        self._at = 0
        while have < wanted:
            try:
                more = self._stream.read(_READ)
            except zstandard.ZstdError as error:
                self._buffer = b"".join(parts)
                raise BadCar(f"the zstd stream is damaged ({error})", self._base + have) from None
            if not more:
                break
            parts.append(more)
            have += len(more)
        self._buffer = b"".join(parts)
        return have >= wanted


class _Counter(io.RawIOBase):
    """The file below a decompressor: counts what was read, and can look ahead a few bytes on a pipe."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._ahead = b""
        self.count = 0

    def peek(self, size: int) -> bytes:
        while len(self._ahead) < size:
            more = self._file.read(size - len(self._ahead))
            if not more:
                break
            self._ahead += more
        return self._ahead

    def read(self, size: int = -1) -> bytes:
        data, self._ahead = self._ahead, b""
        if not data:
            data = self._file.read(size)
        self.count += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._ahead = b""
        self.count = int(self._file.seek(offset, whence))
        return self.count

    def readable(self) -> bool:
        return True


class CarWriter:
    """Writes a CARv1 to an open binary file."""

    def __init__(self, file: BinaryIO, roots: list[Cid]) -> None:
        self._file = file
        links = [cbor2.CBORTag(42, b"\0" + root) for root in roots]
        header = cbor2.dumps({"roots": links, "version": 1})
        file.write(uvarint(len(header)) + header)

    def write(self, cid: Cid, data: bytes) -> None:
        """Append one object."""
        self._file.write(uvarint(len(cid) + len(data)) + cid + data)


def iter_car(path: Path) -> Iterator[tuple[Cid, bytes]]:
    """(CID, bytes) of every object of a file, verified. Errors: BadCar, OSError."""
    with CarReader(path) as reader:
        for section in reader:
            yield section.cid, section.data
