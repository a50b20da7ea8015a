"""What was cut into shards: one row of the store, written before the first shard is sent.

The rows are two rings in the FLEET table, one of heads and one of files: the newest pieces overwrite the oldest, and
nothing is deleted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from blockstore.shards.erasure import MOST_BYTES, OVERHEAD_BYTES, BadShards, check_numbers
from blockstore.shards.merkle import HASH_BYTES, leaf_hash, proof_of, root_of
from blockstore.store import FLEET, Batch, Store

_PARTITION: Final = b"dispersed"
#: pieces that each ring names at a time; what has not arrived by then is read from elsewhere
RING: Final = 32
#: of a piece of the file `file`, as its bytes stand in it; else the objects of a head, as a CAR file
OBJECTS: Final = ""
_MOST_NAME: Final = 128


@dataclass(frozen=True, slots=True)
class Manifest:
    """One piece. `root`: over its shards; `size`: bytes of the piece; `data`, `parity`: numbers of shards;
    `number`: counts pieces, for the ring. Of a file: its name, where in it the piece begins, its size and its SHA-256.
    """

    root: bytes
    size: int
    data: int
    parity: int
    number: int
    file: str = OBJECTS
    offset: int = 0
    total: int = 0
    digest: str = ""

    @property
    def count(self) -> int:
        """Shards in all."""
        return self.data + self.parity

    @property
    def slot(self) -> int:
        """The place of its row. A bridge and who sends a file do not overwrite each other's."""
        return self.number % RING + (RING if self.file else 0)

    @property
    def most_shard_bytes(self) -> int:
        """No shard is longer."""
        return -(-self.size // self.data) + OVERHEAD_BYTES

    def encode(self) -> bytes:
        """The row's value."""
        return orjson.dumps({**asdict(self), "root": self.root.hex()})


def decode_manifest(value: bytes) -> Manifest:
    """Errors: BadShards."""
    try:
        told: dict[str, Any] = orjson.loads(value)
        found = Manifest(**{**told, "root": bytes.fromhex(told["root"])})
        check_numbers(found.data, found.parity)
        numbers = (found.size, found.number, found.offset, found.total)
        if any(type(one) is not int or one < 0 for one in numbers) or not 0 < found.size <= MOST_BYTES:
            raise ValueError("a number is out of range")
        if len(found.root) != HASH_BYTES or not _is_name(found.file) or not isinstance(found.digest, str):
            raise ValueError("the root or the name of the file is wrong")
        if found.file and not re.fullmatch("[0-9a-f]{64}", found.digest):
            raise ValueError("the SHA-256 of the file is none")
        if found.file and not found.offset + found.size <= found.total:
            raise ValueError("the piece ends behind its file")
    except (orjson.JSONDecodeError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise BadShards(f"the row of a dispersed piece: {error}") from None
    return found


def _is_name(name: Any) -> bool:
    """Whether a file may be called so: a name alone, which leads nowhere else."""
    return isinstance(name, str) and len(name) <= _MOST_NAME and not {"/", "\0"} & set(name) and name[:1] != "."


def check_name(name: str) -> None:
    """Errors: ValueError, for a name that no receiver takes."""
    if not name or not _is_name(name):
        raise ValueError(f"{name!r} is no name for a file that is sent: no folder, no dot at its start, not long")


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard with its proof."""

    index: int
    data: bytes
    proof: tuple[bytes, ...]


def proven(shards: Sequence[bytes]) -> tuple[bytes, list[Shard]]:
    """The root over some shards, and each with its proof."""
    leaves = [leaf_hash(one) for one in shards]
    return root_of(leaves), [Shard(index, data, tuple(proof_of(leaves, index))) for index, data in enumerate(shards)]


async def save_manifest(store: Store, manifest: Manifest) -> None:
    """Write the row. Errors: StoreError."""
    batch = Batch()
    batch.put(FLEET, _PARTITION, bytes((manifest.slot,)), manifest.encode())
    await store.write(batch)


async def load_manifests(store: Store) -> list[Manifest]:
    """The pieces that are named, in the order of their numbers. Errors: StoreError, BadShards."""
    rows = await store.scan(FLEET, _PARTITION, limit=2 * RING)
    return sorted((decode_manifest(value) for _, value in rows), key=lambda one: one.number)
