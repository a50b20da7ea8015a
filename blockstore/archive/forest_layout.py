"""A `.forest.car.zst` file: whole CAR sections in small zstd frames, and an index to them (`forest_index`)."""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import Final

import zstandard

from blockstore.archive.forest_index import (
    EMPTY,
    FOOTER_SIZE,
    FRAME_HEADER,
    HEADER_SIZE,
    SLOT_SIZE,
    VERSION,
    hash_base,
    index_offset_of,
    slot_hash,
)
from blockstore.archive.layout import Part, Place, Steps, sections
from blockstore.car.forest_index import SKIPPABLE_MAGIC, ideal_slot
from blockstore.cid import DAG_CBOR, DAG_PB, RAW
from blockstore.errors import BadCar, BadCid

#: a frame is mostly a little over 8 KiB
_FIRST_READ: Final = 16 << 10
_LONGEST_READ: Final = 4 << 20
#: compressed bytes of a frame that are looked at: the largest section is 8 MiB
_MAX_COMPRESSED: Final = 12 << 20
#: zstd's own limit for what it decompresses without being asked to
_MAX_WINDOW: Final = 1 << 27
_MAX_BLOCK: Final = 128 << 10
_FRAME_MAGIC: Final = b"\x28\xb5\x2f\xfd"
#: slots of one read
_SLOTS: Final = 16
#: zstd frames that one object may be looked for in: more have one hash only in a file that was made so
_MAX_PLACES: Final = 16


class ForestLayout:
    """The form of a `.forest.car.zst` file, opened by `open_forest`."""

    def __init__(self, name: str, starts: list[int], offsets: list[int], size: int) -> None:
        self._name = name
        #: where in the index each of its frames begins, and where in the file its content begins
        self._starts = starts
        self._offsets = offsets
        self._size = size
        self.data_end = offsets[0] - FRAME_HEADER
        self.entries = max(0, size - HEADER_SIZE) // SLOT_SIZE
        self._longest = 0
        self._buckets = 0

    def take_header(self, header: bytes) -> None:
        """Read the index' header. Errors: BadCar."""
        if len(header) < HEADER_SIZE:
            raise BadCar(f"{self._name}: the index is {len(header)} bytes long", self._offsets[0])
        version, self._longest, _, self._buckets = struct.unpack("<4Q", header)
        if version != VERSION:
            raise BadCar(
                f"{self._name}: the index is of version {version:#x}, which is not read here", self._offsets[0]
            )
        if self._buckets > self.entries:
            raise BadCar(
                f"{self._name}: the index says {self._buckets:,} slots and has {self.entries:,}", self._offsets[0]
            )

    def _index(self, start: int, length: int) -> Steps[bytes]:
        """Bytes of the index, wherever its frames begin."""
        if len(self._starts) == 1 and start + length <= self._size:
            data = yield self._offsets[0] + start, length
            if len(data) != length:
                raise BadCar(f"{self._name}: the file ends within its index", self._offsets[0])
            return data
        parts: list[bytes] = []
        while length > 0 and start < self._size:
            at = bisect_right(self._starts, start) - 1
            end = self._starts[at + 1] if at + 1 < len(self._starts) else self._size
            piece = min(length, end - start)
            data = yield self._offsets[at] + start - self._starts[at], piece
            if len(data) != piece:
                raise BadCar(f"{self._name}: the file ends within its index", self._offsets[at])
            parts.append(data)
            start += piece
            length -= piece
        return b"".join(parts)

    def header(self) -> Steps[bytes]:
        """The first bytes of the index."""
        return self._index(0, HEADER_SIZE)

    def find(self, multihash: bytes) -> Steps[list[Place]]:
        """As `Layout.find`. The codecs of Filecoin's CIDs change the lowest bits only: their slots lie together."""
        if not self._buckets:
            return []
        try:
            base = hash_base(multihash)
        except BadCid:
            return []
        wanted = (slot_hash(base, DAG_CBOR), slot_hash(base, RAW), slot_hash(base, DAG_PB))
        highest = max(wanted)
        slot = ideal_slot(min(wanted), self._buckets)
        first = ideal_slot(highest, self._buckets)
        # what lies further away than this is no object of this hash
        last = min(first + self._longest, self.entries - 1)
        places: list[Place] = []
        while slot <= last:
            raw = yield from self._index(HEADER_SIZE + slot * SLOT_SIZE, min(_SLOTS, last - slot + 1) * SLOT_SIZE)
            for hashed, offset in struct.iter_unpack("<2Q", raw):
                if hashed in wanted:
                    if offset >= self.data_end:
                        raise BadCar(
                            f"{self._name}: slot {slot} of the index points to {offset:,}, outside of the data",
                            self._offsets[0],
                        )
                    places.append(Place(slot, offset))
                    if len(places) > _MAX_PLACES:
                        raise BadCar(f"{self._name}: more than {_MAX_PLACES} frames for one hash", self._offsets[0])
                elif hashed == EMPTY:
                    if slot >= first:
                        return places
                elif hashed > highest:
                    return places
                slot += 1
        return places

    def read(self, offset: int) -> Steps[bytes]:
        """A zstd frame, whole, or so much of it as is looked at."""
        raw = yield offset, min(_FIRST_READ, self.data_end - offset)
        while (length := _frame_length(raw, self._name, offset)) is None:
            if len(raw) >= _MAX_COMPRESSED:
                return raw
            more = min(max(len(raw), _FIRST_READ), _LONGEST_READ, self.data_end - offset - len(raw))
            if more <= 0:
                raise BadCar(f"{self._name}: a zstd frame that does not end before the index", offset)
            came = yield offset + len(raw), more
            if not came:
                raise BadCar(f"{self._name}: the file ends within a zstd frame", offset)
            raw += came
        return raw[:length]

    def parse(self, offset: int, raw: bytes, limit: int) -> Part:
        """Decompress a frame and find its sections."""
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        try:
            with decompressor.stream_reader(raw) as reader:
                data = reader.read(limit + 1)
        except zstandard.ZstdError as error:
            raise BadCar(f"{self._name}: a zstd frame that is corrupted ({error})", offset) from None
        cut = len(data) > limit or len(raw) >= _MAX_COMPRESSED
        found = sections(data, 0, name=self._name, is_cut=cut, offset=offset)
        return Part(data, found, cut)


