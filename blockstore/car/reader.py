"""Reading CAR files: version 1 and 2, plain or zstd (Forest's indexed frames too), Lotus' snapshots of both versions.

Everything streams: what is in memory is one read-ahead buffer and the largest section. Input may be a pipe.
Each object is verified by its hash. Whatever is wrong is a `BadCar` whose offset counts bytes of the
decompressed stream. Sources: https://ipld.io/specs/transport/car/carv1/ and carv2/, FRC-0108 (snapshots).
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol

import cbor2

from blockstore.car.zstd_frames import ZSTD_MAGICS, ZstdFrames
from blockstore.cid import Cid, read_cid, read_uvarint, verify
from blockstore.errors import BadCar, BadCid, HashMismatch

#: go-car's default for one section (CID and data)
MAX_SECTION: Final = 8 << 20
_MAX_HEADER: Final = 32 << 20
#: one read of the stream; also the least that a fingerprint is made of, where there is so much
_CHUNK: Final = 2 << 20
_FINGERPRINTED: Final = 64 << 10
#: sections shorter than this have a length of three bytes at most
_FAST_SIZE: Final = (1 << 21) - 1
_V2_PRAGMA: Final = bytes.fromhex("0aa16776657273696f6e02")
_V2_HEADER: Final = 40
_CBOR_BLAKE: Final = b"\x01\x71\xa0\xe4\x02\x20"
_SNAPSHOT_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class SnapshotMetadata:
    """The first object of a snapshot of version 2 (FRC-0108). `f3` names the part with F3's certificates."""

    version: int
    head: tuple[Cid, ...]
    f3: Cid | None


class Stream(Protocol):
    """What is read from: decompressed bytes, in order."""

    #: bytes of the file taken so far (compressed, if it is)
    consumed: int

    def read(self) -> bytes:
        """Some more bytes (at most a few MiB), b"" at the end. Errors: BadCar."""

    def skip(self, count: int) -> int:
        """Pass over so many bytes as it can in one go, and say how many that were (maybe none)."""


class _Plain:
    """Uncompressed input."""

    def __init__(self, file: _Rewound) -> None:
        self._file = file
        self.consumed = 0

    def read(self) -> bytes:
        data = self._file.read(_CHUNK)
        self.consumed += len(data)
        return data

    def skip(self, count: int) -> int:
        if not self._file.seekable():
            return 0
        at = self._file.tell()
        moved = min(count, self._file.seek(0, io.SEEK_END) - at)
        self._file.seek(at + moved)
        self.consumed += moved
        return moved


def _link(value: object) -> Cid:
    if isinstance(value, cbor2.CBORTag) and value.tag == 42 and isinstance(value.value, bytes):
        cid, end = read_cid(value.value, 1)
        if value.value[:1] == b"\0" and end == len(value.value):
            return cid
    raise BadCid("not a link")


