"""Writes files that are served in place: `.forest.car.zst` and CARv2 with an index, sound ones and damaged ones."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import zstandard

from blockstore.archive.carv2_layout import INDEX_SORTED, MULTIHASH_INDEX_SORTED, PRAGMA
from blockstore.archive.forest_index import (
    EMPTY,
    FRAME_HEADER,
    VERSION,
    footer,
    hash_base,
    slot_hash,
)
from blockstore.car.forest_index import SKIPPABLE_MAGIC, ideal_slot
from blockstore.car.reader import CarFile
from blockstore.car.snapshot_forms import Form, open_writer
from blockstore.car.writer import CarWriter
from blockstore.cid import Cid, read_uvarint, uvarint

Objects = Iterable[tuple[Cid, bytes]]


def _u64(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)


def skippable(content: bytes) -> bytes:
    return SKIPPABLE_MAGIC + len(content).to_bytes(4, "little") + content


def _section(cid: Cid, data: bytes) -> bytes:
    return uvarint(len(cid) + len(data)) + cid + data


def forest_index(places: Sequence[tuple[int, int]]) -> bytes:
    """The index of (hash, offset of a frame), a load of four fifths, as Forest makes it."""
    slots = sorted(set(places))
    buckets = max(len(slots), int(len(slots) / 0.8))
    table: list[tuple[int, int]] = []
    longest = 0
    for hashed, offset in slots:
        ideal = ideal_slot(hashed, buckets)
        table += [(EMPTY, EMPTY)] * (ideal - len(table))
        longest = max(longest, len(table) - ideal)
        table.append((hashed, offset))
    table += [(EMPTY, EMPTY)] * (max(buckets, len(table)) - len(table) + 1)
    return _u64(VERSION, longest, 0, buckets) + b"".join(_u64(*slot) for slot in table)


def write_forest(
    path: Path, roots: Sequence[Cid], objects: Objects, *, frame: int = 8 << 10, index_frame: int = 1 << 30
) -> Path:
    """A `.forest.car.zst` file. `frame`: compressed bytes of a frame, about; `index_frame`: bytes of an index frame."""
    compressor = zstandard.ZstdCompressor(level=3)
    places: list[tuple[int, int]] = []
    with path.open("wb") as out:
        header = io.BytesIO()
        CarWriter(header, roots)
        out.write(compressor.compress(header.getvalue()))
        waiting: list[tuple[Cid, bytes]] = []

        def flush() -> None:
            at = out.tell()
            places.extend((slot_hash(hash_base(cid.multihash), cid.codec), at) for cid, _ in waiting)
            out.write(compressor.compress(b"".join(_section(cid, data) for cid, data in waiting)))
            waiting.clear()

        size = 0
        for cid, data in objects:
            waiting.append((cid, data))
            size += len(data) // 3
            if size > frame:
                flush()
                size = 0
        if waiting:
            flush()
        at = out.tell()
        index = forest_index(places)
        for start in range(0, len(index), index_frame):
            out.write(skippable(index[start : start + index_frame]))
        out.write(footer(at + FRAME_HEADER))
    return path


def write_carv2(path: Path, roots: Sequence[Cid], objects: Objects, *, codec: int = MULTIHASH_INDEX_SORTED) -> Path:
    """A CARv2 file with an index of this form."""
    data = io.BytesIO()
    writer = CarWriter(data, roots)
    #: by code and length of the digest
    tables: dict[tuple[int, int], list[bytes]] = {}
    for cid, raw in objects:
        code, at = read_uvarint(cid.multihash, 0)
        size, at = read_uvarint(cid.multihash, at)
        tables.setdefault((code, size), []).append(cid.multihash[at:] + _u64(writer.offset))
        writer.write(cid, raw)
    body = data.getvalue()
    start = len(PRAGMA) + 40
    index = uvarint(codec)
    codes = sorted({code for code, _ in tables})
    if codec == INDEX_SORTED:
        index += _tables([(size, rows) for (_, size), rows in sorted(tables.items())])
    else:
        index += len(codes).to_bytes(4, "little")
        for code in codes:
            index += _u64(code) + _tables([(size, rows) for (at, size), rows in sorted(tables.items()) if at == code])
    path.write_bytes(PRAGMA + bytes(16) + _u64(start, len(body), start + len(body)) + body + index)
    return path


def _tables(tables: list[tuple[int, list[bytes]]]) -> bytes:
    out = len(tables).to_bytes(4, "little")
    for size, rows in tables:
        joined = b"".join(sorted(rows))
        out += (size + 8).to_bytes(4, "little") + _u64(len(joined)) + joined
    return out


def forest_of(car: Path, path: Path) -> Path:
    """The same objects as a CAR file's, as an export writes a `.forest.car.zst` file."""
    with CarFile(car) as reader, path.open("wb") as out:
        writer = open_writer(out, Form.FOREST, reader.roots)
        for run in reader.runs():
            writer.write(run)
        writer.finish()
        writer.close()
    return path


def carv2_of(car: Path, path: Path, codec: int = MULTIHASH_INDEX_SORTED) -> Path:
    """The same objects as a CAR file's, as a CARv2 file with an index."""
    with CarFile(car) as reader:
        return write_carv2(path, reader.roots, reader, codec=codec)
