"""Tables as Parquet files: `DIR/TABLE/LOW-HIGH.parquet`, a file a table and day of epochs.

The ledger is in the footer of the file itself, so the two can never disagree. A file is written beside the old one
and takes its place when it is whole: readers see the one or the other. A run holds a lock on the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leader_bridge.tables.sinks.sink import Ledger, SinkError
from leader_bridge.tables.table import Column, Row, Table, Task, Type, memory_of

#: epochs of a file: a day
FILE_EPOCHS: Final = 2880
UNFINISHED: Final = ".tmp"
_LEDGER: Final = b"lotus_follower.tipsets"
_LOCK: Final = ".lock"
#: rows of a row group, and about the bytes of memory of its values, whichever comes first
_GROUP_ROWS: Final = 65_536
_GROUP_BYTES: Final = 8 << 20
#: rows that are copied at once: those of contracts are up to 48 KB each
_COPY_ROWS: Final = 1024

_TYPES: Final = {
    Type.BIGINT: pa.int64(),
    Type.NUMERIC: pa.decimal128(38, 0),
    Type.WIDE: pa.string(),
    Type.TEXT: pa.string(),
    Type.BOOLEAN: pa.bool_(),
    Type.BYTES: pa.binary(),
    Type.JSON: pa.string(),
}


def arrow_schema(table: Table) -> Any:
    """The Arrow schema of a table."""
    return pa.schema([pa.field(one.name, _TYPES[one.type], nullable=one.is_nullable) for one in table.columns])


def read_ledger(path: Path) -> Ledger:
    """Which tipsets the rows of a file are of, also those without rows. Errors: SinkError."""
    try:
        found = pq.read_metadata(path).metadata.get(_LEDGER)
    except (OSError, pa.ArrowInvalid) as error:
        raise SinkError(f"{path} is no whole Parquet file: remove it, its epochs are made again ({error})") from None
    if found is None:
        raise SinkError(f"{path} was not made by follower extract: move it away")
    return {int(height): tipset for height, tipset in orjson.loads(found).items()}


class ParquetSink:
    """A folder of tables."""

    def __init__(self, folder: Path) -> None:
        """Errors: SinkError (another run writes there), OSError."""
        self.name = f"parquet:{folder}"
        self.span = FILE_EPOCHS
        self._folder = folder
        self._files: dict[str, _File] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._lock: IO[bytes] = (folder / _LOCK).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise SinkError(f"another run writes tables into {folder}") from None

    async def begin(self, low: int, high: int, tasks: Sequence[Task]) -> Mapping[str, Ledger]:
        """As `Sink.begin`."""
        first = low // FILE_EPOCHS * FILE_EPOCHS
        self._files = {}
        for task in tasks:
            folder = self._folder / task.table.name
            folder.mkdir(exist_ok=True)
            path = folder / f"{first:09}-{first + FILE_EPOCHS - 1:09}.parquet"
            self._files[task.name] = _File(path, task.table)
        return {
            name: {height: tipset for height, tipset in file.ledger.items() if low <= height <= high}
            for name, file in self._files.items()
        }

    async def replace(self, task: Task, height: int, tipset: str | None, parts: AsyncIterator[list[Row]]) -> int:
        """As `Sink.replace`."""
        return await self._files[task.name].replace(height, tipset, parts)

    async def end(self) -> None:
        """As `Sink.end`."""
        for file in self._files.values():
            await asyncio.to_thread(file.complete)
        self._files = {}

    async def abandon(self) -> None:
        """As `Sink.abandon`."""
        for file in self._files.values():
            file.abandon()
        self._files = {}

    async def close(self) -> None:
        """As `Sink.close`."""
        await self.abandon()
        self._lock.close()


class _File:
    """A file, and what is to take its place; nothing is written before something changes."""

    def __init__(self, path: Path, table: Table) -> None:
        self._path = path
        self._unfinished = path.with_name(path.name + UNFINISHED)
        self._table = table
        self._schema = arrow_schema(table)
        self.ledger: Ledger = read_ledger(path) if path.exists() else {}
        self._writer: Any = None
        self._rows: list[Row] = []
        self._bytes = 0
        #: epochs whose old rows are not kept
        self._replaced: set[int] = set()
        #: epochs of which some rows were written and then taken back
        self._spoiled: set[int] = set()

    async def replace(self, height: int, tipset: str | None, parts: AsyncIterator[list[Row]]) -> int:
        if self._writer is None:
            self._open()
        count, kept, groups = 0, len(self._rows), self._groups
        try:
            async for part in parts:
                self._rows += part
                self._bytes += memory_of(part)
                count += len(part)
                if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
                    await asyncio.to_thread(self._flush)
        except BaseException:
            if self._groups == groups:
                del self._rows[kept:]
            else:
                self._rows.clear()
                self._spoiled.add(height)
            raise
        self._replaced.add(height)
        self.ledger.pop(height, None)
        if tipset is not None:
            self.ledger[height] = tipset
        return count

    def _open(self) -> None:
        self._groups = 0
        self._writer = pq.ParquetWriter(self._unfinished, self._schema, compression="zstd")

    _groups = 0

    def _flush(self) -> None:
        """Write the rows as a row group. Errors: SinkError, OSError."""
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [
                _array(self._table, column, values) for column, values in zip(self._table.columns, columns, strict=True)
            ]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
            self._groups += 1
        self._rows = []
        self._bytes = 0

    def complete(self) -> None:
        """Put the new file in the place of the old one. Errors: SinkError, OSError."""
        if self._writer is None:
            return
        try:
            self._flush()
            if self._spoiled:
                self._rewrite()
            for batch in self._old_rows():
                self._writer.write_batch(batch)
            ledger = {str(height): self.ledger[height] for height in sorted(self.ledger)}
            self._writer.add_key_value_metadata({_LEDGER: orjson.dumps(ledger)})
            self._writer.close()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(error.errno, "no room left for tables", str(self._path)) from None
            raise
        with self._unfinished.open("rb") as written:
            os.fsync(written.fileno())
        self._unfinished.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._writer = None

    def _old_rows(self) -> Iterator[Any]:
        """What stays of the old file. Errors: SinkError (other columns)."""
        if not self._path.exists() or not self.ledger.keys() - self._replaced:
            return
        with pq.ParquetFile(self._path) as old:
            if not old.schema_arrow.equals(self._schema):
                raise SinkError(f"{self._path} has other columns than this release writes: move the folder away")
            yield from _without(old, self._replaced)

    def _rewrite(self) -> None:
        """Leave out what was taken back."""
        self._writer.close()
        spoiled = self._unfinished.with_name(self._unfinished.name + "2")
        self._unfinished.replace(spoiled)
        self._open()
        with pq.ParquetFile(spoiled) as file:
            for batch in _without(file, self._spoiled):
                self._writer.write_batch(batch)
        spoiled.unlink()

    def abandon(self) -> None:
        """Leave the old file as it is."""
        if self._writer is not None:
            # a disk that is full is told by what failed before
            with contextlib.suppress(OSError):
                self._writer.close()
            with contextlib.suppress(OSError):
                self._unfinished.unlink(missing_ok=True)
            self._writer = None


def _without(file: Any, heights: set[int]) -> Iterator[Any]:
    left_out = pa.array(sorted(heights), type=pa.int64())
    for batch in file.iter_batches(batch_size=_COPY_ROWS):
        yield batch.filter(pc.invert(pc.is_in(batch.column("height"), value_set=left_out)))


def _array(table: Table, column: Column, values: Sequence[Any]) -> Any:
    if column.type is Type.WIDE:
        values = [None if value is None else str(value) for value in values]
    try:
        return pa.array(values, type=_TYPES[column.type])
    except (pa.ArrowInvalid, OverflowError) as error:
        raise SinkError(f"table {table.name}: a value of {column.name} does not fit its type: {error}") from None