class CarReader:
    """A CAR being read: the header at once, then (CID, bytes) by iterating, once.

    `roots` stand in the header, `version` is 1 or 2, `snapshot` is there in a snapshot of version 2, whose
    F3 part is verified and passed over (`f3_bytes`). `head` are the head tipset's blocks: the roots, or what
    the snapshot's metadata names. `offset` is the position in the decompressed stream behind the section
    that came last: a section starts there. `start` (such an offset) goes on from there; `fingerprint`, of
    the first 64 KiB, tells whether it is the same stream. `check=False` takes the hashes on trust.

    Errors: BadCar, on opening and on iterating.
    """

    def __init__(self, file: BinaryIO, *, check: bool = True, max_section: int = MAX_SECTION) -> None:
        self._check = check
        self._max_section = max_section
        self._buffer = b""
        self._at = 0
        #: where in the stream the buffer starts, and where the data ends (None: at its end)
        self._base = 0
        self._end: int | None = None
        #: where the section starts that is being looked at step by step
        self._begun: int | None = None
        self.f3_bytes = 0
        first = file.read(4)
        while len(first) < 4 and (more := file.read(4 - len(first))):
            first += more
        source = _Rewound(first, file)
        self._stream: Stream = ZstdFrames(source) if first in ZSTD_MAGICS else _Plain(source)
        self._fill(_FINGERPRINTED)
        if not self._buffer:
            raise BadCar("the file is empty", 0)
        self.fingerprint = hashlib.blake2b(self._buffer[:_FINGERPRINTED], digest_size=16).hexdigest()
        self.version = 1
        if self._buffer.startswith(_V2_PRAGMA):
            self._open_v2()
        self.roots = self._header()
        self.snapshot = self._metadata()
        self.head = self.snapshot.head if self.snapshot else self.roots

    @property
    def offset(self) -> int:
        """The position in the decompressed stream; after an error, where the section began that is wrong."""
        return self._position if self._begun is None else self._begun

    @property
    def _position(self) -> int:
        return self._base + self._at

    @property
    def consumed(self) -> int:
        """Bytes of the file itself that were taken, read-ahead included."""
        return self._stream.consumed

    # --- the stream --------------------------------------------------------------------------------

    def _fill(self, wanted: int) -> bool:
        """Have `wanted` bytes from the position on in the buffer, if the stream has so many."""
        parts = [self._buffer[self._at :]]
        have = len(parts[0])
        self._base += self._at
        self._at = 0
        while have < wanted and (self._end is None or self._base + have < self._end) and (more := self._stream.read()):
            parts.append(more)
            have += len(more)
        self._buffer = b"".join(parts)
        if self._end is not None and self._base + have > self._end:
            self._buffer = self._buffer[: max(0, self._end - self._base)]
        return len(self._buffer) >= wanted

    def _pass(self, count: int, what: str) -> None:
        """Go forward without looking."""
        while count:
            inside = min(count, len(self._buffer) - self._at)
            self._at += inside
            count -= inside
            if not count:
                return
            if self._end is not None and self._position + count > self._end:
                raise BadCar(f"{what} lies behind the end of the data", self._end)
            moved = self._stream.skip(count)
            if moved:
                self._base += self._at + moved
                self._buffer, self._at = b"", 0
                count -= moved
            elif not self._fill(1):
                raise BadCar(f"{what} lies behind the end of the file", self._position)

    def _varint(self, what: str) -> int:
        start = self._position
        value = shift = 0
        while True:
            if self._at >= len(self._buffer) and not self._fill(1):
                raise BadCar(f"the file ends within {what}", self._position)
            byte = self._buffer[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if shift and not byte:
                    raise BadCar(f"{what} is not written in the shortest form", start)
                return value
            shift += 7
            if shift > 56:
                raise BadCar(f"{what} is longer than 9 bytes", start)

    # --- headers -----------------------------------------------------------------------------------

    def _open_v2(self) -> None:
        """Find the data of a version 2 file: a version 1 CAR between the header and the index."""
        self.version = 2
        self._at = len(_V2_PRAGMA)
        if not self._fill(_V2_HEADER):
            raise BadCar("the file ends within the CARv2 header", self._base + len(self._buffer))
        header = self._buffer[self._at : self._at + _V2_HEADER]
        self._at += _V2_HEADER
        data_offset = int.from_bytes(header[16:24], "little")
        data_size = int.from_bytes(header[24:32], "little")
        if data_offset < self._position or not data_size:
            raise BadCar(f"the CARv2 header says {data_size} bytes of data at {data_offset}", len(_V2_PRAGMA))
        self._pass(data_offset - self._position, "the CARv2 data")
        self._end = data_offset + data_size
        self._fill(1)

    def _header(self) -> tuple[Cid, ...]:
        start = self._position
        size = self._varint("the header's length")
        if not 0 < size <= _MAX_HEADER:
            raise BadCar(f"a header of {size} bytes: this is no CAR file", start)
        if not self._fill(size):
            raise BadCar(f"the file ends within the header of {size} bytes", self._base + len(self._buffer))
        raw = self._buffer[self._at : self._at + size]
        self._at += size
        try:
            header = cbor2.loads(raw)
            if not isinstance(header, dict) or header.get("version") != 1:
                raise BadCar("the header says neither CAR version 1 nor 2", start)
            roots = header.get("roots")
            if not isinstance(roots, list):
                raise BadCar("the header names no roots", start)
            return tuple(_link(root) for root in roots)
        except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError) as error:
            if isinstance(error, BadCar):
                raise
            raise BadCar(f"the header is malformed ({error})", start) from None

    def _metadata(self) -> SnapshotMetadata | None:
        """A version 2 snapshot's metadata, if its only root comes first and is that. Nothing is consumed."""
        if len(self.roots) != 1:
            return None
        # nothing is taken: the position stays at the section's first byte
        if not self._fill(4):
            return None
        try:
            size, body = read_uvarint(self._buffer, self._at)
        except BadCid:
            return None
        ahead = body - self._at
        if not 0 < size <= self._max_section or not self._fill(ahead + size):
            return None
        section = self._buffer[self._at + ahead : self._at + ahead + size]
        root = self.roots[0]
        return _metadata_of(section[len(root) :]) if section.startswith(root) else None

    # --- sections ----------------------------------------------------------------------------------

    def seek(self, start: int) -> None:
        """Go on at the section that starts at `start`, from an earlier reader's `offset`. Errors: BadCar."""
        if start < self._position:
            raise BadCar("no section starts so early: the header ends behind it", start)
        self._pass(start - self._position, "where to go on")

    def __iter__(self) -> Iterator[tuple[Cid, bytes]]:
        for run in self.runs():
            for cid, data in run:
                yield Cid(cid), data

    def runs(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """(CID, bytes) as iterating gives, a list at a time; `offset` is behind the list's last section."""
        limit = min(self._max_section, _FAST_SIZE)
        blake2b = hashlib.blake2b if self._check else None
        f3 = self.snapshot.f3 if self.snapshot else None
        while True:
            buffer, at = self._buffer, self._at
            last = len(buffer) - 4
            run: list[tuple[bytes, bytes]] = []
            # fast: dag-cbor sections that are whole in the buffer, with a length of one to three bytes;
            # whatever is unusual or wrong is left to be looked at step by step
            while at < last:
                size = buffer[at]
                body = at + 1
                if size > 0x7F:
                    size += (buffer[body] << 7) - 0x80
                    body += 1
                    if size > 0x3FFF:
                        size += (buffer[body] << 14) - 0x4000
                        body += 1
                    if not buffer[body - 1]:
                        break
                behind = body + size
                if not 38 < size <= limit or behind > last or buffer[body : body + 6] != _CBOR_BLAKE:
                    break
                data = buffer[body + 38 : behind]
                cid = buffer[body : body + 38]
                if blake2b is not None and blake2b(data, digest_size=32).digest() != cid[6:]:
                    break
                if cid == f3:
                    break
                run.append((cid, data))
                at = behind
            if run:
                self._at = at
                yield run
                continue
            if at == len(buffer) and not self._fill(1):
                if self._end is not None and self._position < self._end:
                    left = self._end - self._position
                    raise BadCar(f"the file ends {left} bytes before its data does", self._position)
                return
            self._begun = self._position
            found = self._section(f3)
            self._begun = None
            if found is not None:
                yield [found]

    def _section(self, f3: Cid | None) -> tuple[Cid, bytes] | None:
        """Any section, checked step by step; None for the F3 part."""
        start = self._position
        size = self._varint("a section's length")
        if not size:
            raise BadCar("a section of length 0", start)
        if f3 is not None and size >= len(f3) and self._fill(len(f3)) and self._buffer.startswith(f3, self._at):
            self._at += len(f3)
            self._verify_long(f3, size - len(f3), start)
            return None
        if size > self._max_section:
            raise BadCar(f"a section of {size} bytes, {self._max_section} at most are read", start)
        if not self._fill(size):
            ended = self._base + len(self._buffer)
            raise BadCar(f"the file ends within a section of {size} bytes that starts at {start}", ended)
        section = self._buffer[self._at : self._at + size]
        try:
            cid, end = read_cid(section)
            data = section[end:]
            if self._check:
                verify(cid.multihash, data)
        except HashMismatch:
            raise BadCar(f"object {cid} does not have its hash", start) from None
        except BadCid as error:
            raise BadCar(f"a section without a CID ({error})", start) from None
        self._at += size
        return cid, data

    def _verify_long(self, cid: Cid, size: int, start: int) -> None:
        """Pass over an object of any size, hashing it as it goes by."""
        multihash = cid.multihash
        if multihash[:4] != b"\xa0\xe4\x02\x20":
            raise BadCar(f"the F3 part {cid} has a hash function that is not read here", start)
        digest = hashlib.blake2b(digest_size=32)
        left = size
        while left:
            if self._at >= len(self._buffer) and not self._fill(1):
                raise BadCar(f"the file ends within the F3 part that starts at {start}", self._position)
            part = self._buffer[self._at : self._at + left]
            digest.update(part)
            self._at += len(part)
            left -= len(part)
        if self._check and digest.digest() != multihash[4:]:
            raise BadCar(f"the F3 part {cid} does not have its hash", start)
        self.f3_bytes = size


def _metadata_of(data: bytes) -> SnapshotMetadata | None:
    try:
        value: Any = cbor2.loads(data)
        if not isinstance(value, dict) or value.get("Version") != _SNAPSHOT_VERSION:
            return None
        head = tuple(_link(link) for link in value["HeadTipsetKey"])
        f3 = value.get("F3Data")
        return SnapshotMetadata(_SNAPSHOT_VERSION, head, None if f3 is None else _link(f3)) if head else None
    except (cbor2.CBORDecodeError, ValueError, TypeError, KeyError, RecursionError):
        return None


class _Rewound:
    """A file of which the first bytes were read already; it need not be seekable."""

    def __init__(self, first: bytes, file: BinaryIO) -> None:
        self._first = first
        self._file = file

    def read(self, size: int) -> bytes:
        if self._first:
            first, self._first = self._first[:size], self._first[size:]
            return first
        return self._file.read(size)

    def seekable(self) -> bool:
        return not self._first and self._file.seekable()

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, at: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(at, whence)


class CarFile:
    """A `CarReader` over a path; `-` is standard input. A context manager."""

    def __init__(self, path: str | Path, *, check: bool = True, max_section: int = MAX_SECTION) -> None:
        self._file: BinaryIO = sys.stdin.buffer if str(path) == "-" else open(path, "rb")  # noqa: SIM115
        try:
            self.reader = CarReader(self._file, check=check, max_section=max_section)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not sys.stdin.buffer:
            self._file.close()

    def __enter__(self) -> CarReader:
        return self.reader

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def iter_car(path: str | Path, *, check: bool = True) -> Iterator[tuple[Cid, bytes]]:
    """Every (CID, bytes) of a CAR file, in its order, verified. Errors: BadCar, OSError."""
    with CarFile(path, check=check) as reader:
        yield from reader
