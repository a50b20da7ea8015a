"""Packs of recordings: how `tests/recorded/` keeps large files in git, and how they come out again.

A pack is a tar archive under zstd (`NAME.tar.zst`) and a list of its members with their sums (`NAME.sha256`).
A file that was compressed itself is a member without that compression, under `zst/`; the others are under `plain/`.
So zstd sees the bytes of all files at once, and what several chains share, such as actor code, is stored once.
A compressed file of several frames keeps its form (Forest's CAR files have one frame a group of blocks).

    python -m tests.support.recording_packs FOLDER NAME     # makes tests/recorded/NAME.tar.zst and NAME.sha256
"""

from __future__ import annotations

import argparse
import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import zstandard

#: the folder of the packs
PACKS: Final = Path(__file__).resolve().parents[1] / "recorded"

#: a level and a window that take minutes to pack, seconds to unpack, and 256 MiB of memory to unpack
_LEVEL: Final = 22
_WINDOW_LOG: Final = 28
#: files come out with this level: fast, as the cache is not what git keeps
_CACHE_LEVEL: Final = 1
_CHUNK: Final = 1 << 20


class BadPack(Exception):
    """A pack does not hold what its list says."""


def pack(folder: Path, name: str, into: Path = PACKS) -> Path:
    """Make a pack of every file in `folder`. Takes minutes. Errors: OSError, ZstdError."""
    # CAR files first: together they fit the window
    found = [path for path in folder.rglob("*") if path.is_file()]
    files = sorted(found, key=lambda path: (".car" not in path.name, path))
    sums: list[str] = []
    parameters = zstandard.ZstdCompressionParameters.from_level(_LEVEL, window_log=_WINDOW_LOG, enable_ldm=True)
    target = into / f"{name}.tar.zst"
    with (
        target.open("wb") as file,
        zstandard.ZstdCompressor(compression_params=parameters).stream_writer(file) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in files:
            member = tarfile.TarInfo(_member_name(path, folder))
            with _content(path) as content:
                checksum = hashlib.sha256()
                for chunk in _chunks(content):
                    checksum.update(chunk)
                    member.size += len(chunk)
            sums.append(f"{checksum.hexdigest()}  {member.name}\n")
            with _content(path) as content:
                tar.addfile(member, content)
    target.with_name(f"{name}.sha256").write_text("".join(sorted(sums, key=lambda line: line[66:])))
    return target


def unpack(pack: Path, into: Path) -> None:
    """Write the files of a pack to a folder.

    Errors: BadPack (a sum differs, a file is missing or not listed), OSError, ZstdError, TarError.
    """
    listed = dict(_sums(pack))
    with (
        pack.open("rb") as file,
        zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG).stream_reader(file) as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        for member in tar:
            wanted = listed.pop(member.name, None)
            content = tar.extractfile(member)
            if wanted is None or content is None:
                raise BadPack(f"{pack.name}: {member.name} is not listed")
            form, _, name = member.name.partition("/")
            if _write(content, into / name, compressed=form == "zst") != wanted:
                raise BadPack(f"{pack.name}: {member.name} has another sum than the listed one")
    if listed:
        raise BadPack(f"{pack.name}: {', '.join(sorted(listed))} is missing")


def digest(packs: list[Path]) -> str:
    """A name for what these packs hold, as 16 hex digits."""
    found = hashlib.sha256()
    for one in packs:
        found.update(_list_of(one).read_bytes())
    return found.hexdigest()[:16]


def _list_of(pack: Path) -> Path:
    return pack.with_name(pack.name.removesuffix(".tar.zst") + ".sha256")


def _sums(pack: Path) -> Iterator[tuple[str, str]]:
    """(member, sum) of every file that a pack holds."""
    for line in _list_of(pack).read_text().splitlines():
        found, _, name = line.partition("  ")
        yield name, found


def _member_name(path: Path, folder: Path) -> str:
    name = path.relative_to(folder).as_posix()
    return f"zst/{name}" if _is_one_frame(path) else f"plain/{name}"


def _is_one_frame(path: Path) -> bool:
    """Whether a file is one zstd frame and nothing else."""
    if path.suffix != ".zst":
        return False
    reader = zstandard.ZstdDecompressor().decompressobj()
    with path.open("rb") as file:
        for chunk in _chunks(file):
            if reader.eof:
                return False
            reader.decompress(chunk)
    return reader.eof and not reader.unused_data


def _content(path: Path) -> IO[bytes]:
    """What the pack stores of a file: its bytes, or those inside its one frame."""
    if _is_one_frame(path):
        return zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True)
    return path.open("rb")


def _write(content: IO[bytes], path: Path, *, compressed: bool) -> str:
    """Write a file; its content's sum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = hashlib.sha256()
    with path.open("wb") as file:
        out = zstandard.ZstdCompressor(level=_CACHE_LEVEL).stream_writer(file, closefd=False) if compressed else file
        for chunk in _chunks(content):
            found.update(chunk)
            out.write(chunk)
        out.close()
    return found.hexdigest()


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack a folder of recordings.")
    parser.add_argument("folder", type=Path, help="every file in it goes into the pack")
    parser.add_argument("name", help="the pack's name, without a suffix")
    parser.add_argument("--into", type=Path, default=PACKS, help="where to write it (tests/recorded)")
    given = parser.parse_args()
    made = pack(given.folder, given.name, given.into)
    print(f"{made}: {made.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
