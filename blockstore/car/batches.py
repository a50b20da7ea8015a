"""A CAR file as batches ready to be stored, made in this process or in one of its own.

Objects below which there is nothing (no links, or links to sectors' and pieces' commitments alone) are told
apart: they are closed by themselves. So are those with nothing below them but what has come already. The rest is
loose until an import's last pass.

Two cores are used by reading, decompressing, parsing and hashing in a child process, which hands over
batches through a pipe: threads would not do, for hashing a kilobyte holds the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import gc
import marshal
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from blockstore.car.arriving_file import ArrivingFile
from blockstore.car.closed_order import ClosedOrder, Pairs
from blockstore.car.reader import CarFile, CarReader
from blockstore.cid import DAG_CBOR, Cid
from blockstore.errors import BadCar

#: bytes of objects in a batch, about: the larger, the fewer pages of a tree are written twice
BATCH_BYTES: Final = 48 << 20
#: and objects, whatever their size
_BATCH_OBJECTS: Final = 100_000
_PIPE: Final = 1 << 20
#: marshal's format without back references, which cost time and find nothing here
_NO_REFERENCES: Final = 2
_CBOR: Final = b"\x01\x71"
#: words of the child's command line
_LEVELS: Final = "levels"
_ARRIVING: Final = "arriving"
#: a link as encoded, but for those to sector commitments (codecs 0xf101 and 0xf102)
_WALKED: Final = re.compile(rb"\xd8\x2a(?!\x58[\x28\x29]\x00\x01[\x81\x82]\xe2\x03)")


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
    """Verified (multihash, bytes). `offset` is the stream's position behind them.

    `leaves` have nothing below them. `levels` are closed: what is below one is among the leaves, in a level before or
    in an earlier chunk. The rest is loose.
    """

    leaves: Pairs
    levels: list[Pairs]
    others: Pairs
    offset: int
    consumed: int
    size: int

    @property
    def count(self) -> int:
        """How many objects there are."""
        return len(self.leaves) + sum(map(len, self.levels)) + len(self.others)


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
    return _WALKED.search(data) is None


@contextlib.contextmanager
def _open(path: str | Path, ended: int | None) -> Iterator[CarReader]:
    if ended is None:
        with CarFile(path) as reader:
            yield reader
    else:
        with ArrivingFile(path, ended) as file:
            yield CarReader(cast(BinaryIO, file))


def feed(
    path: str | Path,
    resume: Resume | None = None,
    *,
    levels: bool = False,
    batch_bytes: int | None = None,
    ended: int | None = None,
) -> Iterator[Fed]:
    """`Opened`, then `Chunk`s of about `batch_bytes` (`BATCH_BYTES`), then `Ended`.

    `levels`: whether closed objects are looked for, which takes about 6 us for each that has links. `ended`: the file
    still grows, until this pipe is closed (`ArrivingFile`). Errors: BadCar, OSError.
    """
    batch_bytes = batch_bytes or BATCH_BYTES
    with _open(path, ended) as reader:
        start = 0
        if resume is not None and resume.fingerprint == reader.fingerprint:
            start = resume.offset
        size = None if str(path) == "-" or ended is not None else _size(path)
        version = reader.snapshot.version if reader.snapshot else 1
        yield Opened(reader.fingerprint, reader.head, start, size, version)
        if start:
            reader.seek(start)
        leaves: Pairs = []
        others: Pairs = []
        order = ClosedOrder() if levels else None

        def chunk(offset: int) -> Chunk:
            leaves.sort()
            others.sort()
            closed, loose = ([], others) if order is None else order.split(leaves, others)
            return Chunk(leaves, closed, loose, offset, reader.consumed, gathered)

        gathered, behind = 0, reader.offset
        walked = _WALKED.search
        try:
            for run in reader.runs():
                for cid, data in run:
                    if cid[:2] == _CBOR:
                        if walked(data) is None:
                            leaves.append((cid[2:], data))
                        else:
                            others.append((cid[2:], data))
                    else:
                        multihash = Cid(cid).multihash
                        if multihash[:1] != b"\0":
                            (leaves if is_leaf(cid, data) else others).append((multihash, data))
                gathered += reader.offset - behind
                behind = reader.offset
                if gathered >= batch_bytes or len(leaves) + len(others) >= _BATCH_OBJECTS:
                    yield chunk(behind)
                    leaves, others, gathered = [], [], 0
        except BadCar:
            # what came before the fault is good, and is kept
            if leaves or others:
                yield chunk(reader.offset)
            raise
        if leaves or others:
            yield chunk(reader.offset)
        yield Ended(reader.offset, reader.f3_bytes)


def _size(path: str | Path) -> int | None:
    found = os.stat(path)
    return found.st_size if os.path.isfile(path) else None


class FeedProcess:
    """`feed` in a child process. Iterate once; `stop` ends the child at any time.

    `arriving`: the file still grows, until `complete` is called.
    """

    def __init__(
        self, path: str | Path, resume: Resume | None = None, *, levels: bool = False, arriving: bool = False
    ) -> None:
        arguments = [str(path), ",".join(word for word, is_set in ((_LEVELS, levels), (_ARRIVING, arriving)) if is_set)]
        arguments += [] if resume is None else [resume.fingerprint, str(resume.offset)]
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(entry or os.getcwd() for entry in sys.path))
        self._child = subprocess.Popen(
            [sys.executable, "-m", "blockstore.car.batches", *arguments],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE if arriving else None if str(path) == "-" else subprocess.DEVNULL,
            env=environment,
        )

    def complete(self) -> None:
        """Say that an arriving file is whole."""
        if self._child.stdin is not None:
            self._child.stdin.close()

    def kill(self) -> None:
        """End the child without waiting for it: who iterates gets an OSError."""
        self._child.kill()

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
            if isinstance(item, _Packed):
                leaves, levels, others = marshal.loads(pipe.read(item.length))
                item = Chunk(leaves, levels, others, item.offset, item.consumed, item.size)
            yield item
            if isinstance(item, Ended):
                return

    def stop(self) -> None:
        """End the child, if it still runs, and take it in."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdout, self._child.stdin):
            if pipe is not None:
                pipe.close()


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


@dataclass(frozen=True, slots=True)
class _Packed:
    """A Chunk whose objects follow, marshalled: several times as fast as pickling them."""

    length: int
    offset: int
    consumed: int
    size: int


def _send(item: Fed, out: BinaryIO) -> None:
    if isinstance(item, Chunk):
        objects = marshal.dumps((item.leaves, item.levels, item.others), _NO_REFERENCES)
        pickle.dump(_Packed(len(objects), item.offset, item.consumed, item.size), out, protocol=5)
        out.write(objects)
    else:
        pickle.dump(item, out, protocol=5)
    out.flush()


def _widen(pipe: BinaryIO) -> None:
    """A larger pipe where the system lets us."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)


def _child(arguments: list[str]) -> None:
    # the classes must unpickle under their importable name, not under __main__
    from blockstore.car import batches as car_feed

    path = arguments[0]
    resume = car_feed.Resume(arguments[2], int(arguments[3])) if len(arguments) > 2 else None
    words = arguments[1].split(",")
    ended = sys.stdin.fileno() if _ARRIVING in words else None
    out = sys.stdout.buffer
    _widen(out)
    gc.disable()  # a batch is a hundred thousand tuples, none of them in a cycle
    try:
        try:
            for item in car_feed.feed(path, resume, levels=_LEVELS in words, ended=ended):
                car_feed._send(item, out)
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
