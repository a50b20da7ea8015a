"""Writing CAR files, version 1, and Lotus' snapshots of version 2 (FRC-0108). Compress by writing into zstd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Final

from blockstore.cid import RAW, Cid, cid_of, uvarint

_TAG_42: Final = b"\xd8\x2a"


def _cbor_head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major << 5 | number,))
    for extra, size in ((24, 1), (25, 2), (26, 4)):
        if number < 1 << 8 * size:
            return bytes((major << 5 | extra,)) + number.to_bytes(size, "big")
    raise ValueError(f"{number} is too long")


def _cbor_link(cid: Cid) -> bytes:
    return _TAG_42 + _cbor_head(2, len(cid) + 1) + b"\0" + cid


def _cbor_links(cids: Sequence[Cid]) -> bytes:
    return _cbor_head(4, len(cids)) + b"".join(_cbor_link(cid) for cid in cids)


def _cbor_text(text: str) -> bytes:
    return _cbor_head(3, len(text)) + text.encode()


def snapshot_metadata(head: Sequence[Cid], f3: Cid | None) -> bytes:
    """The metadata object of a version 2 snapshot; keys in DAG-CBOR's order (by length)."""
    f3_data = b"\xf6" if f3 is None else _cbor_link(f3)
    return (
        _cbor_head(5, 3)
        + (_cbor_text("F3Data") + f3_data)
        + (_cbor_text("Version") + _cbor_head(0, 2))
        + (_cbor_text("HeadTipsetKey") + _cbor_links(head))
    )


def car_header(roots: Sequence[Cid]) -> bytes:
    """The header of a CARv1, its length before it."""
    header = _cbor_head(5, 2) + _cbor_text("roots") + _cbor_links(roots) + _cbor_text("version") + b"\x01"
    return uvarint(len(header)) + header


def section_start(cid: bytes, size: int) -> bytes:
    """What stands before the bytes of an object of `size` bytes: the section's length, and the CID."""
    length = len(cid) + size
    if 0x80 <= length < 0x4000:
        return bytes((length & 0x7F | 0x80, length >> 7)) + cid
    return uvarint(length) + cid


class CarWriter:
    """Writes a header with `roots` at once, then a section a `write`. The file is the caller's to close.

    The caller answers for the hashes: nothing is checked here.
    """

    def __init__(self, file: BinaryIO, roots: Sequence[Cid]) -> None:
        self._file = file
        header = car_header(roots)
        file.write(header)
        #: bytes written
        self.offset = len(header)

    def write(self, cid: Cid, data: bytes) -> None:
        """One object."""
        section = section_start(cid, len(data))
        self._file.write(section + data)
        self.offset += len(section) + len(data)


def snapshot_writer(file: BinaryIO, head: Sequence[Cid], f3: bytes | None = None) -> CarWriter:
    """A writer of a version 2 snapshot of the chain whose head has these blocks; `f3` is its F3 part."""
    f3_cid = None if f3 is None else cid_of(f3, RAW)
    metadata = snapshot_metadata(head, f3_cid)
    root = cid_of(metadata)
    writer = CarWriter(file, [root])
    writer.write(root, metadata)
    if f3_cid is not None and f3 is not None:
        writer.write(f3_cid, f3)
    return writer
