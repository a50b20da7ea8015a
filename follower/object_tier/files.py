"""Files that come in segments, in any order: written in place, checked whole, then shown under their name."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from blockstore.errors import StoreError
from blockstore.shards.manifest import Manifest

log = logging.getLogger(__name__)

_PART: Final = ".part"
#: beside a file that is arriving: which segments are there
_NOTES: Final = ".segments"
#: without a new segment for so long, a file is not sent any more
_STALE_SECONDS: Final = 7 * 86400


class ReceivedFiles:
    """The folder. Blocking. Processes of a machine share it. Errors on opening: OSError.

    What was begun long ago and never became whole is removed then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for arriving in folder.glob(f"*{_PART}"):
            # another process of the machine may be faster
            with contextlib.suppress(FileNotFoundError):
                if arriving.stat().st_mtime < time.time() - _STALE_SECONDS:
                    arriving.unlink()
                    arriving.with_name(arriving.name + _NOTES).unlink(missing_ok=True)
                    log.info("%s was never sent to its end: removed", arriving.name)

    def write(self, manifest: Manifest, piece: bytes) -> None:
        """Write one segment; the last one checks the file and gives it its name.

        A file that was sent under the same name before is replaced once the new one is whole.
        Errors: OSError (a full disk), StoreError (the file is not what was announced: it is dropped).
        """
        arriving = self._folder / f"{manifest.file}.{manifest.digest[:16]}{_PART}"
        notes = arriving.with_name(arriving.name + _NOTES)
        with _locked(notes) as locked:
            segments = _read_notes(locked)
            descriptor = os.open(arriving, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            with os.fdopen(descriptor, "r+b") as file:
                file.seek(manifest.offset)
                file.write(piece)
                file.flush()
                os.fsync(file.fileno())
                segments[manifest.offset] = len(piece)
                # noted only when it is on disk
                locked.write(json.dumps([manifest.offset, len(piece)]) + "\n")
                locked.flush()
                if not _is_whole(segments, manifest.total):
                    return
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            notes.unlink()
            if digest != manifest.digest:
                arriving.unlink()
                raise StoreError(f"{manifest.file} arrived with another SHA-256 than was announced: it is dropped")
            arriving.replace(self._folder / manifest.file)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            log.info("%s has arrived: %d bytes", manifest.file, manifest.total)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """The notes, for one process or thread at a time. Errors: OSError."""
    while True:
        with path.open("a+") as notes:
            fcntl.flock(notes, fcntl.LOCK_EX)
            if _is_at(notes, path):
                yield notes
                return
            # who had them before has removed them with the file's last segment


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _read_notes(notes: IO[str]) -> dict[int, int]:
    """The segments that are there, offset by size. A line that a crash has cut is left out, and ended."""
    notes.seek(0)
    text = notes.read()
    if text and not text.endswith("\n"):
        notes.write("\n")
    segments: dict[int, int] = {}
    for line in text.splitlines():
        try:
            at, size = json.loads(line)
            segments[int(at)] = int(size)
        except (ValueError, TypeError):
            continue
    return segments


def _is_whole(segments: dict[int, int], total: int) -> bool:
    """Whether these segments, offset by size, leave nothing out."""
    end = 0
    for offset, size in sorted(segments.items()):
        if offset > end:
            return False
        end = max(end, offset + size)
    return end >= total
