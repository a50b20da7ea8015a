"""`follower store copy`: one store into another, whatever their kinds."""

from __future__ import annotations

import argparse
import os
from typing import Final

from follower.commands.command import DONE, Command
from follower.commands.processes import run_loop
from follower.commands.store.opening import opened_store
from follower.commands.store.percent import add_percent
from follower.settings import CannotRun, Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Copy, and print what was copied. Errors: CannotRun (no two stores), StoreError."""
    if args.source == args.target:
        raise CannotRun("a store is copied into another one")
    if settings.source("store") == "--store":
        raise CannotRun("--store is not used: name both stores, first the one to copy from")
    return run_loop(_copy(settings, args))


async def _copy(settings: Settings, args: argparse.Namespace) -> int:
    from leader_bridge.imports.progress import reporting
    from leader_bridge.upkeep.copy import copy_store
    from leader_bridge.upkeep.pace import Pace

    # those that serve go first
    os.nice(10)
    async with (
        opened_store(settings, args.source) as source,
        opened_store(settings, args.target, readonly=False, bulk=True) as target,
    ):
        with reporting() as progress:
            done = await copy_store(
                source,
                target,
                pace=Pace(args.percent),
                progress=progress,
                lease_seconds=settings["lease_seconds"],
            )
        print(
            f"copied {done.objects:,} objects ({done.object_bytes:,} bytes) and {done.rows:,} rows into {target.url}; "
            f"{done.caught_up:,} tipsets came meanwhile; the head is at epoch {done.height}"
        )
    return DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Both stores, and how fast."""
    parser.add_argument("source", metavar="FROM", help="the store to copy; it may serve, and its bridge may go on")
    parser.add_argument("target", metavar="TO", help="a new store, or one that holds an unfinished copy of FROM")
    add_percent(parser)


COMMAND: Final = Command(
    "store copy",
    "Copy a store into a new one, also of another kind.",
    "follower store copy lmdb:///var/lib/follower cassandra://db1,db2/filecoin",
    run,
    add_arguments,
)