def _frame_length(raw: bytes, name: str, offset: int) -> int | None:
    """The length of the zstd frame at the beginning of `raw`; None where it goes on. Source: RFC 8878, 3.1.1."""
    if len(raw) < 6:
        return None
    if raw[:4] != _FRAME_MAGIC:
        raise BadCar(f"{name}: {raw[:4].hex()} where the index says that a zstd frame begins", offset)
    flags = raw[4]
    single = flags >> 5 & 1
    at = 5 + (single, 2, 4, 8)[flags >> 6] + (0, 1, 2, 4)[flags & 3] + (1 - single)
    while at + 3 <= len(raw):
        word = raw[at] | raw[at + 1] << 8 | raw[at + 2] << 16
        last, kind, size = word & 1, word >> 1 & 3, word >> 3
        if kind == 3 or size > _MAX_BLOCK:
            raise BadCar(f"{name}: a zstd frame that is corrupted (its blocks make no sense)", offset)
        at += 3 + (1 if kind == 1 else size)
        if last:
            at += 4 * (flags >> 2 & 1)
            return at if at <= len(raw) else None
    return None


def index_frames(name: str, size: int) -> Steps[ForestLayout | None]:
    """Find the index of a file of `size` bytes; None where its end is not that of such a file. Errors: BadCar."""
    tail = yield max(0, size - FOOTER_SIZE), FOOTER_SIZE
    content = index_offset_of(tail)
    if content is None:
        return None
    end = size - FOOTER_SIZE
    at = content - FRAME_HEADER
    starts: list[int] = []
    offsets: list[int] = []
    length = 0
    while at < end or not starts:
        if not 0 <= at <= end - FRAME_HEADER:
            raise BadCar(f"{name}: the index is said to be at {content:,}, where there is none", end)
        head = yield at, FRAME_HEADER
        if len(head) < FRAME_HEADER or head[:4] != SKIPPABLE_MAGIC:
            raise BadCar(f"{name}: the index is said to be at {content:,}, where there is none", at)
        size_here = int.from_bytes(head[4:], "little")
        if at + FRAME_HEADER + size_here > end:
            raise BadCar(f"{name}: a frame of the index that is longer than the file", at)
        starts.append(length)
        offsets.append(at + FRAME_HEADER)
        length += size_here
        at += FRAME_HEADER + size_here
    layout = ForestLayout(name, starts, offsets, length)
    layout.take_header((yield from layout.header()))
    return layout
