"""The index of a `.forest.car.zst` file: from an object's hash to the offsets of the zstd frames that may hold it.

A hash table with linear probing, in one or more skippable frames. All numbers are little-endian and take 8 bytes.
It begins with the version, the longest distance between a slot and its ideal place, the number of hash collisions,
and the number of buckets. Then come slots: (hash, frame offset), sorted, an empty slot being all ones. Source: Forest
`src/db/car/forest/index/mod.rs` and `hash.rs`.
"""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from blockstore.cid import Cid, cid_parts, read_uvarint

SKIPPABLE_MAGIC: Final = b"\x50\x2a\x4d\x18"
_VERSION_1: Final = 0xDEADBEEF + 1
_EMPTY: Final = b"\xff" * 16
_SLOT: Final = 16
_HEADER: Final = 32
_LOAD_FACTOR: Final = 0.8
#: an index up to this length stands in one frame, which older releases of Forest ask for; a longer one in several
_ONE_FRAME: Final = (1 << 32) - 1
_FRAME: Final = 512 << 20
#: entries sorted in memory at a time, about 90 bytes each
RUN_ENTRIES: Final = 1 << 20
_BLOCK: Final = 64 << 10

_CBOR_BLAKE: Final = b"\x01\x71\xa0\xe4\x02\x20"
_RAW_BLAKE: Final = b"\x01\x55\xa0\xe4\x02\x20"
_DIGEST: Final = struct.Struct("<4Q")
_SEED: Final = {_CBOR_BLAKE: 0x71 ^ 0xB220, _RAW_BLAKE: 0x55 ^ 0xB220}


class Output(Protocol):
    """What an index is written into."""

    def write(self, data: bytes, /) -> object:
        """All of `data`."""


def cid_hash(cid: bytes) -> int:
    """The hash of a CID in the index: its codec, hash function and digest, folded into 64 bits; never 2**64 - 1."""
    seed = _SEED.get(cid[:6])
    if seed is not None and len(cid) == 38:
        a, b, c, d = _DIGEST.unpack_from(cid, 6)
        folded: int = seed ^ a ^ b ^ c ^ d
        return max(folded - 1, 0)
    codec, multihash = cid_parts(Cid(cid))
    code, at = read_uvarint(multihash, 0)
    size, at = read_uvarint(multihash, at)
    value = codec ^ code
    for start in range(at, at + size - 7, 8):
        value ^= int.from_bytes(multihash[start : start + 8], "little")
    return max(value - 1, 0)


def ideal_slot(value: int, buckets: int) -> int:
    """The place in a table of `buckets` from which a hash is looked for."""
    return value * buckets >> 64


class IndexEntries:
    """(CID, frame offset) pairs, sorted outside of memory: a snapshot of mainnet has hundreds of millions.

    `folder`: where sorted runs go (unnamed files). A context manager.
    """

    def __init__(self, folder: Path | None = None, *, run_entries: int = RUN_ENTRIES) -> None:
        self._folder = folder
        self._run_entries = run_entries
        #: hash << 64 | offset
        self._last: list[int] = []
        self._runs: list[BinaryIO] = []

    def add(self, cids: Iterable[bytes], offset: int) -> None:
        """The frame at `offset` holds these objects."""
        self._last += [cid_hash(cid) << 64 | offset for cid in cids]
        if len(self._last) >= self._run_entries:
            self._spill()

    def _spill(self) -> None:
        self._runs.append(self._file(value.to_bytes(_SLOT, "big") for value in sorted(self._last)))
        self._last = []

    def _file(self, entries: Iterable[bytes]) -> BinaryIO:
        file: BinaryIO = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        block: list[bytes] = []
        for entry in entries:
            block.append(entry)
            if len(block) >= _BLOCK:
                file.write(b"".join(block))
                block.clear()
        file.write(b"".join(block))
        return file

    def write(self, out: Output, *, one_frame: int = _ONE_FRAME, frame: int = _FRAME) -> int:
        """Write the index. The result is its length in bytes, with the heads of its frames."""
        if self._runs:
            self._spill()
            merged = self._file(_without_doubles(heapq.merge(*map(_entries, self._runs))))
            self.close()
            self._runs = [merged]
        else:
            self._last = sorted(set(self._last))
        count = collisions = 0
        before = -1
        for value, _ in self._sorted():
            count += 1
            collisions += value == before
            before = value
        buckets = max(int(count / _LOAD_FACTOR), count)
        longest = slots = 0
        for value, _ in self._sorted():
            ideal = ideal_slot(value, buckets)
            slots = max(slots, ideal) + 1
            longest = max(longest, slots - 1 - ideal)
        slots = max(slots, buckets) + 1
        length = _HEADER + slots * _SLOT
        frames = _Frames(out, length if length <= one_frame else frame, length)
        frames.write(struct.pack("<4Q", _VERSION_1, longest, collisions, buckets))
        block: list[bytes] = []
        at = 0
        for value, offset in self._sorted():
            ideal = ideal_slot(value, buckets)
            if ideal > at:
                block.append(_EMPTY * (ideal - at))
                at = ideal
            block.append(struct.pack("<2Q", value, offset))
            at += 1
            if len(block) >= _BLOCK:
                frames.write(b"".join(block))
                block.clear()
        frames.write(b"".join(block) + _EMPTY * (slots - at))
        return frames.written

    def _sorted(self) -> Iterator[tuple[int, int]]:
        """(hash, offset) in order, without doubles; only within `write`."""
        if self._runs:
            (merged,) = self._runs
            for entry in _entries(merged):
                yield int.from_bytes(entry[:8], "big"), int.from_bytes(entry[8:], "big")
        else:
            low = (1 << 64) - 1
            for value in self._last:
                yield value >> 64, value & low

    def close(self) -> None:
        """Let go of the files."""
        for run in self._runs:
            run.close()
        self._runs = []

    def __enter__(self) -> IndexEntries:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _entries(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(_BLOCK):
        for at in range(0, len(block), _SLOT):
            yield block[at : at + _SLOT]


def _without_doubles(entries: Iterable[bytes]) -> Iterator[bytes]:
    before = b""
    for entry in entries:
        if entry != before:
            yield entry
        before = entry


class _Frames:
    """Cuts what is written into skippable frames of `size` bytes each; `left` bytes come in all."""

    def __init__(self, out: Output, size: int, left: int) -> None:
        self._out = out
        self._size = size
        self._left = left
        self._in_frame = 0
        self.written = 0

    def write(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if not self._in_frame:
                self._in_frame = min(self._size, self._left)
                self._put(SKIPPABLE_MAGIC + self._in_frame.to_bytes(4, "little"))
            part = data[at : at + self._in_frame]
            self._put(part)
            at += len(part)
            self._in_frame -= len(part)
            self._left -= len(part)

    def _put(self, data: bytes) -> None:
        self._out.write(data)
        self.written += len(data)
