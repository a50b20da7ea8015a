"""`follower extract`: the chain as tables, in Parquet files or PostgreSQL."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import TYPE_CHECKING, Final

from follower.commands.command import DONE, Command
from follower.commands.processes import run_until_signal
from follower.commands.store.opening import opened_store
from follower.settings import Settings

if TYPE_CHECKING:
    from leader_bridge.tables.extract import ExtractReport

#: exit code of a command that a signal ended
_ENDED: Final = 130
#: serving processes come first
_NICE: Final = 10


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Make the tables, and print what was made. Errors: StoreError, ChainError, OSError."""
    os.nice(_NICE)
    return run_until_signal(lambda stop: _extract(settings, args, stop))


async def _extract(settings: Settings, args: argparse.Namespace, stop: asyncio.Event) -> int:
    from leader_bridge.imports.progress import reporting
    from leader_bridge.tables.catalogue import find_tasks
    from leader_bridge.tables.extract import extract
    from leader_bridge.tables.sinks.opening import open_sink

    tasks = find_tasks(args.tasks.split(","))
    async with opened_store(settings) as store:
        sink = await open_sink(args.to_store, [task.table for task in tasks])
        try:
            with reporting() as progress:
                done = await extract(
                    store,
                    sink,
                    tasks,
                    low=args.from_epoch,
                    high=args.to_epoch,
                    again=args.again,
                    progress=progress,
                    stop=stop,
                )
        finally:
            await sink.close()
    _tell(done, sink.name)
    return _ENDED if stop.is_set() else DONE


def _tell(done: ExtractReport, name: str) -> None:
    for table, rows in done.rows.items():
        print(f"{table}: {rows:,} rows")
    print(f"{done.tipsets:,} tipsets of epochs {done.low} to {done.high} are in {name}")
    if done.kept:
        print(f"made before: {done.kept:,} tables of a tipset; --again makes them anew")
    if done.withdrawn:
        print(f"withdrawn: {done.withdrawn:,} tables of a tipset, for the chain has another one at their epochs")
    if done.waiting:
        print(f"waiting for the head's child: {done.waiting:,} tables; another run makes them")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which tables, of which epochs, and where to."""
    parser.add_argument(
        "--tasks", default="all", metavar="NAMES", help="tables to make, separated by commas (default all)"
    )
    parser.add_argument(
        "--from", type=_epoch, default=0, metavar="EPOCH", dest="from_epoch", help="the first epoch (default 0)"
    )
    parser.add_argument("--to", type=_epoch, metavar="EPOCH", dest="to_epoch", help="the last epoch (default the head)")
    parser.add_argument(
        "--to-store", required=True, metavar="PLACE", help="parquet:DIR or postgresql://[user@]host[:port]/database"
    )
    parser.add_argument("--again", action="store_true", help="make anew what is there already")


def _epoch(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


COMMAND: Final = Command(
    "extract",
    "Write the chain as tables, for SQL.",
    "follower extract --store lmdb:///var/lib/follower --tasks messages,receipts --to-store parquet:tables",
    run,
    add_arguments,
)
