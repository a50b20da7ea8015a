"""Objects as one piece to be cut: a CAR file in memory, whose reader checks each object's hash."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

from blockstore.car.reader import CarReader
from blockstore.car.writer import CarWriter
from blockstore.cid import Cid


def pack(objects: Iterable[tuple[Cid, bytes]]) -> bytes:
    """A CAR file of these objects, in their order. It has no roots: nothing is under it."""
    file = io.BytesIO()
    writer = CarWriter(file, [])
    for cid, data in objects:
        writer.write(cid, data)
    return file.getvalue()


def unpack(piece: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(multihash, bytes) of each object. Errors: BadCar (a hash is wrong, the file is cut)."""
    for cid, data in CarReader(io.BytesIO(piece)):
        yield cid.multihash, data


def packed_size(count: int, size: int) -> int:
    """About how many bytes `count` objects of `size` bytes in all take."""
    return size + 41 * count + 32
