"""A Merkle tree over shards: one root proves each of them.

Source: RFC 9162, sections 2.1.1 (tree hash), 2.1.3.1 (audit path), 2.1.3.2 (verification), with SHA-256.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

HASH_BYTES: Final = 32


def leaf_hash(shard: bytes) -> bytes:
    """The leaf of a shard. Leaves and inner nodes begin differently: none can be passed off as the other."""
    return hashlib.sha256(b"\0" + shard).digest()


def _inner(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over the leaves' hashes; there is at least one."""
    if len(leaves) == 1:
        return leaves[0]
    at = _split(len(leaves))
    return _inner(root_of(leaves[:at]), root_of(leaves[at:]))


def proof_of(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes that lead from leaf `index` to the root, the deepest first."""
    if len(leaves) == 1:
        return []
    at = _split(len(leaves))
    if index < at:
        return [*proof_of(leaves[:at], index), root_of(leaves[at:])]
    return [*proof_of(leaves[at:], index - at), root_of(leaves[:at])]


def is_proven(root: bytes, count: int, index: int, shard: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `shard` is leaf `index` of the `count` leaves under `root`."""
    if not 0 <= index < count or any(len(one) != HASH_BYTES for one in proof):
        return False
    first, last = index, count - 1
    found = leaf_hash(shard)
    for one in proof:
        if last == 0:
            return False
        if first & 1 or first == last:
            found = _inner(one, found)
            while not first & 1 and first:
                first >>= 1
                last >>= 1
        else:
            found = _inner(found, one)
        first >>= 1
        last >>= 1
    return last == 0 and hmac.compare_digest(found, root)
