"""Writes one snapshot file: whole, with its checksum beside it, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Protocol

from blockstore.car.snapshot_forms import Form, SnapshotWriter, open_writer
from blockstore.store import Store
from chain.errors import BadRequest
from chain.tipset import TipsetKey
from leader_bridge.exports.scope import Scope
from leader_bridge.exports.seen_objects import IN_MEMORY, SeenObjects
from leader_bridge.exports.walk import SnapshotWalk
from leader_bridge.imports.progress import Reporter, Silent
from leader_bridge.upkeep.pace import Pace

UNFINISHED: Final = ".tmp"
CHECKSUM: Final = ".sha256sum"


class KeepStates(Protocol):
    """Asks a store not to drop states while an export reads them."""

    def __call__(self, lowest: int) -> contextlib.AbstractAsyncContextManager[None]:
        """States from epoch `lowest` on are kept while the context lasts."""


@contextlib.asynccontextmanager
async def _keep_nothing(lowest: int) -> AsyncIterator[None]:
    yield


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written. `size` in bytes; `objects` without the metadata of version 2."""

    path: Path
    head: TipsetKey
    height: int
    objects: int
    size: int
    sha256: str
    seconds: float


async def export_snapshot(
    store: Store,
    path: Path,
    scope: Scope,
    *,
    form: Form | None = None,
    version: int = 1,
    pace: Pace | None = None,
    progress: Reporter | None = None,
    keep_states: KeepStates = _keep_nothing,
    in_memory: int = IN_MEMORY,
) -> ExportReport:
    """Write the snapshot `scope` to `path`, and its SHA-256 to `path.sha256sum`.

    `form`: None for the one that the name tells. `version`: 1 or 2 (FRC-0108). `pace`: how much of the time it works.
    `in_memory`: objects remembered in memory, about 130 bytes each; the others are in a temporary file.

    Until everything is on the disk, the file is named `path.tmp`; an error or a cancellation removes it. Errors:
    BadRequest (no such form; or another export writes this file), NotHeld, BadObject, StoreError, OSError.
    """
    form = form or Form.of_name(path.name)
    if form is None:
        endings = ", ".join(form.value for form in Form)
        raise BadRequest(f"{path.name}: the name of a snapshot ends in one of {endings}")
    began = time.monotonic()
    progress = progress or Silent()
    pace = pace or Pace()
    with _UnfinishedFile(path) as out, SeenObjects(path.parent, in_memory=in_memory) as seen:
        async with keep_states(scope.lowest_state):
            walk = SnapshotWalk(store, scope, seen, pause=pace.step)
            writer = open_writer(out, form, scope.head.key.cids, version=version, folder=path.parent)
            with contextlib.closing(writer):
                count = await _write(walk, writer, scope, out, progress)
                progress.say(f"{path.name}: {count:,} objects are written, the file is being completed")
                await _in_thread(writer.finish)
        await _in_thread(out.complete)
        return ExportReport(
            path, scope.head.key, scope.head.height, count, out.size, out.sha256, time.monotonic() - began
        )


async def _write(
    walk: SnapshotWalk, writer: SnapshotWriter, scope: Scope, out: _UnfinishedFile, progress: Reporter
) -> int:
    """Write what the walk finds; compressing a run and writing it goes on while the next is read."""
    count = 0
    top = scope.head.height
    bottom = scope.lowest if scope.base is None else scope.base.height
    border = max(scope.states_above, bottom)
    below = False
    progress.phase("states", top - border, "epochs")
    progress.at(0)
    writing = asyncio.create_task(asyncio.sleep(0))
    try:
        async for run in walk.runs():
            await asyncio.shield(writing)
            writing = asyncio.create_task(asyncio.to_thread(writer.write, run))
            count += len(run)
            if walk.height <= border > bottom and not below:
                below = True
                progress.phase("headers", border - bottom, "epochs")
            done = border - walk.height if below else top - walk.height
            progress.at(done, f"{count:,} objects, {out.size / 1e6:,.0f} MB")
    finally:
        # the thread uses the file still
        await _end_of(writing)
    return count


async def _in_thread(work: Callable[[], None]) -> None:
    await _end_of(asyncio.create_task(asyncio.to_thread(work)))


async def _end_of(task: asyncio.Task[None]) -> None:
    """Wait for a task's end, also while this one is cancelled. Errors: those of the task."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await task
        raise


class _UnfinishedFile:
    """The file while it is written, under its temporary name; `complete` gives it its own.

    A lock tells a file that is being written from one that a killed export has left, which is written over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unfinished = path.with_name(path.name + UNFINISHED)
        self._hash = hashlib.sha256()
        self._completed = False
        self.size = 0
        self._file: BinaryIO = open(self._unfinished, "ab")  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BadRequest(f"another export is writing {self._unfinished}") from None
        if os.fstat(self._file.fileno()).st_size:
            self._file.truncate(0)

    def write(self, data: bytes) -> None:
        """Append bytes. Errors: OSError."""
        try:
            self._file.write(data)
        except OSError as error:
            self._tell_full(error)
            raise
        self._hash.update(data)
        self.size += len(data)

    def _tell_full(self, error: OSError) -> None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno, f"no room left after {self.size:,} bytes of the snapshot", str(self._path)
            ) from None

    @property
    def sha256(self) -> str:
        """The digest of what was written, in hexadecimal."""
        return self._hash.hexdigest()

    def complete(self) -> None:
        """Make the file durable, give it its name, and write its checksum. Errors: OSError."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._tell_full(error)
            raise
        checksum = self._path.with_name(self._path.name + CHECKSUM)
        checksum.unlink(missing_ok=True)
        self._unfinished.replace(self._path)
        self._completed = True
        # as Forest writes it; `sha256sum --check` reads it
        checksum.write_text(f"{self.sha256} {self._path.name}\n")
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def __enter__(self) -> _UnfinishedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._completed:
            self._unfinished.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._file.close()
