"""Shards of a file in folders, one file each: a line of JSON (the piece's manifest, the proof), then the shard.

Every shard names its piece, so nothing beside the shards is needed, and they may lie in any folders.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from blockstore.shards.erasure import BadShards
from blockstore.shards.manifest import Manifest, Shard, decode_manifest
from blockstore.shards.merkle import is_proven

#: the end of the name of a file that holds a shard
SUFFIX: Final = ".shard"
_MOST_LINE: Final = 16 << 10
_MOST_FILE_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class ShardFile:
    """Where a shard lies; nothing of it is proven yet."""

    path: Path
    manifest: Manifest
    index: int


def write_shards(folders: Sequence[Path], manifest: Manifest, shards: Sequence[Shard]) -> None:
    """Write shards to folders in turn, which are made where they are not there. Errors: OSError."""
    for shard in shards:
        folder = folders[shard.index % len(folders)]
        folder.mkdir(parents=True, exist_ok=True)
        line: dict[str, Any] = {
            "manifest": manifest.encode().decode(),
            "index": shard.index,
            "proof": [one.hex() for one in shard.proof],
        }
        name = f"{manifest.file}.{manifest.number}.{shard.index}{SUFFIX}"
        arriving = folder / f"{name}.part"
        arriving.write_bytes(orjson.dumps(line) + b"\n" + shard.data)
        arriving.replace(folder / name)


def is_shard_name(name: str) -> bool:
    """Whether a file of a folder of shards may be called so."""
    return name.endswith(SUFFIX) and len(name) <= _MOST_FILE_NAME and not {"/", "\0"} & set(name) and name[:1] != "."


def find_shards(folder: Path) -> Iterator[ShardFile | BadShards]:
    """The shards in a folder, each or why it is none. Errors: OSError."""
    for path in sorted(folder.iterdir()):
        if path.suffix == SUFFIX and path.is_file():
            try:
                yield read_start(path)
            except BadShards as error:
                yield BadShards(f"{path}: {error}")


def read_start(path: Path) -> ShardFile:
    """What a file says that it holds. Errors: BadShards, OSError."""
    with path.open("rb") as file:
        manifest, index, _ = _start(file)
    return ShardFile(path, manifest, index)


def read_shard(found: ShardFile) -> Shard:
    """A shard, proven by the root of its manifest. Errors: BadShards, OSError."""
    with found.path.open("rb") as file:
        manifest, index, proof = _start(file)
        data = file.read(manifest.most_shard_bytes + 1)
    if manifest != found.manifest or not is_proven(manifest.root, manifest.count, index, data, proof):
        raise BadShards(f"{found.path}: its proof does not lead to the root of its piece")
    return Shard(index, data, proof)


def parse_shard(content: bytes) -> tuple[Manifest, Shard]:
    """(its piece, a shard) of a file's content, proven by the root that it names itself. Errors: BadShards."""
    file = io.BytesIO(content)
    manifest, index, proof = _start(file)
    data = content[file.tell() :]
    if not is_proven(manifest.root, manifest.count, index, data, proof):
        raise BadShards("its proof does not lead to the root of its piece")
    return manifest, Shard(index, data, proof)


def _start(file: BinaryIO) -> tuple[Manifest, int, tuple[bytes, ...]]:
    """(manifest, index, proof) of a shard's first line. Errors: BadShards."""
    try:
        told = orjson.loads(file.readline(_MOST_LINE))
        manifest, index = decode_manifest(told["manifest"].encode()), told["index"]
        proof = tuple(bytes.fromhex(one) for one in told["proof"])
        if type(index) is not int or not 0 <= index < manifest.count or not manifest.file:
            raise ValueError("no such shard")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadShards(f"not a shard: {error}") from None
    return manifest, index, proof
