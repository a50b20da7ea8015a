"""Blocks of remote files on the local disk, a bounded number of bytes of them, shared by the processes of a machine.

An LMDB environment of its own holds them; the oldest block goes first. Each block has a checksum, for an index that is
read from it has none. A cache that cannot be read or written costs requests, no answers.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import lmdb

log = logging.getLogger(__name__)

_CHECKSUM: Final = 16
#: a block and its checksum fill 8 of LMDB's pages, whose first one has a header of 16 bytes
BLOCK: Final = 8 * 4096 - 16 - _CHECKSUM
_PAGES: Final = 8 * 4096
#: entries of the order, and pages that a transaction needs beside those in use
_SPARE: Final = 32 << 20

Key = tuple[bytes, int]


class BlockCache:
    """Blocks of `BLOCK` bytes (the last one of a file is shorter) by the file's identity, 16 bytes, and number.

    Its methods block; call them from a thread. Errors on opening: OSError, lmdb.Error.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._limit = max(16, limit_bytes // _PAGES)
        self._env: Any = lmdb.open(
            str(folder),
            map_size=self._limit * _PAGES + limit_bytes // 8 + _SPARE,
            max_dbs=2,
            max_readers=512,
            # a machine that dies loses the newest blocks, not the order of what is there
            metasync=False,
        )
        self._blocks: Any = self._env.open_db(b"blocks")
        #: by a growing number: the key of the block that was added
        self._order: Any = self._env.open_db(b"order")
        self._lock = threading.Lock()
        self._has_failed = False

    def close(self) -> None:
        """Close the files. A second call does nothing."""
        self._env.close()

    def get_many(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        """Those blocks that are there."""
        found: dict[Key, bytes] = {}
        try:
            with self._env.begin(buffers=True) as txn:
                for key in keys:
                    value = txn.get(_packed(key), db=self._blocks)
                    if value is None:
                        continue
                    data = bytes(value[_CHECKSUM:])
                    if _checksum(data) == value[:_CHECKSUM]:
                        found[key] = data
        except lmdb.Error as error:
            self._say(error)
        return found

    def put_many(self, blocks: Mapping[Key, bytes]) -> None:
        """Add blocks; the oldest ones make room."""
        try:
            with self._lock, self._env.begin(write=True) as txn:
                order = txn.cursor(self._order)
                newest = int.from_bytes(order.key(), "big") if order.last() else 0
                added = 0
                for key, data in blocks.items():
                    packed = _packed(key)
                    if txn.put(packed, _checksum(data) + data, db=self._blocks, overwrite=False):
                        added += 1
                        txn.put((newest + added).to_bytes(8, "big"), packed, db=self._order, append=True)
                    else:
                        # another process brought it, or it is damaged
                        txn.put(packed, _checksum(data) + data, db=self._blocks)
                self._make_room(txn, txn.stat(self._order)["entries"] - self._limit)
        except lmdb.Error as error:
            self._say(error)

    def _make_room(self, txn: Any, count: int) -> None:
        order = txn.cursor(self._order)
        while count > 0 and order.first():
            txn.delete(order.value(), db=self._blocks)
            order.delete()
            count -= 1

    def count(self) -> int:
        """How many blocks there are."""
        with self._env.begin() as txn:
            return int(txn.stat(self._blocks)["entries"])

    def _say(self, error: lmdb.Error) -> None:
        if not self._has_failed:
            log.warning("the cache of archives in %s does not work, so more is fetched: %s", self._env.path(), error)
        self._has_failed = True


def _packed(key: Key) -> bytes:
    return key[0] + key[1].to_bytes(8, "big")


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECKSUM).digest()


def identity_of(parts: Iterable[object]) -> bytes:
    """16 bytes that stand for a file's address and version."""
    return hashlib.blake2b(repr(tuple(parts)).encode(), digest_size=16).digest()
