"""`follower store index`: make the rows of a chain whose objects stay in archives."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from follower.commands.command import DONE, Command
from follower.commands.processes import run_loop
from follower.commands.store.opening import opened_store
from follower.logs.set_up import say
from follower.settings import CannotRun, Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Index the archives that the settings name, and print what was indexed.

    Errors: CannotRun (none is named), BadCar, StoreError, ChainError.
    """
    if not settings["archive"]:
        raise CannotRun("no archive is named: give --archive FILE_OR_URL")
    return run_loop(_index(settings, only_new=False))


def index_new_store(settings: Settings) -> None:
    """Index the archives that the settings name, if the store holds no head yet: before it is served.

    Errors: BadCar, StoreError, ChainError.
    """
    if settings["archive"]:
        run_loop(_index(settings, only_new=True))


async def _index(settings: Settings, *, only_new: bool) -> int:
    from follower.archives import opened_archives
    from leader_bridge.imports.in_place import index_archives
    from leader_bridge.imports.progress import reporting

    network_file = Path(settings["network_file"]) if settings["network_file"] else None
    async with opened_archives(settings) as archives, opened_store(settings, readonly=False, bulk=True) as store:
        assert archives is not None
        if only_new and await store.head() is not None:
            return DONE
        with reporting() as progress:
            done = await index_archives(
                store,
                archives,
                network_file=network_file,
                progress=progress,
                trusted=settings["archive_trust"],
                lease_seconds=settings["lease_seconds"],
            )
    say(f"indexed {done.tipsets:,} tipsets of {settings.shown('archive')} into {settings.shown('store')}")
    if done.network is not None:
        say(f"network {done.network.name}, epochs {done.lowest} to {done.height}")
    return DONE


COMMAND: Final = Command(
    "store index",
    "Make the rows of a chain whose objects stay in archives.",
    "follower store index --archive snapshot.forest.car.zst --store lmdb:///var/lib/follower",
    run,
)
