"""Remembers which objects a walk has seen, exactly and in bounded memory: a snapshot of mainnet has 200 million.

New keys gather in memory. When they are too many, they move in sorted order into an LMDB file without a name, whose
pages the system keeps in memory as far as there is room. Keys are whole digests (ADR 0123).
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Final

import lmdb

#: keys in memory, about 130 bytes each; as many again of those that were looked up in the file
IN_MEMORY: Final = 2_000_000
_TRANSACTION: Final = 20_000
#: address space, not disk: the file grows as it is written
_MAP_BYTES: Final = 1 << 38
_CBOR_BLAKE: Final = b"\x01\x71\xa0\xe4\x02\x20"


class SeenObjects:
    """A set of CIDs that only grows. `folder`: where its file goes. A context manager.

    A CID is remembered by its digest where the rest is what nearly all CIDs have, else by all of it.
    """

    def __init__(self, folder: Path | None = None, *, in_memory: int = IN_MEMORY) -> None:
        self._folder = folder
        self._in_memory = in_memory
        self._new: set[bytes] = set()
        #: in the file, and looked up lately
        self._recent: set[bytes] = set()
        self._file: lmdb.Environment | None = None
        self._read: lmdb.Transaction | None = None
        self._moved = 0

    def __len__(self) -> int:
        return self._moved + len(self._new)

    @property
    def file_bytes(self) -> int:
        """The length of the file."""
        if self._file is None:
            return 0
        pages: int = self._file.info()["last_pgno"] + 1
        return pages * int(self._file.stat()["psize"])

    def add(self, cid: bytes) -> bool:
        """Whether the CID is new. Errors: OSError."""
        key = cid[6:] if cid[:6] == _CBOR_BLAKE else cid
        if key in self._new or key in self._recent or (self._read is not None and self._look_up(key)):
            return False
        self._new.add(key)
        if len(self._new) >= self._in_memory:
            self._move()
        return True

    def add_new(self, cid: bytes) -> None:
        """Add a CID that is known to be new. Errors: OSError."""
        self._new.add(cid[6:] if cid[:6] == _CBOR_BLAKE else cid)
        if len(self._new) >= self._in_memory:
            self._move()

    def __contains__(self, cid: bytes) -> bool:
        key = cid[6:] if cid[:6] == _CBOR_BLAKE else cid
        return key in self._new or key in self._recent or (self._read is not None and self._look_up(key))

    def _look_up(self, key: bytes) -> bool:
        assert self._read is not None
        if self._read.get(key) is None:
            return False
        if len(self._recent) >= self._in_memory:
            self._recent.clear()
        self._recent.add(key)
        return True

    def _move(self) -> None:
        """Move what is in memory into the file."""
        try:
            if self._file is None:
                self._file = _unnamed_environment(self._folder)
            if self._read is not None:
                self._read.abort()
            keys = [(key, b"") for key in sorted(self._new)]
            # a transaction leaves the pages that it replaced to the next one; one alone would double the file
            for at in range(0, len(keys), _TRANSACTION):
                with self._file.begin(write=True) as write, write.cursor() as cursor:
                    cursor.putmulti(keys[at : at + _TRANSACTION])
            self._read = self._file.begin()
        except lmdb.Error as error:
            if "No space left" in str(error) or isinstance(error, lmdb.MapFullError):
                raise OSError(errno.ENOSPC, "no room for the list of seen objects", str(self._folder)) from None
            raise OSError(errno.EIO, f"the list of seen objects: {error}", str(self._folder)) from None
        self._moved += len(self._new)
        self._new.clear()

    def close(self) -> None:
        """Let go of the file."""
        if self._read is not None:
            self._read.abort()
            self._read = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> SeenObjects:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unnamed_environment(folder: Path | None) -> lmdb.Environment:
    """An LMDB file whose name is gone: a process that is killed leaves nothing behind."""
    handle, path = tempfile.mkstemp(prefix=".seen-", dir=folder)
    os.close(handle)
    try:
        return lmdb.open(
            path, subdir=False, lock=False, sync=False, metasync=False, map_size=_MAP_BYTES, max_dbs=0, readahead=False
        )
    finally:
        os.unlink(path)
