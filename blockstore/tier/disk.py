"""Objects on the local disk, a bounded number of bytes of them, shared by the processes of a machine.

A file of SQLite holds the objects and the bookkeeping of LRU-SP (`blockstore.tier.policy`), changed in one transaction:
a process that is killed, and a machine that goes down, leave the last whole one. The limit is SQLite's own: the file
and its log never grow beyond it. Every object is verified by its hash when it is read.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from blockstore.cid import verify
from blockstore.errors import BadCid, HashMismatch
from blockstore.tier.policy import GROUPS, group_of

log = logging.getLogger(__name__)

#: the least limit, bytes
LEAST_BYTES: Final = 16 << 20
#: marks the file as one of ours, and its form
_APPLICATION: Final = 0x0B7EC75
_FORMAT: Final = 1
_PAGE: Final = 4096
#: of the limit: for the log, and for pages that a transaction needs beside those in use
_LOG_BYTES: Final = 4 << 20
#: bytes that the bookkeeping of an object takes
_ENTRY_BYTES: Final = 200
_BUSY_SECONDS: Final = 5.0
_TABLES: Final = """
CREATE TABLE uses (id INTEGER PRIMARY KEY, multihash BLOB UNIQUE, size INTEGER, popularity INTEGER, last INTEGER,
  class INTEGER);
