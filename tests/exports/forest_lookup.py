"""Looks objects up in a `.forest.car.zst` file, step by step as Forest does (`src/db/car/forest.rs`, `index/mod.rs`).

Written apart from the project's own reader and writer, so that the two cannot be wrong together.
"""

from __future__ import annotations

import struct
from pathlib import Path

import zstandard

from blockstore.cid import Cid, cid_parts, read_cid, read_uvarint


class ForestLookup:
    """A file that is looked into. Raises AssertionError for whatever Forest would refuse."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        footer = self.data[-16:]
        assert footer[:8] == b"\x50\x2a\x4d\x18\x08\0\0\0", "not recognizable as a .forest.car.zst file"
        self.index_start = int.from_bytes(footer[8:], "little") - 8
        self.index_bytes = self.data[self.index_start : -16]
        self.frames = 0
        content, at = [], 0
        while at < len(self.index_bytes):
            assert self.index_bytes[at : at + 4] == b"\x50\x2a\x4d\x18"
            size = int.from_bytes(self.index_bytes[at + 4 : at + 8], "little")
            content.append(self.index_bytes[at + 8 : at + 8 + size])
            at += 8 + size
            self.frames += 1
        assert at == len(self.index_bytes)
        self.table = b"".join(content)
        version, self.longest, self.collisions, self.buckets = struct.unpack_from("<4Q", self.table)
        assert version == 0xDEADBEF0
        assert self.table[-16:] == b"\xff" * 16, "the table ends in an empty slot"

    def offsets(self, cid: Cid) -> list[int]:
        """The frames that may hold an object."""
        codec, multihash = cid_parts(cid)
        code, at = read_uvarint(multihash, 0)
        _, at = read_uvarint(multihash, at)
        digest = multihash[at:]
        needle = codec ^ code
        for start in range(0, len(digest) // 8 * 8, 8):
            needle ^= int.from_bytes(digest[start : start + 8], "little")
        needle = max(0, needle - 1)
        slot = needle * self.buckets >> 64
        left = self.longest
        while True:
            value, offset = struct.unpack_from("<2Q", self.table, 32 + 16 * slot)
            if (value, offset) == (2**64 - 1, 2**64 - 1):
                return []
            if value == needle:
                break
            if not left:
                return []
            left -= 1
            slot += 1
        found = []
        while value == needle:
            found.append(offset)
            slot += 1
            value, offset = struct.unpack_from("<2Q", self.table, 32 + 16 * slot)
        return found

    def frame(self, offset: int) -> tuple[bytes, int]:
        """(the content of the frame at an offset, its length in the file)."""
        one = zstandard.ZstdDecompressor().decompressobj()
        content = one.decompress(self.data[offset:])
        assert one.eof
        return content, len(self.data) - offset - len(one.unused_data)

    def sections(self, offset: int) -> list[tuple[Cid, bytes]]:
        """The objects of a frame, which holds whole sections only."""
        content, _ = self.frame(offset)
        out, at = [], 0
        while at < len(content):
            size, start = read_uvarint(content, at)
            cid, body = read_cid(content, start)
            at = start + size
            out.append((cid, content[body:at]))
        assert at == len(content)
        return out

    def get(self, cid: Cid) -> bytes | None:
        """An object by its CID."""
        for offset in self.offsets(cid):
            for one, data in self.sections(offset):
                if one == cid:
                    return data
        return None

    def data_frames(self) -> list[int]:
        """Offsets of the frames between the header and the index."""
        out, at = [], self.frame(0)[1]
        while at < self.index_start:
            out.append(at)
            at += self.frame(at)[1]
        assert at == self.index_start
        return out
