"""`follower store check`: whether a store is whole, and with --repair mending what is not."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from blockstore.archive.named import archives_of
from follower.commands.command import DONE, FAILED, Command
from follower.commands.processes import run_loop
from follower.commands.store.opening import opened_store
from follower.commands.store.percent import add_percent
from follower.settings import CannotRun, Settings

if TYPE_CHECKING:
    from blockstore.store import Store
    from leader_bridge.store.mirror import Fetcher
    from leader_bridge.upkeep.damage import CheckReport
    from leader_bridge.upkeep.repair import Mender


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Check the store that the settings name; FAILED where something is damaged and was not mended.

    Errors: CannotRun (a repair without a source, or of rows over archives), StoreError.
    """
    if args.repair and not settings["node"] and args.source is None:
        raise CannotRun("--repair needs a source: --node, or --from another store")
    return run_loop(_check(settings, args))


async def _check(settings: Settings, args: argparse.Namespace) -> int:
    import orjson

    from follower.archives import opened_archives
    from leader_bridge.imports.archive_view import ArchiveView
    from leader_bridge.imports.progress import reporting
    from leader_bridge.upkeep.check import check_store
    from leader_bridge.upkeep.damage import CheckReport
    from leader_bridge.upkeep.pace import Pace

    # those that serve go first
    os.nice(10)
    report = CheckReport(tell=None if args.json else lambda damage: print(damage, flush=True))
    async with (
        opened_store(settings, readonly=not args.repair) as store,
        opened_archives(settings) as archives,
        _mender(settings, args, store) as (mender, term),
    ):
        needs_archives = archives is None and args.only != "objects"
        lacking = await archives_of(store) if needs_archives else []
        if lacking:
            raise CannotRun(
                f"rows of the store lead to objects of archives: name them by --archive {','.join(lacking)}"
            )
        reads = None if archives is None else ArchiveView(store, archives, await archives.all(), trusted=True)
        with reporting() as progress:
            await check_store(
                store,
                report,
                mender=mender,
                pace=Pace(args.percent),
                progress=progress,
                objects=args.only in (None, "objects"),
                rows=args.only in (None, "rows"),
                after=args.after,
                term=term,
                reads=reads,
            )
    if args.json:
        told = {"store": settings.shown("store"), "whole": not report.open, **report.to_json()}
        print(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
    else:
        _print_sum(report)
    return FAILED if report.open else DONE


def _print_sum(report: CheckReport) -> None:
    looked = f"{report.objects:,} objects ({report.object_bytes:,} bytes), {report.tipsets:,} tipsets"
    found = sum(report.found.values())
    print(f"checked {looked}, {report.rows:,} rows: {found:,} damages, {found - report.open:,} mended")


@contextlib.asynccontextmanager
async def _mender(
    settings: Settings, args: argparse.Namespace, store: Store
) -> AsyncIterator[tuple[Mender | None, int]]:
    """What mends, and the term under which it does; None without --repair. The process leads meanwhile."""
    if not args.repair:
        yield None, 0
        return
    if not settings["archive"] and args.only != "objects" and (names := await archives_of(store)):
        raise CannotRun(
            f"rows of the store lead to objects that only archives hold ({', '.join(names)}): a repair would fetch them"
            " all, or say that they are not held; name them by --archive, or repair --only objects"
        )
    from leader_bridge.follow.lease import LeaseStore, hold_lease
    from leader_bridge.nodes.sources import Sources
    from leader_bridge.upkeep.repair import FirstOf, Mender, StoreFetcher
    from rpc.client.client import NodeClient
    from rpc.client.node_info import parse_node_info

    async with contextlib.AsyncExitStack() as stack:
        fetchers: list[Fetcher] = []
        if args.source is not None:
            fetchers.append(StoreFetcher(await stack.enter_async_context(opened_store(settings, args.source))))
        if settings["node"]:
            timeout = settings["node_timeout_seconds"]
            sources = Sources([NodeClient(node, timeout=timeout) for node in parse_node_info(settings["node"])])
            stack.push_async_callback(sources.close)
            fetchers.append(sources)
        term = await stack.enter_async_context(hold_lease(store, "repair", settings["lease_seconds"]))
        if not isinstance(store, LeaseStore):
            # a bridge that writes to the same files is fenced
            term = await store.new_term("repair")
        yield Mender(store, FirstOf(fetchers)), term


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is checked, how fast, and what is done about damages."""
    parser.add_argument("--repair", action="store_true", help="mend what can be mended; no bridge may run meanwhile")
    parser.add_argument("--from", dest="source", metavar="STORE", help="another store to repair from")
    parser.add_argument(
        "--only", choices=("objects", "rows"), help="check the objects only, or the rows only (the rows need less time)"
    )
    parser.add_argument(
        "--after",
        type=bytes.fromhex,
        default=b"",
        metavar="POSITION",
        help="go on with the objects behind the position that an earlier check showed last",
    )
    add_percent(parser)
    parser.add_argument("--json", action="store_true", help="print JSON at the end instead of lines")


COMMAND: Final = Command(
    "store check",
    "Check every object and row of a store, and mend what is damaged.",
    "follower store check --store lmdb:///var/lib/follower --repair --node http://127.0.0.1:1234",
    run,
    add_arguments,
)
