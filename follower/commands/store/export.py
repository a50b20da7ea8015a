"""`follower store export FILE`: a snapshot of the store's chain, as full nodes write it."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from follower.commands.command import DONE, Command
from follower.commands.processes import run_until_signal
from follower.commands.store.opening import opened_store
from follower.commands.store.percent import add_percent
from follower.settings import CannotRun, Settings

if TYPE_CHECKING:
    from blockstore.store import Store
    from leader_bridge.exports.exporter import ExportReport
    from leader_bridge.exports.scope import Scope
    from leader_bridge.imports.progress import Reporter

#: exit code of a command that a signal ended
_ENDED: Final = 130
#: serving processes come first
_NICE: Final = 10
_FORMS: Final = ("forest", "zstd", "car")


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Write one snapshot, or one after another. Errors: StoreError, ChainError, CannotRun, OSError."""
    if args.every is None:
        if args.keep:
            raise CannotRun("--keep is for snapshots on a schedule: give --every too")
        if args.path.exists() and not args.force:
            raise CannotRun(f"{args.path} exists already: --force replaces it when the new one is whole")
    elif args.diff is not None or args.tipset is not None:
        raise CannotRun("a schedule exports the head: --every goes neither with --tipset nor with --diff")
    os.nice(_NICE)
    # a schedule has no end of its own
    ended = _ENDED if args.every is None else DONE
    return run_until_signal(lambda stop: _until(stop, _export(settings, args, stop), ended))


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, int], ended: int) -> int:
    """Run `work`. A signal cancels it, so that it cleans up; the exit code is `ended` then."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
        return ended if working.cancelled() else working.result()
    finally:
        stopping.cancel()


async def _export(settings: Settings, args: argparse.Namespace, stop: asyncio.Event) -> int:
    from leader_bridge.exports.schedule import export_on_schedule, parse_interval
    from leader_bridge.imports.progress import reporting

    interval = None if args.every is None else parse_interval(args.every)
    async with opened_store(settings) as store:
        with reporting() as progress:
            if interval is None:
                done = await _one(store, args, args.path, progress)
            else:
                args.path.mkdir(parents=True, exist_ok=True)
                await export_on_schedule(
                    store,
                    args.path,
                    interval,
                    lambda: _next(store, args, progress),
                    stop,
                    keep=args.keep,
                    progress=progress,
                )
                return DONE
    print(f"exported {done.objects:,} objects, {done.size:,} bytes, to {done.path}")
    print(f"head at epoch {done.height}: {done.head}")
    print(f"sha256 {done.sha256}")
    return DONE


async def _next(store: Store, args: argparse.Namespace, progress: Reporter) -> ExportReport | None:
    """The next snapshot of a schedule; None where the chain has not grown."""
    from blockstore.car.snapshot_forms import Form
    from leader_bridge.exports.schedule import snapshot_name

    scope = await _scope(store, args)
    path = args.path / await snapshot_name(store, scope.head, Form[args.form.upper()])
    return None if path.exists() else await _one(store, args, path, progress, scope)


async def _scope(store: Store, args: argparse.Namespace) -> Scope:
    from leader_bridge.exports.scope import FINALITY, snapshot_scope

    scope = await snapshot_scope(
        store,
        state_roots=args.state_roots,
        tipset=args.tipset,
        lowest=args.from_epoch,
        skip_old_messages=args.skip_old_messages,
        base=args.diff,
    )
    least = min(FINALITY, scope.head.height)
    if args.state_roots < least and args.diff is None:
        raise CannotRun(f"--state-roots {args.state_roots}: no full node starts from fewer than {least} states")
    return scope


async def _one(
    store: Store, args: argparse.Namespace, path: Path, progress: Reporter, scope: Scope | None = None
) -> ExportReport:
    from leader_bridge.exports.exporter import export_snapshot
    from leader_bridge.upkeep.pace import Pace

    scope = scope or await _scope(store, args)
    if args.from_epoch:
        progress.say(f"the headers end at epoch {args.from_epoch}: no full node starts from such a file")
    return await export_snapshot(store, path, scope, version=args.format, pace=Pace(args.percent), progress=progress)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, what it holds, and the schedule."""
    parser.add_argument(
        "path",
        type=Path,
        metavar="FILE",
        help="the file: .car, .car.zst or .forest.car.zst, which tells its form; with --every, a folder",
    )
    parser.add_argument(
        "--state-roots", type=_count, default=2000, metavar="N", help="epochs of states below the head (default 2000)"
    )
    parser.add_argument(
        "--tipset", type=_count, metavar="EPOCH", help="export the chain below this epoch, not the head"
    )
    parser.add_argument(
        "--from", type=_count, default=0, metavar="EPOCH", dest="from_epoch", help="leave out headers below this epoch"
    )
    parser.add_argument(
        "--skip-old-messages", action="store_true", help="messages of those epochs only whose states are in the file"
    )
    parser.add_argument("--diff", type=_count, metavar="EPOCH", help="only what a snapshot at this epoch does not hold")
    parser.add_argument("--format", type=int, choices=(1, 2), default=1, help="2: with a metadata block (FRC-0108)")
    add_percent(parser)
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    parser.add_argument("--every", metavar="INTERVAL", help="go on, one after another: 12h, 1d, 2880epochs")
    parser.add_argument("--keep", type=_count, default=0, metavar="N", help="with --every: keep the newest N files")
    parser.add_argument(
        "--form", choices=_FORMS, default="forest", help="with --every: the form of the files (default forest)"
    )


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


COMMAND: Final = Command(
    "store export",
    "Write a snapshot of the store's chain.",
    "follower store export --store lmdb:///var/lib/follower snapshot.forest.car.zst",
    run,
    add_arguments,
)
