"""Makes the objects of an older LMDB store a generation, in place, so that they can be dropped one day.

An older store has everything in one environment. Its file becomes that of the current generation, and a new one gets
the rows and the headers. Whatever the current generation held before is copied into the old file first. Each step may
be done twice; files change places only when the new one is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import lmdb

from blockstore.errors import Missing, StoreError, StoreFull, StoreUnavailable
from blockstore.generations import LAYOUT_KEY, Layout, decode_layout
from blockstore.lmdb.environment import (
    DATA_FILE,
    LEGACY_KEY,
    MIGRATING,
    OBJECTS,
    SCHEMA_KEY,
    WITHOUT_GENERATIONS,
    table_key,
)
from blockstore.lmdb.place import CLOSED, unpacked
from blockstore.lmdb.store import generation_path
from blockstore.store import HEIGHTS, META, SCHEMA_VERSION, TABLES

_READY: Final = table_key(b"", b"\0ready")
_SCHEMA: Final = table_key(b"", SCHEMA_KEY)
_LEGACY: Final = table_key(b"", LEGACY_KEY)
_LAYOUT: Final = table_key(b"", LAYOUT_KEY)
_MERGED: Final = ".merged"
_BATCH: Final = 20_000

#: multihashes of the headers that a row of HEIGHTS names
Headers = Callable[[bytes], Sequence[bytes]]
Tell = Callable[[str, int], None]


def migrate(path: Path, map_size: int, headers: Headers, tell: Tell) -> bool:
    """Migrate the store at `path`; whether there was anything to do. Blocks: call it in a thread.

    `tell` is told what is copied, and how many of it. Errors: StoreError (the store is in use, or a generation is being
    filled or dropped), StoreUnavailable, StoreFull, Missing (a header is lost).
    """
    try:
        return _Migration(path, map_size, headers, tell).run()
    except lmdb.MapFullError:
        raise StoreFull(f"lmdb://{path} is full: raise map_size_gb; the migration goes on then") from None
    except (OSError, lmdb.DiskError) as error:
        raise StoreFull(f"lmdb://{path} cannot be written: {error}; the migration goes on when it can") from None
    except lmdb.Error as error:
        raise StoreUnavailable(f"lmdb://{path} cannot be migrated: {error}") from None


class _Migration:
    def __init__(self, path: Path, map_size: int, headers: Headers, tell: Tell) -> None:
        self._path = path
        self._map_size = map_size
        self._headers = headers
        self._tell = tell
        self._new = path / MIGRATING

    def run(self) -> bool:
        if (self._path / DATA_FILE).exists():
            with self._opened(self._path) as old:
                self._check_unused(old)
                meta = old.open_db(META.name.encode())
                with old.begin() as txn:
                    is_older = txn.get(_SCHEMA, db=meta) == b"%d" % WITHOUT_GENERATIONS
                    if not is_older and txn.get(_LEGACY, db=meta) is None:
                        self._clean()
                        return False
                    layout = decode_layout(txn.get(_LAYOUT, db=meta))
                if layout.previous is not None or layout.next is not None:
                    raise StoreError("a generation is being filled or dropped: let the bridge finish that first")
                self._merge(old, generation_path(self._path, layout.current))
                if not self._is_ready():
                    self._make_new(old, meta)
            self._change_places(layout)
        elif not self._is_ready():
            raise StoreUnavailable(f"lmdb://{self._path} has not been made yet")
        else:
            with self._opened(self._new) as new, new.begin() as txn:
                layout = decode_layout(txn.get(_LAYOUT, db=new.open_db(META.name.encode(), txn=txn, create=False)))
            self._change_places(layout)
        self._clean()
        return True

    def _opened(self, path: Path) -> Any:
        path.mkdir(exist_ok=True)
        return lmdb.open(str(path), map_size=self._map_size, max_dbs=len(TABLES) + 8, readahead=False)

    def _check_unused(self, env: Any) -> None:
        env.reader_check()
        pids = {line.split()[0] for line in env.readers().splitlines()[1:] if line.split()}
        if pids - {str(os.getpid())}:
            raise StoreError(f"lmdb://{self._path} is in use by process {', '.join(sorted(pids))}: stop it first")

    def _merge(self, old: Any, generation: Path) -> None:
        """Copy what the current generation holds into the old file."""
        if not (generation / DATA_FILE).exists():
            return
        into = old.open_db(OBJECTS)
        done = 0
        with self._opened(generation) as env, env.begin() as txn:
            for batch in _batches(txn.cursor(env.open_db(OBJECTS, txn=txn, create=False))):
                with old.begin(write=True) as write:
                    # one that is closed replaces whatever stands there, a loose one nothing
                    write.cursor(into).putmulti([one for one in batch if one[1][0] & 1])
                    write.cursor(into).putmulti([one for one in batch if not one[1][0] & 1], overwrite=False)
                done += len(batch)
                self._tell("objects of the current generation", done)

    def _make_new(self, old: Any, meta: Any) -> None:
        """Make the new file: all rows, and the headers."""
        shutil.rmtree(self._new, ignore_errors=True)
        with self._opened(self._new) as new:
            for name in TABLES:
                source = old.open_db(name.encode())
                into = new.open_db(name.encode())
                done = 0
                with old.begin() as txn:
                    for batch in _batches(txn.cursor(source)):
                        with new.begin(write=True) as write:
                            write.cursor(into).putmulti(batch, append=True)
                        done += len(batch)
                        self._tell(f"rows of {name}", done)
            self._copy_headers(old, new)
            with new.begin(write=True) as write:
                rows = new.open_db(META.name.encode(), txn=write)
                write.delete(_LEGACY, db=rows)
                # when the generation began is noted anew: it has become another one
                layout = decode_layout(write.get(_LAYOUT, db=rows))
                write.put(_LAYOUT, Layout((layout.current,)).encode(), db=rows)
                write.put(_SCHEMA, b"%d" % SCHEMA_VERSION, db=rows)
                write.put(_READY, b"1", db=rows)
            new.sync(True)

    def _copy_headers(self, old: Any, new: Any) -> None:
        objects, into = old.open_db(OBJECTS), new.open_db(OBJECTS)
        done = 0
        with old.begin() as txn:
            for batch in _batches(txn.cursor(old.open_db(HEIGHTS.name.encode(), txn=txn))):
                found = {}
                for multihash in (one for _, value in batch for one in self._headers(value)):
                    value = txn.get(multihash, db=objects)
                    if value is None:
                        raise Missing(multihash, "header")
                    found[multihash] = CLOSED + unpacked(value)
                with new.begin(write=True) as write:
                    write.cursor(into).putmulti(sorted(found.items()))
                done += len(found)
                self._tell("headers", done)

    def _is_ready(self) -> bool:
        if not (self._new / DATA_FILE).exists():
            return False
        with self._opened(self._new) as new, new.begin() as txn:
            try:
                return txn.get(_READY, db=new.open_db(META.name.encode(), txn=txn, create=False)) is not None
            except lmdb.NotFoundError:
                return False

    def _change_places(self, layout: Layout) -> None:
        """The old file becomes the generation's, and the new one the store's. Each rename may have been done before."""
        generation = generation_path(self._path, layout.current)
        if (self._path / DATA_FILE).exists():
            if generation.exists():
                aside = generation.with_name(generation.name + _MERGED)
                shutil.rmtree(aside, ignore_errors=True)
                generation.rename(aside)
            generation.mkdir()
            (self._path / DATA_FILE).rename(generation / DATA_FILE)
        (self._new / DATA_FILE).rename(self._path / DATA_FILE)
        # its readers were the old file's
        (self._path / "lock.mdb").unlink(missing_ok=True)
        folder = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _clean(self) -> None:
        shutil.rmtree(self._new, ignore_errors=True)
        for aside in self._path.glob(f"*{_MERGED}"):
            shutil.rmtree(aside, ignore_errors=True)


def _batches(cursor: Any) -> Iterator[list[tuple[bytes, bytes]]]:
    """All items behind a cursor, in order, some at a time."""
    batch: list[tuple[bytes, bytes]] = []
    for item in cursor:
        batch.append(item)
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
