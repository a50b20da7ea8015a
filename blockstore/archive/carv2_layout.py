"""A CARv2 file with an index: CAR sections as they are, and sorted tables of (digest, offset).

Sources: https://ipld.io/specs/transport/car/carv2/ and ipld/go-car, v2/index. Numbers are little-endian. Behind the
index' codec come, for MultihashIndexSorted, a count (32 bits) of hash functions and the code (64 bits) of each. Then,
in both forms, a count (32 bits) of widths and, for each, the width (32 bits), the table's length in bytes (64 bits) and
the table. A row is a digest and an offset (64 bits) from the beginning of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blockstore.archive.layout import Part, Place, Steps, sections
from blockstore.car.reader import MAX_SECTION
from blockstore.cid import read_uvarint
from blockstore.errors import BadCar, BadCid

PRAGMA: Final = bytes.fromhex("0aa16776657273696f6e02")
_HEADER: Final = 40
INDEX_SORTED: Final = 0x0400
MULTIHASH_INDEX_SORTED: Final = 0x0401
#: hash functions and lengths of digests in an index
_MAX_TABLES: Final = 64
_MAX_DIGEST: Final = 128
#: rows of one read, and reads of one search before it halves what is left
_ROWS: Final = 48
_GUESSES: Final = 6
#: sections of one digest, under several codecs
_MAX_PLACES: Final = 16
_FIRST_READ: Final = 4 << 10


@dataclass(frozen=True, slots=True)
class _Table:
    """Rows of one width. `first` numbers the first row among all of the index."""

    offset: int
    rows: int
    width: int
    first: int


class CarV2Layout:
    """The form of a CARv2 file, opened by `index_tables`."""

    def __init__(self, name: str, data: tuple[int, int]) -> None:
        self._name = name
        self._data_offset = data[0]
        self.data_end = data[1]
        #: by the hash function's code (None: any) and the digest's length
        self._tables: dict[tuple[int | None, int], _Table] = {}
        self.entries = 0

    def add(self, code: int | None, offset: int, length: int, width: int) -> None:
        """A table of the index. Errors: BadCar."""
        if not 8 < width <= _MAX_DIGEST + 8 or length % width or len(self._tables) >= _MAX_TABLES:
            raise BadCar(f"{self._name}: an index of {length} bytes in rows of {width}", offset)
        table = _Table(offset, length // width, width, self.entries)
        self._tables[code, width - 8] = table
        self.entries += table.rows

    def find(self, multihash: bytes) -> Steps[list[Place]]:
        """As `Layout.find`: digests are evenly spread, so that a guess or two lead to the row."""
        try:
            code, at = read_uvarint(multihash, 0)
            size, at = read_uvarint(multihash, at)
        except BadCid:
            return []
        digest = multihash[at:]
        table = self._tables.get((code, size)) or self._tables.get((None, size))
        if table is None or size != len(digest):
            return []
        width = table.width
        low, high = 0, table.rows
        guesses = 0
        wanted = int.from_bytes(digest[:8].ljust(8, b"\0"), "big")
        below, above = 0, 1 << 64
        while low < high:
            # the rows from `low` to `high` have digests from `below` to `above`
            guesses += 1
            if guesses <= _GUESSES and above > below:
                guess = low + (high - low) * (wanted - below) // (above - below)
            else:
                guess = (low + high) // 2
            start = max(low, min(guess - _ROWS // 2, high - _ROWS))
            count = min(_ROWS, high - start)
            raw = yield table.offset + start * width, count * width
            if len(raw) != count * width:
                raise BadCar(f"{self._name}: the file ends within its index", table.offset)
            if digest < raw[:size]:
                high, above = start, int.from_bytes(raw[:8], "big")
            elif digest > raw[-width:-8]:
                low, below = start + count, int.from_bytes(raw[-width : 8 - width], "big")
            else:
                return (yield from self._rows(table, digest, start, raw))
        return []

    def _rows(self, table: _Table, digest: bytes, start: int, raw: bytes) -> Steps[list[Place]]:
        """The rows of a digest. It stands between the first row and the last one of `raw`."""
        width, size = table.width, len(digest)
        places: list[Place] = []
        rows = {start + at // width: raw[at : at + width] for at in range(0, len(raw), width)}
        number = next((at for at, row in rows.items() if row[:size] == digest), None)
        if number is None:
            return []
        if number == start:
            # rows of the same digest may come before the first one that was read
            while number and len(places) < _MAX_PLACES:
                row = yield table.offset + (number - 1) * width, width
                if row[:size] != digest:
                    break
                number -= 1
                places.append(self._place(table, number, row))
            number = start
        while number < table.rows and len(places) < _MAX_PLACES:
            row = rows[number] if number in rows else (yield table.offset + number * width, width)
            if row[:size] != digest:
                break
            places.append(self._place(table, number, row))
            number += 1
        return places

    def _place(self, table: _Table, number: int, row: bytes) -> Place:
        offset = self._data_offset + int.from_bytes(row[table.width - 8 :], "little")
        if len(row) != table.width or offset >= self.data_end:
            raise BadCar(f"{self._name}: row {number} of the index points to {offset:,}, outside of the data", offset)
        return Place(table.first + number, offset)

    def read(self, offset: int) -> Steps[bytes]:
        """One section."""
        raw = yield offset, min(_FIRST_READ, self.data_end - offset)
        try:
            size, body = read_uvarint(raw, 0)
        except BadCid as error:
            raise BadCar(f"{self._name}: no section where the index says that one begins ({error})", offset) from None
        if not 0 < size <= MAX_SECTION or offset + body + size > self.data_end:
            raise BadCar(f"{self._name}: a section of {size} bytes where the index says that one begins", offset)
        if len(raw) < body + size:
            raw += yield offset + len(raw), body + size - len(raw)
        if len(raw) < body + size:
            raise BadCar(f"{self._name}: the file ends within a section", offset)
        return raw[: body + size]

    def parse(self, offset: int, raw: bytes, limit: int) -> Part:
        """The only section."""
        return Part(raw, sections(raw, 0, name=self._name, is_cut=False, offset=offset))


def index_tables(name: str, size: int, beginning: bytes) -> Steps[CarV2Layout]:
    """Find the tables of the index of a CARv2 file, by its first bytes. Errors: BadCar."""
    header = beginning[len(PRAGMA) : len(PRAGMA) + _HEADER]
    data_offset, data_size, at = (int.from_bytes(header[start : start + 8], "little") for start in (16, 24, 32))
    if len(header) < _HEADER or data_offset < len(PRAGMA) + _HEADER or data_offset + data_size > size:
        raise BadCar(f"{name}: the CARv2 header says {data_size:,} bytes of data at {data_offset:,}", len(PRAGMA))
    if not at:
        raise BadCar(f"{name} is a CARv2 file without an index: it can be imported, not served in place", 0)
    layout = CarV2Layout(name, (data_offset, data_offset + data_size))
    raw = yield at, 16
    try:
        codec, length = read_uvarint(raw, 0)
    except BadCid:
        raise BadCar(f"{name}: no index where the CARv2 header says that it is", at) from None
    at += length
    if codec not in (INDEX_SORTED, MULTIHASH_INDEX_SORTED):
        raise BadCar(f"{name}: an index of the form {codec:#x}, which is not read here", at)

    def number(raw: bytes, length: int) -> int:
        if len(raw) != length:
            raise BadCar(f"{name}: the file ends within its index", at)
        return int.from_bytes(raw, "little")

    codes = 1
    if codec == MULTIHASH_INDEX_SORTED:
        codes = number((yield at, 4), 4)
        at += 4
    if codes > _MAX_TABLES:
        raise BadCar(f"{name}: an index of {codes} hash functions", at)
    for _ in range(codes):
        code: int | None = None
        if codec == MULTIHASH_INDEX_SORTED:
            code = number((yield at, 8), 8)
            at += 8
        widths = number((yield at, 4), 4)
        at += 4
        if widths > _MAX_TABLES:
            raise BadCar(f"{name}: an index of {widths} lengths of digests", at)
        for _ in range(widths):
            head = yield at, 12
            number(head, 12)
            at += 12
            width, length = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
            if at + length > size:
                raise BadCar(f"{name}: an index that is longer than the file", at)
            layout.add(code, at, length, width)
            at += length
    return layout
