"""The stored form of values: compressed where it gains, and cut where a cell would hold more than a server likes.

The first byte says which: 0 as it is, 1 LZ4, 2 in parts, 3 as it is behind the ids of the compare-and-sets that led to
it. What is cut is the form of 0 or 1. Parts are written before the value that names them; their keys follow from it, so
to write them again changes nothing.
"""

from __future__ import annotations

from typing import Final

import lz4.block

from blockstore.errors import Missing, StoreError

#: the most bytes of a cell. ScyllaDB can be set to refuse 2 MiB, and warns of 1
MAX_CELL: Final = 1 << 20
#: bytes of a part
PART: Final = 1 << 19
#: in the table of objects: what the keys of parts of rows begin with, before the value's SHA-256. No multihash does
ROW_PARTS: Final = b"row"
#: bytes of the id of a compare-and-set
ID_BYTES: Final = 8
#: smaller values are not compressed: LZ4 gains nothing
_SMALL: Final = 256


def pack(data: bytes) -> bytes:
    """The stored form of a value: compressed when LZ4 saves at least a tenth."""
    if len(data) >= _SMALL:
        small = lz4.block.compress(data)
        if len(small) < len(data) * 9 // 10:
            return b"\1" + bytes(small)
    return b"\0" + data


def unpack(value: bytes) -> bytes:
    """The value in a cell that `pack` or `with_ids` made. Errors: StoreError (it is damaged)."""
    try:
        if value[0] == 0:
            return value[1:]
        return value[2 + ID_BYTES * value[1] :] if value[0] == 3 else bytes(lz4.block.decompress(value[1:]))
    except (lz4.block.LZ4BlockError, IndexError, ValueError, MemoryError) as error:
        raise StoreError(f"a value is damaged where it is stored: {error}; see `follower store check`") from None


def with_ids(ids: list[bytes], value: bytes) -> bytes:
    """The cell of a value that is compared and set, with the ids (at most 255) of the compare-and-sets before it."""
    return b"\3" + bytes((len(ids),)) + b"".join(ids) + value


def ids_of(cell: bytes) -> list[bytes]:
    """The ids in a cell, oldest first; none in a cell of another form."""
    if cell[0] != 3:
        return []
    return [cell[at : at + ID_BYTES] for at in range(2, 2 + ID_BYTES * cell[1], ID_BYTES)]


def cut(base: bytes, value: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """What `pack` made, in parts: (what stands in its place, [(key, part)]). Keys begin with `base`."""
    pieces = [value[at : at + PART] for at in range(0, len(value), PART)]
    header = b"\2" + len(pieces).to_bytes(4, "big") + base
    return header, list(zip(parts_of(header), pieces, strict=True))


def is_cut(value: bytes) -> bool:
    """Whether the value stands in parts."""
    return value[:1] == b"\2"


def parts_of(value: bytes) -> list[bytes]:
    """The keys of the parts of a value that was cut."""
    return [value[5:] + b"\0part" + number.to_bytes(4, "big") for number in range(int.from_bytes(value[1:5], "big"))]


def joined(value: bytes, parts: list[bytes | None]) -> bytes:
    """The value that was cut. Errors: Missing."""
    for key, part in zip(parts_of(value), parts, strict=True):
        if part is None:
            raise Missing(key, "part of a value")
    return b"".join(part for part in parts if part is not None)
