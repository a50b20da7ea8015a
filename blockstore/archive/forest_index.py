"""Reading the index inside a `.forest.car.zst` file, a hash table over the CIDs in skippable zstd frames at its end.

It is written by `blockstore.car.forest_index`. Source: ChainSafe/forest, src/db/car/forest.rs and
src/db/car/forest/index. All numbers are little-endian, 64 bits.

* The file's last 16 bytes are a skippable frame whose content is the offset of the index' content.
* The index lies in one skippable frame or in several, one behind the other up to the footer: a version, a header
  (`longest_distance`, `collisions`, `buckets`), then slots of (hash, offset of a zstd frame).
* Slots are sorted by hash. An object's slot is the one that its hash points to or one of the `longest_distance` that
  follow. An empty slot is all ones. After the last slot comes an empty one.
"""

from __future__ import annotations

import struct
from typing import Final

from blockstore.car.forest_index import SKIPPABLE_MAGIC
from blockstore.cid import BLAKE2B_256, read_uvarint

FOOTER_SIZE: Final = 16
#: the magic number and the length of a skippable frame
FRAME_HEADER: Final = 8
VERSION: Final = 0xDEADBEF0
#: version, longest distance, collisions, buckets
HEADER_SIZE: Final = 32
SLOT_SIZE: Final = 16
EMPTY: Final = (1 << 64) - 1
_BLAKE2B_256: Final = b"\xa0\xe4\x02\x20"
_DIGEST: Final = struct.Struct("<4Q")


def hash_base(multihash: bytes) -> int:
    """What a multihash alone gives of the hash; the codec of the CID comes to it. Errors: BadCid."""
    if multihash[:4] == _BLAKE2B_256 and len(multihash) == 36:
        # nearly every object of the chain, and a search is made for each link of a walk
        a, b, c, d = _DIGEST.unpack_from(multihash, 4)
        folded: int = BLAKE2B_256 ^ a ^ b ^ c ^ d
        return folded
    code, at = read_uvarint(multihash, 0)
    _, at = read_uvarint(multihash, at)
    base = code
    for start in range(at, len(multihash) - 7, 8):
        base ^= int.from_bytes(multihash[start : start + 8], "little")
    return base


def slot_hash(base: int, codec: int) -> int:
    """The hash of a CID in the table: never the value that stands for an empty slot."""
    return max(0, (base ^ codec) - 1)


def footer(index_offset: int) -> bytes:
    """The last frame of a file whose index' content begins at `index_offset`."""
    return SKIPPABLE_MAGIC + (8).to_bytes(4, "little") + index_offset.to_bytes(8, "little")


def index_offset_of(tail: bytes) -> int | None:
    """Where the index' content begins, by the file's last 16 bytes; None where this is no such file."""
    if len(tail) != FOOTER_SIZE:
        return None
    offset = int.from_bytes(tail[8:], "little")
    return offset if tail == footer(offset) else None
