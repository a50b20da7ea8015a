"""A CAR file as batches ready to be stored, made in this process or in one of its own.

Objects below which there is nothing (no links, or links to sectors' and pieces' commitments alone) are told
apart: they are closed by themselves. The rest is loose until an import's last pass.

Two cores are used by reading, decompressing, parsing and hashing in a child process, which hands over
pickled batches through a pipe: threads would not do, for hashing a kilobyte holds the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from blockstore.car import CarFile
from blockstore.cid import DAG_CBOR, Cid
from blockstore.errors import BadCar

#: bytes of objects in a batch, about
BATCH_BYTES: Final = 12 << 20
_PIPE: Final = 1 << 20
_LINK: Final = b"\xd8\x2a"
#: links to sealed and unsealed sector commitments (codecs 0xf102 and 0xf101), as encoded
_COMMITMENTS: Final = (b"\xd8\x2a\x58\x28\x00\x01\x82\xe2\x03", b"\xd8\x2a\x58\x28\x00\x01\x81\xe2\x03")


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an earlier import of the stream with this fingerprint was."""

    fingerprint: str
    offset: int


@dataclass(frozen=True, slots=True)
class Opened:
    """What comes first. `start` is where reading goes on: 0, or the resumed offset. `size` in bytes of the
    file (None for a pipe)."""

    fingerprint: str
    head: tuple[Cid, ...]
    start: int
    size: int | None
    snapshot_version: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Verified (multihash, bytes), sorted. `offset` is the stream's position behind them."""

    leaves: list[tuple[bytes, bytes]]
    others: list[tuple[bytes, bytes]]
    offset: int
    consumed: int
    size: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream was read to its end. `f3_bytes`: size of a snapshot's F3 part, verified, not stored."""

    offset: int
    f3_bytes: int


Fed = Opened | Chunk | Ended


def is_leaf(cid: bytes, data: bytes) -> bool:
    """Whether there is nothing below an object, whatever its form: only sure cases count."""
    if cid[:2] != b"\x01\x71" and Cid(cid).codec != DAG_CBOR:
        return True
    marks = data.count(_LINK)
    return not marks or marks == data.count(_COMMITMENTS[0]) + data.count(_COMMITMENTS[1])


def feed(path: str | Path, resume: Resume | None = None, *, batch_bytes: int = BATCH_BYTES) -> Iterator[Fed]:
    """`Opened`, then `Chunk`s, then `Ended`. Errors: BadCar, OSError."""
    with CarFile(path) as reader:
        start = 0
        if resume is not None and resume.fingerprint == reader.fingerprint:
            start = resume.offset
        size = None if str(path) == "-" else _size(path)
        version = reader.snapshot.version if reader.snapshot else 1
        yield Opened(reader.fingerprint, reader.head, start, size, version)
        if start:
            reader.seek(start)
        leaves: list[tuple[bytes, bytes]] = []
        others: list[tuple[bytes, bytes]] = []
        gathered = 0
        try:
            for cid, data in reader:
                multihash = cid[2:] if cid[:1] == b"\x01" and cid[1] < 0x80 else cid.multihash
                if multihash[:1] != b"\0":
                    (leaves if is_leaf(cid, data) else others).append((multihash, data))
                gathered += len(data) + 38
                if gathered >= batch_bytes:
                    leaves.sort()
                    others.sort()
                    yield Chunk(leaves, others, reader.offset, reader.consumed, gathered)
                    leaves, others, gathered = [], [], 0
        except BadCar:
            # what came before the fault is good, and is kept
            if leaves or others:
                yield Chunk(leaves, others, reader.offset, reader.consumed, gathered)
            raise
        if leaves or others:
            leaves.sort()
            others.sort()
            yield Chunk(leaves, others, reader.offset, reader.consumed, gathered)
        yield Ended(reader.offset, reader.f3_bytes)


def _size(path: str | Path) -> int | None:
    found = os.stat(path)
    return found.st_size if os.path.isfile(path) else None


class FeedProcess:
    """`feed` in a child process. Iterate once; `stop` ends the child at any time."""

    def __init__(self, path: str | Path, resume: Resume | None = None) -> None:
        arguments = [str(path)] if resume is None else [str(path), resume.fingerprint, str(resume.offset)]
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(entry or os.getcwd() for entry in sys.path))
        self._child = subprocess.Popen(
            [sys.executable, "-m", "blockstore.car_feed", *arguments],
            stdout=subprocess.PIPE,
            stdin=None if str(path) == "-" else subprocess.DEVNULL,
            env=environment,
        )

    def __iter__(self) -> Iterator[Fed]:
        assert self._child.stdout is not None
        pipe = self._child.stdout
        while True:
            try:
                item = pickle.load(pipe)
            except (EOFError, pickle.UnpicklingError):
                raise OSError(f"the reading process ended early (exit code {self._child.wait()})") from None
            if isinstance(item, _Failure):
                raise item.error()
            yield item
            if isinstance(item, Ended):
                return

    def stop(self) -> None:
        """End the child, if it still runs, and take it in."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error on its way through the pipe: a BadCar has an offset, an OSError a number."""

    reason: str
    offset: int | None
    errno: int | None = None
    file: str | None = None

    def error(self) -> Exception:
        if self.offset is not None:
            return BadCar(self.reason, self.offset)
        return OSError(self.errno, self.reason, self.file)


def _widen(pipe: BinaryIO) -> None:
    """A larger pipe where the system lets us."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)


def _child(arguments: list[str]) -> None:
    # the classes must unpickle under their importable name, not under __main__
    from blockstore import car_feed

    path = arguments[0]
    resume = car_feed.Resume(arguments[1], int(arguments[2])) if len(arguments) > 1 else None
    out = sys.stdout.buffer
    _widen(out)
    try:
        try:
            for item in car_feed.feed(path, resume):
                pickle.dump(item, out, protocol=5)
                out.flush()
        except BadCar as error:
            pickle.dump(car_feed._Failure(error.reason, error.offset), out, protocol=5)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            failure = car_feed._Failure(error.strerror or str(error), None, error.errno, path)
            pickle.dump(failure, out, protocol=5)
        out.flush()
    except BrokenPipeError:
        os._exit(1)  # the importer is gone: nothing is left to be told


if __name__ == "__main__":
    _child(sys.argv[1:])
