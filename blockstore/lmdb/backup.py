"""Copies the files of an LMDB store while it serves and is written to. This module is a friend of `LmdbStore`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import lmdb

from blockstore.errors import StoreError, StoreFull, StoreUnavailable
from blockstore.generations import LAYOUT_KEY
from blockstore.lmdb.environment import table_key
from blockstore.lmdb.store import LmdbStore
from blockstore.store import META

_UNFINISHED: Final = ".unfinished"


def backup(store: LmdbStore, folder: Path, tell: Callable[[str], None] = lambda _: None) -> int:
    """Copy the store into `folder`, which does not exist yet; the bytes of the copy. Blocks: call it in a thread.

    The copy is of one moment. It holds no free pages, so it may be smaller. The folder appears with everything in it or
    not at all. `tell` is told the name of each environment before it is copied.
    Errors: StoreError (the folder exists), StoreFull, StoreUnavailable.
    """
    unfinished = folder.with_name(folder.name + _UNFINISHED)
    if folder.exists():
        raise StoreError(f"{folder} exists already: a backup goes into a new folder")
    try:
        # of a backup that was stopped
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with contextlib.ExitStack() as open_transactions:
            for name, env, txn in _one_moment(store, open_transactions):
                tell(name or "store")
                target = unfinished / name
                target.mkdir(exist_ok=True)
                env.copy(str(target), compact=True, txn=txn)
        size = _sync(unfinished)
        unfinished.rename(folder)
        _sync_folder(folder.parent)
    except (OSError, lmdb.DiskError) as error:
        raise StoreFull(f"{folder} cannot be written: {error}") from None
    except lmdb.Error as error:
        raise StoreUnavailable(f"{store.url} cannot be copied: {error}") from None
    return size


def _environments(store: LmdbStore) -> list[tuple[str, Any]]:
    """(folder below the store's, environment), the one with the rows first."""
    generations = [store.place(number) for number in store._layout.held]
    below = [(place.environment.path.name, place.environment.env) for place in generations]
    return [("", store._shared.env), *below]


def _one_moment(store: LmdbStore, stack: contextlib.ExitStack) -> list[tuple[str, Any, Any]]:
    """A read transaction of each environment, of one moment: nobody commits rows while they begin.

    Objects are committed before the rows that name them, so no row names an object that is not seen.
    """
    with store._shared.env.begin(write=True) as lock:
        if lock.get(table_key(b"", LAYOUT_KEY), db=store._tables[META.name]) != store._layout_row:
            raise StoreUnavailable(f"{store.url} has begun or dropped a generation this moment: try again")
        found = [(name, env, stack.enter_context(env.begin())) for name, env in _environments(store)]
        lock.abort()
    return found


def _sync(folder: Path) -> int:
    """Have all files of a folder on disk; their bytes."""
    size = 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            size += path.stat().st_size
        else:
            _sync_folder(path)
    _sync_folder(folder)
    return size


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