CREATE INDEX by_age ON uses (class, last, size, popularity);
CREATE TABLE objects (id INTEGER PRIMARY KEY, data BLOB);
"""

_Head = tuple[float, int, int, int, sqlite3.Cursor]


class DiskTier:
    """Objects by multihash in `folder`, `limit_bytes` of disk at most. Blocks; only `write` takes long.

    `object_bytes`: larger objects are not kept. Several processes may open one folder. `write` may be called from
    another thread than the rest, one call at a time. Errors on opening: OSError, sqlite3.Error.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        *,
        object_bytes: int = 1 << 20,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        if limit_bytes < LEAST_BYTES:
            raise ValueError(f"a tier on disk takes at least {LEAST_BYTES} bytes")
        folder.mkdir(parents=True, exist_ok=True)
        self.limit_bytes = limit_bytes
        self.object_bytes = min(object_bytes, limit_bytes // 16)
        #: the most bytes of objects that one transaction writes
        self.batch_bytes = _LOG_BYTES // 4
        self._now = now
        self._path = folder / "objects.sqlite"
        #: there while the file is known to be damaged
        self._bad = folder / "objects.bad"
        self._lock = os.open(folder / "objects.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._damaged: list[bytes] = []
        self._has_failed = False
        #: objects that the check at the start dropped; those that made room; those with a wrong hash
        self.dropped = self.evicted = self.damaged = 0
        self._connections: list[sqlite3.Connection] = []
        try:
            # the first process checks; the others wait until it has
            if self._try_exclusive():
                self._open_checked()
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            self._reader, self._writer = self._connect(), self._connect()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._close_connections()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def is_open(self) -> bool:
        """Whether objects are read and kept: not after `close`, nor once the file was found to be damaged."""
        return bool(self._connections)

    # --- objects -----------------------------------------------------------------------------------

    def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """Those objects that are there and whole, in the order asked for. Counts no use."""
        out: list[bytes | None] = [None] * len(multihashes)
        if not self.is_open:
            return out
        sql = self._reader
        try:
            # one snapshot for all: each takes system calls
            sql.execute("BEGIN")
            for at, multihash in enumerate(multihashes):
                row = sql.execute(_DATA, (multihash,)).fetchone()
                if row is not None:
                    out[at] = self._verified(multihash, row[0])
            sql.execute("COMMIT")
        except sqlite3.Error as error:
            if sql.in_transaction:
                sql.rollback()
            self._fail(error)
        return out

    def _verified(self, multihash: bytes, data: bytes) -> bytes | None:
        try:
            verify(multihash, data)
        except (HashMismatch, BadCid, TypeError):
            self.damaged += 1
            if len(self._damaged) < 1024:
                self._damaged.append(bytes(multihash))
            return None
        return data

    def write(self, objects: Mapping[bytes, bytes], uses: Iterable[tuple[bytes, int]] = ()) -> None:
        """In one transaction: count `uses` (multihash, how often), and keep `objects`, for which others make room.

        What is behind the first `batch_bytes` of objects is not kept.
        """
        if not self.is_open:
            return
        damaged, self._damaged = self._damaged, []
        evicted = 0
        try:
            with self._transaction() as sql:
                for multihash in damaged:
                    self._drop(sql, [row[0] for row in sql.execute(_ID, (multihash,))])
                now = self._now()
                self._use(sql, uses, now)
                fresh: list[tuple[bytes, bytes]] = []
                left = self.batch_bytes
                for multihash, data in objects.items():
                    # another process may have brought it
                    if len(data) <= self.object_bytes and sql.execute(_ID, (multihash,)).fetchone() is None:
                        left -= len(data)
                        if left < 0:
                            break
                        fresh.append((multihash, data))
                evicted = self._make_room(sql, sum(len(data) + _ENTRY_BYTES for _, data in fresh), now)
                for multihash, data in fresh:
                    sql.execute(
                        "INSERT INTO uses (multihash, size, popularity, last, class) VALUES (?, ?, 1, ?, ?)",
                        (multihash, len(data), now, group_of(len(data), 1)),
                    )
                    sql.execute("INSERT INTO objects (id, data) VALUES (last_insert_rowid(), ?)", (data,))
        except sqlite3.Error as error:
            self._fail(error)
        else:
            self.evicted += evicted

    def drop_all(self) -> None:
        """Drop every object, of all processes that share the folder. Call it where `write` may be called."""
        try:
            with self._transaction() as sql:
                sql.execute("DELETE FROM uses")
                sql.execute("DELETE FROM objects")
        except sqlite3.Error as error:
            self._fail(error)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        sql = self._writer
        sql.execute("BEGIN IMMEDIATE")
        try:
            yield sql
            sql.execute("COMMIT")
        except BaseException:
            if sql.in_transaction:
                sql.execute("ROLLBACK")
            raise

    def _use(self, sql: sqlite3.Connection, uses: Iterable[tuple[bytes, int]], now: int) -> None:
        for multihash, count in uses:
            row = sql.execute("SELECT id, size, popularity FROM uses WHERE multihash = ?", (multihash,)).fetchone()
            if row is not None:
                popularity = row[2] + count
                sql.execute(
                    "UPDATE uses SET popularity = ?, last = ?, class = ? WHERE id = ?",
                    (popularity, now, group_of(row[1], popularity), row[0]),
                )

    def _make_room(self, sql: sqlite3.Connection, size: int, now: int) -> int:
        """Drop objects until `size` more bytes have room; how many."""
        most = self.limit_bytes - 2 * _LOG_BYTES
        dropped = 0
        # pages are not filled to the last byte
        while (over := self._used(sql) + size * 5 // 4 - most) > 0:
            victims = self._victims(sql, over, now)
            if not victims:
                break
            self._drop(sql, victims)
            dropped += len(victims)
        return dropped

    def _victims(self, sql: sqlite3.Connection, size: int, now: int) -> list[int]:
        """Objects of `size` bytes in all: again and again, of the oldest of each group, the one with the highest
        age x size / popularity; of equals the later group's."""
        victims: list[int] = []
        heads: list[_Head] = []
        query = "SELECT last, size, popularity, id FROM uses WHERE class = ? ORDER BY last"
        for group in range(GROUPS):
            _push_next(heads, sql.execute(query, (group,)), group, now)
        while heads and size > 0:
            _, group, row, length, cursor = heapq.heappop(heads)
            victims.append(row)
            size -= length + _ENTRY_BYTES
            _push_next(heads, cursor, -group, now)
        for *_, cursor in heads:
            cursor.close()
        return victims

    @staticmethod
    def _drop(sql: sqlite3.Connection, rows: Sequence[int]) -> None:
        for table in ("uses", "objects"):
            sql.executemany(f"DELETE FROM {table} WHERE id = ?", [(row,) for row in rows])

    @staticmethod
    def _used(sql: sqlite3.Connection) -> int:
        """Bytes of the pages in use."""
        pages: int = sql.execute("PRAGMA page_count").fetchone()[0]
        free: int = sql.execute("PRAGMA freelist_count").fetchone()[0]
        return (pages - free) * _PAGE

    @property
    def used_bytes(self) -> int:
        """Bytes of disk that the objects and their bookkeeping take."""
        with contextlib.suppress(sqlite3.Error):
            return self._used(self._reader) if self.is_open else 0
        return 0

    def count(self) -> int:
        """How many objects there are. Looks at each."""
        found: int = self._reader.execute("SELECT count(*) FROM uses").fetchone()[0] if self.is_open else 0
        return found

    def _fail(self, error: sqlite3.Error) -> None:
        if not self._has_failed:
            log.warning("the object tier in %s does not work, so more is fetched: %s", self._path.parent, error)
        self._has_failed = True
        if not isinstance(error, sqlite3.OperationalError):
            # damage, not a lock or a full disk: the next start drops the file
            with contextlib.suppress(OSError):
                self._bad.touch()
            self.close()

    # --- opening -----------------------------------------------------------------------------------

    def _try_exclusive(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _connect(self) -> sqlite3.Connection:
        sql = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._connections.append(sql)
        # a transaction is whole after a power cut too, though the newest may be missing
        for line in (
            "synchronous = NORMAL",
            f"max_page_count = {(self.limit_bytes - _LOG_BYTES) // _PAGE}",
            f"journal_size_limit = {_LOG_BYTES // 2}",
            f"wal_autocheckpoint = {_LOG_BYTES // 4 // _PAGE}",
            "cache_size = -2048",
            "mmap_size = 268435456",
        ):
            sql.execute(f"PRAGMA {line}")
        return sql

    def _open_checked(self) -> None:
        """Look at the file alone: one that is foreign, damaged or too large is dropped, and so is each entry that is
        not whole."""
        try:
            reason = self._why_unusable() or self._check()
        except sqlite3.Error as error:
            reason = f"it is damaged: {error}"
        if reason:
            log.warning("the object tier in %s begins anew: %s", self._path.parent, reason)
            self._close_connections()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            self._bad.unlink(missing_ok=True)
            self._check()
        self._close_connections()

    def _close_connections(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _why_unusable(self) -> str:
        if self._bad.exists():
            return "it was found to be damaged"
        if self._path.exists() and self._path.stat().st_size > self.limit_bytes - _LOG_BYTES:
            return "it is larger than the limit"
        return ""

    def _check(self) -> str:
        """Make the tables where there are none; drop entries that are not whole. Why the file is not ours, or ""."""
        sql = self._connect()
        (application,) = sql.execute("PRAGMA application_id").fetchone()
        (made,) = sql.execute("PRAGMA user_version").fetchone()
        (tables,) = sql.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables and not application:
            sql.execute(f"PRAGMA page_size = {_PAGE}")
            sql.execute("PRAGMA journal_mode = WAL")
            sql.execute(f"PRAGMA application_id = {_APPLICATION}")
            sql.execute(f"PRAGMA user_version = {_FORMAT}")
            sql.executescript(f"BEGIN; {_TABLES} COMMIT;")
            return ""
        if (application, made) != (_APPLICATION, _FORMAT):
            return "another program, or another version of this one, made it"
        bad = [
            row[0]
            for row in sql.execute(
                "SELECT id FROM uses LEFT JOIN objects USING (id) WHERE length(data) IS NOT size UNION "
                "SELECT id FROM objects WHERE id NOT IN (SELECT id FROM uses)"
            )
        ]
        self._drop(sql, bad)
        self.dropped = len(bad)
        if bad:
            log.warning("the object tier in %s: %d objects are not whole and are dropped", self._path.parent, len(bad))
        return ""


_DATA: Final = "SELECT data FROM uses JOIN objects USING (id) WHERE multihash = ?"
_ID: Final = "SELECT id FROM uses WHERE multihash = ?"


def _push_next(heads: list[_Head], cursor: sqlite3.Cursor, group: int, now: int) -> None:
    """Put the next of a group where the heap orders groups: the lowest comes first."""
    row = cursor.fetchone()
    if row is not None:
        last, size, popularity, number = row
        # another process' clock may be a little ahead
        heapq.heappush(heads, (-max(0, now - last) * size / popularity, -group, number, size, cursor))
