"""LMDB environments: one a directory and process, shared by everything in the process that opens the same path.

A store has one for its rows and lasting objects, in its own directory, and one a generation of objects, in a directory
below it. Writes go through one thread an environment, never the event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb

from blockstore.errors import SchemaMismatch, StoreError, StoreFull, StoreUnavailable
from blockstore.store import META, SCHEMA_VERSION, TABLES

T = TypeVar("T")

#: address space, not disk: the file grows as it is written
DEFAULT_MAP_SIZE: Final = 1 << 40
#: the database of objects, in each environment
OBJECTS: Final = b"objects"
MAX_KEY: Final = 511
SCHEMA_KEY: Final = b"\0schema"
#: the schema whose objects are all in one database
WITHOUT_GENERATIONS: Final = 1
#: the row of META of a store whose lasting place holds what an older version stored
LEGACY_KEY: Final = b"\0legacy"
#: the folder of a migration that is under way
MIGRATING: Final = "migrating"
DATA_FILE: Final = "data.mdb"


def table_key(partition: bytes, key: bytes) -> bytes:
    """The LMDB key of a row. Errors: StoreError (too long)."""
    whole = bytes((len(partition),)) + partition + key if len(partition) < 256 else b""
    if not whole or len(whole) > MAX_KEY:
        raise StoreError(f"a row key of {len(partition)} + {len(key)} bytes is longer than {MAX_KEY - 1}")
    return whole


class Environment:
    """One LMDB environment with some databases. Got by `acquire`, given back by `release`."""

    def __init__(self, path: Path, names: Sequence[bytes], map_size: int, readonly: bool, sync: bool) -> None:
        self.path = path
        self.readonly = readonly
        self.sync = sync
        self.users = 0
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
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="lmdb-writer")
        #: held by a write transaction, and while another process's larger map is adopted
        self._mapping = threading.Lock()
        try:
            self.databases = self._open_databases(names)
        except BaseException:
            self.env.close()
            raise

    def _open_databases(self, names: Sequence[bytes]) -> dict[bytes, Any]:
        try:
            if self.readonly:
                return dict(self._databases_there(names))
            self.env.reader_check()
            with self.env.begin(write=True) as txn:
                databases = {name: self.env.open_db(name, txn=txn) for name in names}
                if META.name.encode() in databases:
                    self._begin_schema(txn, databases[META.name.encode()])
            return databases
        except lmdb.NotFoundError:
            raise StoreUnavailable(f"lmdb://{self.path} has not been made yet") from None
        except lmdb.MapFullError:
            raise StoreFull(f"lmdb://{self.path} has no room for its tables; raise map_size_gb") from None
        except lmdb.Error as error:
            raise StoreUnavailable(f"lmdb://{self.path} cannot be opened: {error}") from None

    def _databases_there(self, names: Sequence[bytes]) -> Iterator[tuple[bytes, Any]]:
        """Those that a reader finds. A store that is older than a table of rows lacks it; then it has no rows."""
        for name in names:
            try:
                yield name, self.env.open_db(name, create=False)
            except lmdb.NotFoundError:
                if name in (names[0], META.name.encode()):
                    raise

    def _begin_schema(self, txn: Any, meta: Any) -> None:
        key = table_key(b"", SCHEMA_KEY)
        value = txn.get(key, db=meta)
        if value is not None:
            check_schema(value, self.path)
            if int(value) == WITHOUT_GENERATIONS:
                # its objects are all lasting; what comes goes into generations
                txn.put(table_key(b"", LEGACY_KEY), value, db=meta)
        txn.put(key, b"%d" % SCHEMA_VERSION, db=meta)

    def begin(self, buffers: bool = False) -> Any:
        """A read transaction. Errors: StoreUnavailable."""
        try:
            return self.env.begin(None, None, False, buffers)
        except lmdb.MapResizedError:
            self._adopt_size()
            return self.env.begin(None, None, False, buffers)
        except lmdb.Error as error:
            raise StoreUnavailable(f"lmdb://{self.path} cannot be read: {error}") from None

    def _adopt_size(self) -> None:
        """Take over the map size that another process has set.

        Called on the thread that reads, so that no read transaction is open; writes wait at the lock.
        """
        with self._mapping:
            self.env.set_mapsize(0)

    async def write(self, work: Callable[[Any], T]) -> T:
        """Do `work` in a write transaction, in the writer's thread. Errors: those of `work`, StoreFull,
        StoreUnavailable, StoreError (a key is too long)."""
        run = asyncio.get_running_loop().run_in_executor
        try:
            return await run(self._writer, self._transact, work)
        except lmdb.MapResizedError:
            self._adopt_size()
            return await run(self._writer, self._transact, work)

    async def flush(self) -> None:
        """Everything written so far is on disk when this returns."""
        if not self.sync and not self.readonly:
            await asyncio.get_running_loop().run_in_executor(self._writer, self.env.sync, True)

    def _transact(self, work: Callable[[Any], T]) -> T:
        try:
            with self._mapping, self.env.begin(write=True) as txn:
                return work(txn)
        except lmdb.MapResizedError:
            raise
        except lmdb.BadValsizeError:
            raise StoreError(f"lmdb://{self.path}: an object's key is empty or longer than {MAX_KEY} bytes") from None
        except lmdb.MapFullError:
            size = self.env.info()["map_size"] >> 30
            raise StoreFull(f"lmdb://{self.path} is full: its map is {size} GiB; raise map_size_gb") from None
        except lmdb.DiskError as error:
            raise StoreFull(f"lmdb://{self.path} cannot be written: {error}") from None
        except lmdb.Error as error:
            raise StoreUnavailable(f"lmdb://{self.path} cannot be written: {error}") from None

    def close(self) -> None:
        """Wait for the writer, then unmap."""
        self._writer.shutdown(wait=True)
        self.env.close()


_open: dict[Path, Environment] = {}
_open_lock = threading.Lock()


def acquire(path: Path, names: Sequence[bytes], *, map_size: int, readonly: bool, sync: bool) -> Environment:
    """The environment of a directory. A writer makes the directory. Errors: StoreUnavailable, SchemaMismatch."""
    if readonly and not (path / DATA_FILE).exists():
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
            shared = _open[path] = Environment(path, names, map_size, readonly, sync)
        shared.users += 1
    return shared


def release(environment: Environment) -> None:
    """Give an environment back; the last user closes it."""
    with _open_lock:
        environment.users -= 1
        if environment.users:
            return
        del _open[environment.path]
    environment.close()


def check_schema(value: bytes | None, path: Path) -> None:
    """Errors: StoreUnavailable (no schema), SchemaMismatch."""
    if value is None:
        raise StoreUnavailable(f"lmdb://{path} has not been made yet")
    made = int(value)
    if made in (WITHOUT_GENERATIONS, SCHEMA_VERSION):
        return
    age, advice = (
        ("newer", "use the version that made it")
        if made > SCHEMA_VERSION
        else ("older", "import or bridge into a new store")
    )
    raise SchemaMismatch(
        f"lmdb://{path} has schema {made}, {age} than {SCHEMA_VERSION} which this version writes: {advice}"
    )
