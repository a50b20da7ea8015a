"""A file cut into shards that lie in folders, and put together again from any of them that are enough."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from blockstore.shards.erasure import DATA_SHARDS, MOST_BYTES, PARITY_SHARDS, BadShards, cut, join
from blockstore.shards.folder import ShardFile, find_shards, read_shard, write_shards
from blockstore.shards.manifest import Manifest, check_name, proven

log = logging.getLogger(__name__)

#: bytes of a segment: they and their shards are in memory at once
SEGMENT_BYTES: Final = MOST_BYTES
#: the pieces of one file: by where they begin, by manifest, by index
_Pieces = dict[int, dict[Manifest, dict[int, ShardFile]]]


def figures_of(path: Path) -> tuple[int, str]:
    """The size of a file and its SHA-256. Errors: OSError."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def cut_file(
    path: Path,
    folders: Sequence[Path],
    *,
    data_shards: int = DATA_SHARDS,
    parity_shards: int = PARITY_SHARDS,
    segment_bytes: int = SEGMENT_BYTES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Write the shards of a file to folders in turn; its SHA-256 in hex. Blocking.

    Errors: ValueError (its name, or it is empty, or it changes meanwhile), OSError, StoreUnavailable (no library).
    """
    check_name(path.name)
    total, digest = figures_of(path)
    if not total:
        raise ValueError(f"{path} is empty")
    with path.open("rb") as file:
        for number, offset in enumerate(range(0, total, segment_bytes)):
            piece = file.read(segment_bytes)
            if len(piece) != min(segment_bytes, total - offset):
                raise ValueError(f"{path} has changed while it was cut")
            root, shards = proven(cut(piece, data_shards, parity_shards))
            manifest = Manifest(root, len(piece), data_shards, parity_shards, number, path.name, offset, total, digest)
            write_shards(folders, manifest, shards)
            progress(offset + len(piece), total)
    return digest


def join_files(folders: Sequence[Path], into: Path) -> list[Path]:
    """Put together every file of which there are shards in `folders`, in the folder `into`. Blocking.

    A shard that its proof does not fit is left out, with a warning. Errors: BadShards (there are none, too few, or
    they are not those of the file), OSError, StoreUnavailable (no library).
    """
    files: dict[tuple[str, int, str], _Pieces] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for folder in folders:
        for found in find_shards(folder):
            if isinstance(found, BadShards):
                log.warning("a shard is left out: %s", found)
                continue
            manifest = found.manifest
            files[manifest.file, manifest.total, manifest.digest][manifest.offset][manifest].setdefault(
                found.index, found
            )
    if not files:
        raise BadShards(f"no shards in {', '.join(map(str, folders))}")
    into.mkdir(parents=True, exist_ok=True)
    return [_join_file(into / name, total, digest, pieces) for (name, total, digest), pieces in sorted(files.items())]


def _join_file(path: Path, total: int, digest: str, pieces: _Pieces) -> Path:
    with contextlib.suppress(FileNotFoundError):
        if figures_of(path) == (total, digest):
            # put together by an earlier run
            return path
    arriving = path.with_name(f"{path.name}.part")
    sha256 = hashlib.sha256()
    try:
        with arriving.open("wb") as file:
            while (offset := file.tell()) < total:
                piece = _join_piece(path.name, offset, pieces.get(offset, {}))
                sha256.update(piece)
                file.write(piece)
        if sha256.hexdigest() != digest:
            raise BadShards(f"the shards of {path.name} do not give a file of SHA-256 {digest}")
        arriving.replace(path)
    finally:
        arriving.unlink(missing_ok=True)
    return path


def _join_piece(name: str, offset: int, candidates: dict[Manifest, dict[int, ShardFile]]) -> bytes:
    most = "none"
    for manifest, found in candidates.items():
        shards: list[bytes] = []
        for one in found.values():
            try:
                shards.append(read_shard(one).data)
            except BadShards as error:
                log.warning("a shard is left out: %s", error)
            if len(shards) == manifest.data:
                return join(shards, manifest.size, manifest.data, manifest.parity)
        most = f"{len(shards)} of {manifest.data}"
    raise BadShards(f"{name}, from byte {offset:,}: {most} shards that are needed are here and proven")
