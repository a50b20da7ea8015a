"""The embedded store: LMDB, several processes on one machine, one bridge that writes and N followers that read.

Every read begins a transaction of its own (about a microsecond), so it sees all that was committed before it.
Writes go through one thread a process, never the event loop; a commit is on disk when the call returns, so
neither kill -9 nor a power cut loses what was acknowledged. `bulk=True` (imports) leaves the syncing to
`append_head` and `flush`: kill -9 still loses nothing, a power cut may cost the whole store.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb

from blockstore.errors import Fenced, Missing, SchemaMismatch, StoreError, StoreFull, StoreUnavailable
from blockstore.head_log import decode_entry, encode_entry, seq_key
from blockstore.store import HEAD_LOG, LEASE, META, SCHEMA_VERSION, TABLES, Batch, HeadEntry, Held, Table

T = TypeVar("T")

#: address space, not disk: the file grows as it is written
DEFAULT_MAP_SIZE: Final = 1 << 40
_OBJECTS: Final = b"objects"
_LOOSE: Final = b"\0"
_CLOSED: Final = b"\1"
#: objects written in one transaction; more goes into several
_CHUNK: Final = 20_000
_MAX_KEY: Final = 511
_SCHEMA_KEY: Final = b"\0schema"
_TERM_KEY: Final = b"\0term"


class _Environment:
    """One LMDB environment, shared by everything in the process that opens the same path."""

    def __init__(self, path: Path, map_size: int, readonly: bool, sync: bool) -> None:
        self.path = path
        try:
            self.env: Any = lmdb.open(
                str(path),
                map_size=map_size,
                max_dbs=len(TABLES) + 8,
                max_readers=2048,
                readonly=readonly,
                sync=sync,
                create=not readonly,
                readahead=False,
                max_spare_txns=16,
            )
        except lmdb.Error as error:
            raise StoreUnavailable(f"lmdb://{path} cannot be opened: {error}") from None
        self.readonly = readonly
        self.users = 0
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="lmdb-writer")
        self.sync = sync
        #: held by a write transaction, and while another process's larger map is adopted
        self.mapping = threading.Lock()
        try:
            self.databases = self._open_databases()
        except BaseException:
            self.env.close()
            raise

    def _open_databases(self) -> dict[str, Any]:
        names = [_OBJECTS, *(name.encode() for name in TABLES)]
        try:
            if not self.readonly:
                self.env.reader_check()
                with self.env.begin(write=True) as txn:
                    databases = {n.decode(): self.env.open_db(n, txn=txn) for n in names}
                    value = txn.get(_table_key(b"", _SCHEMA_KEY), db=databases[META.name])
                    if value is None:
                        schema = b"%d" % SCHEMA_VERSION
                        txn.put(_table_key(b"", _SCHEMA_KEY), schema, db=databases[META.name])
                    else:
                        _check_schema(value, self.path)
                return databases
            databases = {n.decode(): self.env.open_db(n, create=False) for n in names}
            with self.env.begin() as txn:
                value = txn.get(_table_key(b"", _SCHEMA_KEY), db=databases[META.name])
            if value is None:
                raise StoreUnavailable(f"lmdb://{self.path} has not been made yet")
            _check_schema(value, self.path)
            return databases
        except lmdb.NotFoundError:
            raise StoreUnavailable(f"lmdb://{self.path} has not been made yet") from None
        except lmdb.MapFullError:
            raise StoreFull(f"lmdb://{self.path} has no room for its tables; raise map_size_gb") from None
        except lmdb.Error as error:
            raise StoreUnavailable(f"lmdb://{self.path} cannot be opened: {error}") from None

    def adopt_size(self) -> None:
        """Take over the map size that another process has set.

        Called on the thread that reads, so that no read transaction is open; writes wait at the lock.
        """
        with self.mapping:
            self.env.set_mapsize(0)


_open: dict[Path, _Environment] = {}
_open_lock = threading.Lock()


def _check_schema(value: bytes, path: Path) -> None:
    made = int(value)
    if made != SCHEMA_VERSION:
        age = "newer" if made > SCHEMA_VERSION else "older"
        advice = (
            "use the version that made it" if made > SCHEMA_VERSION else "import or bridge into a new store"
        )
        raise SchemaMismatch(
            f"lmdb://{path} has schema {made}, {age} than {SCHEMA_VERSION} which this version writes: {advice}"
        )


def _table_key(partition: bytes, key: bytes) -> bytes:
    whole = bytes((len(partition),)) + partition + key if len(partition) < 256 else b""
    if not whole or len(whole) > _MAX_KEY:
        raise StoreError(f"a row key of {len(partition)} + {len(key)} bytes is longer than {_MAX_KEY - 1}")
    return whole


class LmdbStore:
    """A Store in one directory. Made by `open`; see the module for what is durable when."""

    def __init__(self, environment: _Environment, *, bulk: bool = False, readonly: bool = False) -> None:
        self.url = f"lmdb://{environment.path}"
        self._shared = environment
        self._env = environment.env
        self._objects = environment.databases[_OBJECTS.decode()]
        self._tables = environment.databases
        self._bulk = bulk
        self._readonly = readonly or environment.readonly
        self._closed = False
        #: the term that this object has begun; 0: none
        self._term = 0
        self._head: HeadEntry | None = None

    @classmethod
    async def open(
        cls, path: Path, *, readonly: bool = False, map_size: int = DEFAULT_MAP_SIZE, bulk: bool = False
    ) -> LmdbStore:
        """Errors: StoreUnavailable (not made yet, no access), SchemaMismatch."""
        path = path.absolute()  # noqa: ASYNC240  (no I/O)
        if readonly and not (path / "data.mdb").exists():
            raise StoreUnavailable(f"lmdb://{path} has not been made yet")
        with _open_lock:
            shared = _open.get(path)
            if shared is not None and shared.readonly and not readonly:
                raise StoreUnavailable(f"lmdb://{path} is open read-only in this process")
            if shared is None:
                if not readonly:
                    try:
                        path.mkdir(parents=True, exist_ok=True)
                    except OSError as error:
                        raise StoreUnavailable(f"lmdb://{path}: {error.strerror}") from None
                shared = _open[path] = _Environment(path, map_size, readonly, sync=not bulk)
            shared.users += 1
        return cls(shared, bulk=bulk, readonly=readonly)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._readonly:
            await self.flush()
        with _open_lock:
            self._shared.users -= 1
            if self._shared.users:
                return
            del _open[self._shared.path]
        self._shared.writer.shutdown(wait=True)
        self._env.close()

    # --- objects -----------------------------------------------------------------------------------

    async def get(self, multihash: bytes) -> bytes | None:
        if not 0 < len(multihash) <= _MAX_KEY:
            return None
        with self._begin() as txn:
            value = txn.get(multihash, db=self._objects)
        return None if value is None else value[1:]

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = []
        with self._begin() as txn:
            get, objects = txn.get, self._objects
            for multihash in multihashes:
                value = get(multihash, None, objects) if 0 < len(multihash) <= _MAX_KEY else None
                found.append(None if value is None else value[1:])
        return found

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        found = []
        with self._begin(buffers=True) as txn:
            for multihash in multihashes:
                key_fits = 0 < len(multihash) <= _MAX_KEY
                value = txn.get(multihash, db=self._objects) if key_fits else None
                held = Held.ABSENT if value is None else Held.CLOSED if value[0] else Held.LOOSE
                found.append(held)
        return found

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        flag = _CLOSED if closed else _LOOSE
        source: Iterator[tuple[bytes, bytes]] = iter(objects)
        while chunk := list(islice(source, _CHUNK)):
            await self._write(partial(self._put, chunk=chunk, flag=flag))

    def _put(self, txn: Any, chunk: list[tuple[bytes, bytes]], flag: bytes) -> None:
        chunk.sort()
        items = [(multihash, flag + data) for multihash, data in chunk]
        cursor = txn.cursor(self._objects)
        # a loose put never undoes a closed one; a closed one replaces whatever stands there
        cursor.putmulti(items, overwrite=flag is _CLOSED)

    async def iterate_objects(
        self, after: bytes = b"", chunk: int = 1000
    ) -> AsyncIterator[tuple[bytes, bytes, bool]]:
        """(multihash, bytes, closed) of every object behind `after`, in order of the multihash.

        For maintenance, never for a request. Each `chunk` objects are a read transaction of their own, so a
        slow reader keeps no page from being used again; what is put meanwhile may or may not be seen.
        """
        while True:
            found: list[tuple[bytes, bytes, bool]] = []
            with self._begin() as txn, txn.cursor(self._objects) as cursor:
                there = cursor.set_range(after) if after else cursor.first()
                if there and after and cursor.key() == after:
                    there = cursor.next()
                while there and len(found) < chunk:
                    value = cursor.value()
                    found.append((cursor.key(), value[1:], value[:1] == _CLOSED))
                    there = cursor.next()
            for one in found:
                yield one
            if len(found) < chunk:
                return
            after = found[-1][0]
            await asyncio.sleep(0)

    async def close_many(self, multihashes: Sequence[bytes]) -> None:
        for start in range(0, len(multihashes), _CHUNK):
            part = sorted(multihashes[start : start + _CHUNK])
            await self._write(partial(self._mark_closed, multihashes=part))

    def _mark_closed(self, txn: Any, multihashes: list[bytes]) -> None:
        for multihash in multihashes:
            value = txn.get(multihash, db=self._objects)
            if value is None:
                raise Missing(multihash)
            if value[:1] != _CLOSED:
                txn.put(multihash, _CLOSED + value[1:], db=self._objects)

    # --- rows --------------------------------------------------------------------------------------

    async def row(self, table: Table, partition: bytes, key: bytes) -> bytes | None:
        with self._begin() as txn:
            value: bytes | None = txn.get(_table_key(partition, key), db=self._tables[table.name])
        return value

    async def rows(self, table: Table, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        database = self._tables[table.name]
        with self._begin() as txn:
            return [txn.get(_table_key(partition, key), db=database) for partition, key in keys]

    async def scan(
        self,
        table: Table,
        partition: bytes,
        *,
        start: bytes = b"",
        end: bytes | None = None,
        reverse: bool = False,
        limit: int = 1000,
    ) -> list[tuple[bytes, bytes]]:
        prefix = _table_key(partition, b"")
        first = (prefix + start)[:_MAX_KEY]
        # behind every key of the partition: no key can be longer than the limit
        behind = prefix + (b"\xff" * (_MAX_KEY - len(prefix)) if end is None else end)
        found: list[tuple[bytes, bytes]] = []
        with self._begin() as txn, txn.cursor(self._tables[table.name]) as cursor:
            if reverse:
                there = cursor.prev() if cursor.set_range(behind) else cursor.last()
                while there and len(found) < limit and (at := cursor.key()) >= first:
                    found.append((at[len(prefix) :], cursor.value()))
                    there = cursor.prev()
            else:
                there = cursor.set_range(first)
                while there and len(found) < limit and (at := cursor.key()) < behind:
                    found.append((at[len(prefix) :], cursor.value()))
                    there = cursor.next()
        return found

    async def write(self, batch: Batch) -> None:
        await self._write(lambda txn: self._apply(txn, batch))

    def _apply(self, txn: Any, batch: Batch) -> None:
        if self._term and self._term != (term := self._current_term(txn)):
            raise Fenced(f"rows of term {self._term} are not written: the term is {term}")
        for table, partition, key in batch.deletes:
            txn.delete(_table_key(partition, key), db=self._tables[table.name])
        for table, partition, key, value in batch.puts:
            txn.put(_table_key(partition, key), value, db=self._tables[table.name])

    async def swap(
        self, table: Table, partition: bytes, key: bytes, expected: bytes | None, value: bytes | None
    ) -> bool:
        database, at = self._tables[table.name], _table_key(partition, key)

        def compare(txn: Any) -> bool:
            if txn.get(at, db=database) != expected:
                return False
            if value is None:
                txn.delete(at, db=database)
            else:
                txn.put(at, value, db=database)
            return True

        return await self._write(compare)

    # --- head log ----------------------------------------------------------------------------------

    async def new_term(self, owner: str, after: int | None = None) -> int:
        def begin(txn: Any) -> int:
            term = self._current_term(txn) + 1
            if after is not None and after != term - 1:
                raise Fenced(f"term {term - 1} has begun meanwhile, after term {after}")
            txn.put(
                _table_key(b"", _TERM_KEY), term.to_bytes(8, "big") + owner.encode(), db=self._tables[LEASE.name]
            )
            return term

        self._term = await self._write(begin)
        return self._term

    def _current_term(self, txn: Any) -> int:
        value = txn.get(_table_key(b"", _TERM_KEY), db=self._tables[LEASE.name])
        return int.from_bytes(value[:8], "big") if value else 0

    async def append_head(self, entry: HeadEntry) -> None:
        def append(txn: Any) -> None:
            term = self._current_term(txn)
            with txn.cursor(self._tables[HEAD_LOG.name]) as cursor:
                last = int.from_bytes(cursor.key()[-8:], "big") if cursor.last() else 0
            if entry.term != term or entry.seq != last + 1:
                raise Fenced(
                    f"entry {entry.seq} of term {entry.term} cannot follow entry {last}: the term is {term}"
                )
            key = _table_key(b"", seq_key(entry.seq))
            txn.put(key, encode_entry(entry), db=self._tables[HEAD_LOG.name])

        await self._write(append)
        await self.flush()

    async def head(self) -> HeadEntry | None:
        with self._begin() as txn, txn.cursor(self._tables[HEAD_LOG.name]) as cursor:
            if not cursor.last():
                return None
            seq = int.from_bytes(cursor.key()[-8:], "big")
            head = self._head
            if head is not None and head.seq == seq:
                return head
            head = self._head = decode_entry(cursor.value())
        return head

    async def head_entries(self, after: int, limit: int = 1000) -> list[HeadEntry]:
        rows = await self.scan(HEAD_LOG, b"", start=seq_key(after + 1), limit=limit)
        return [decode_entry(value) for _, value in rows]

    async def trim_head_log(self, keep: int) -> None:
        def trim(txn: Any) -> None:
            database = self._tables[HEAD_LOG.name]
            with txn.cursor(database) as cursor:
                if not cursor.last():
                    return
                oldest = int.from_bytes(cursor.key()[-8:], "big") - max(1, keep)
                there = cursor.first()
                while there and int.from_bytes(cursor.key()[-8:], "big") <= oldest:
                    there = cursor.delete()

        await self._write(trim)

    # --- whole store -------------------------------------------------------------------------------

    async def stats(self) -> dict[str, int]:
        with self._begin() as txn:
            objects = txn.stat(self._objects)["entries"]
        info, stat = self._env.info(), self._env.stat()
        return {"objects": objects, "bytes": (info["last_pgno"] + 1) * stat["psize"]}

    async def flush(self) -> None:
        """Everything written so far is on disk when this returns; only `bulk` stores need it."""
        if not self._shared.sync:
            await asyncio.get_running_loop().run_in_executor(self._shared.writer, self._env.sync, True)

    # --- within ------------------------------------------------------------------------------------

    def _begin(self, *, buffers: bool = False) -> Any:
        if self._closed:
            raise StoreUnavailable(f"{self.url} is closed")
        try:
            return self._env.begin(None, None, False, buffers)
        except lmdb.MapResizedError:
            self._shared.adopt_size()
            return self._env.begin(None, None, False, buffers)
        except lmdb.Error as error:
            raise StoreUnavailable(f"{self.url} cannot be read: {error}") from None

    async def _write(self, work: Callable[[Any], T]) -> T:
        if self._closed or self._readonly:
            raise StoreUnavailable(f"{self.url} is {'closed' if self._closed else 'open read-only'}")
        run = asyncio.get_running_loop().run_in_executor
        try:
            result = await run(self._shared.writer, self._transact, work)
        except lmdb.MapResizedError:
            self._shared.adopt_size()
            result = await run(self._shared.writer, self._transact, work)
        if not self._bulk:
            await self.flush()  # does nothing unless an importer in this process opened the same store in bulk
        return result

    def _transact(self, work: Callable[[Any], T]) -> T:
        try:
            with self._shared.mapping, self._env.begin(write=True) as txn:
                return work(txn)
        except lmdb.MapResizedError:
            raise
        except lmdb.BadValsizeError:
            raise StoreError(f"{self.url}: an object's key is empty or longer than {_MAX_KEY} bytes") from None
        except lmdb.MapFullError:
            size = self._env.info()["map_size"] >> 30
            raise StoreFull(f"{self.url} is full: its map is {size} GiB; raise map_size_gb") from None
        except lmdb.DiskError as error:
            raise StoreFull(f"{self.url} cannot be written: {error}") from None
        except lmdb.Error as error:
            raise StoreUnavailable(f"{self.url} cannot be written: {error}") from None
