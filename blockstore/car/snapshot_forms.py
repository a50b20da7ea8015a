"""The forms of a snapshot file and their writers: a CARv1, one in a zstd stream, and Forest's indexed zstd frames.

A writer gets its objects in runs, so that compressing a run takes one call that leaves the interpreter to others.
It checks no hash: the caller answers for them. Source of the third form: Forest `src/db/car/forest.rs`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import zstandard

from blockstore.car.forest_index import SKIPPABLE_MAGIC, IndexEntries, Output
from blockstore.car.writer import car_header, section_start, snapshot_metadata
from blockstore.cid import Cid, cid_of

#: zstd's own default, which Forest takes too
_LEVEL: Final = 3
#: bytes in a frame of Forest's form, before compressing: Forest ends a frame at 8 KiB compressed, which is as much
_FRAME: Final = 20 << 10

Objects = Sequence[tuple[bytes, bytes]]


class Form(enum.Enum):
    """A form of snapshot file; the value is the end of its name."""

    CAR = ".car"
    ZSTD = ".car.zst"
    FOREST = ".forest.car.zst"

    @classmethod
    def of_name(cls, name: str) -> Form | None:
        """The form that a file of this name has; None for another ending."""
        for form in (cls.FOREST, cls.ZSTD, cls.CAR):
            if name.endswith(form.value):
                return form
        return None


class SnapshotWriter(Protocol):
    """A snapshot file that is being written. The file is the caller's to close."""

    def write(self, objects: Objects) -> None:
        """Append (CID, bytes) pairs. Errors: OSError."""

    def finish(self) -> None:
        """Write what belongs at the end. Nothing may be written afterwards. Errors: OSError."""

    def close(self) -> None:
        """Let go of temporary files. Also for a writer that is not finished."""


class _Plain:
    def __init__(self, out: Output, roots: Sequence[Cid]) -> None:
        self._out = out
        out.write(car_header(roots))

    def write(self, objects: Objects) -> None:
        self._out.write(_sections(objects))

    def finish(self) -> None:
        return

    def close(self) -> None:
        return


class _Zstd:
    def __init__(self, out: Output, roots: Sequence[Cid]) -> None:
        self._out = out
        self._zstd = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
        self._put(self._zstd.compress(car_header(roots)))

    def _put(self, data: bytes) -> None:
        if data:
            self._out.write(data)

    def write(self, objects: Objects) -> None:
        self._put(self._zstd.compress(_sections(objects)))

    def finish(self) -> None:
        self._put(self._zstd.flush())

    def close(self) -> None:
        return


class _Forest:
    """The header in a frame of its own, then frames of whole sections, then the index, then where the index is."""

    def __init__(self, out: Output, roots: Sequence[Cid], folder: Path | None) -> None:
        self._out = out
        self._zstd = zstandard.ZstdCompressor(level=_LEVEL)
        self._index = IndexEntries(folder)
        self._offset = 0
        self._cids: list[bytes] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._frame(car_header(roots))

    def _frame(self, content: bytes) -> None:
        data = self._zstd.compress(content)
        self._out.write(data)
        self._offset += len(data)

    def write(self, objects: Objects) -> None:
        for cid, data in objects:
            self._cids.append(cid)
            self._parts += (section_start(cid, len(data)), data)
            self._size += len(data) + 40
            if self._size >= _FRAME:
                self.end_frame()

    def end_frame(self) -> None:
        """What comes next goes into another frame."""
        if self._cids:
            self._index.add(self._cids, self._offset)
            self._frame(b"".join(self._parts))
            self._cids, self._parts, self._size = [], [], 0

    def finish(self) -> None:
        self.end_frame()
        self._index.write(self._out)
        # behind the first 8 bytes of the index's first frame
        at = self._offset + 8
        self._out.write(SKIPPABLE_MAGIC + (8).to_bytes(4, "little") + at.to_bytes(8, "little"))

    def close(self) -> None:
        self._index.close()


def _sections(objects: Objects) -> bytes:
    return b"".join([part for cid, data in objects for part in (section_start(cid, len(data)), data)])


def open_writer(
    out: Output, form: Form, head: Sequence[Cid], *, version: int = 1, folder: Path | None = None
) -> SnapshotWriter:
    """The writer of a snapshot of the chain whose head tipset has the blocks `head`. Its header is written at once.

    `version`: 1, or 2 with a metadata object before all others (FRC-0108; without F3 data). `folder`: for temporary
    files. Errors: OSError.
    """
    metadata = snapshot_metadata(head, None) if version == 2 else None
    roots = list(head) if metadata is None else [cid_of(metadata)]
    if form is Form.FOREST:
        forest = _Forest(out, roots, folder)
        if metadata is not None:
            forest.write([(roots[0], metadata)])
            forest.end_frame()
        return forest
    writer = _Plain(out, roots) if form is Form.CAR else _Zstd(out, roots)
    if metadata is not None:
        writer.write([(roots[0], metadata)])
    return writer
