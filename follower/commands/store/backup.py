"""`follower store backup`: copy the files of an LMDB store while it serves."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path
from typing import Final

from follower.commands.command import DONE, Command
from follower.commands.processes import run_loop
from follower.commands.store.opening import opened_store
from follower.settings import CannotRun, Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Copy, and print how much. Errors: CannotRun (a shared store), StoreError."""
    if not settings["store"].startswith("lmdb://"):
        raise CannotRun(
            "only an LMDB store is backed up by its files: take snapshots of a shared store by its server's own tools, "
            "or use `follower store copy`"
        )
    if not (Path(settings["store"].removeprefix("lmdb://")) / "data.mdb").exists():
        raise CannotRun(f"{settings.shown('store')} has not been made yet")
    return run_loop(_backup(settings, args.folder.absolute()))


async def _backup(settings: Settings, folder: Path) -> int:
    from blockstore.lmdb.backup import backup
    from blockstore.lmdb.store import LmdbStore

    # those that serve go first
    os.nice(10)
    async with opened_store(settings, readonly=False) as store:
        assert isinstance(store, LmdbStore)
        size = await asyncio.to_thread(backup, store, folder)
        head = await store.head()
    shown = "no head" if head is None else f"a head at epoch {head.head.height} or a little below"
    print(f"copied {size:,} bytes to {folder}, with {shown}")
    return DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that does not exist yet")


COMMAND: Final = Command(
    "store backup",
    "Copy the files of an LMDB store while it serves.",
    "follower store backup /backup/follower-monday --store lmdb:///var/lib/follower",
    run,
    add_arguments,
)
