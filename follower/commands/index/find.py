"""`follower index find`: what the pool has not done yet."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from follower.commands.command import DONE, FAILED, Command
from follower.commands.index.pool import add_range, add_tasks, asked_tasks, given_range, pool_store
from follower.commands.processes import run_loop
from follower.settings import Settings

if TYPE_CHECKING:
    from blockstore.store import Store
    from leader_bridge.pool.gaps import Gaps

#: gaps that are printed one by one
_MOST_LINES: Final = 50


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Print the gaps of a range, or of all ranges that were asked for; FAILED where there are some.

    Errors: CannotRun, BadRequest (the head is below the range), StoreError.
    """
    return run_loop(_find(settings, args))


async def gaps_of(store: Store, settings: Settings, args: argparse.Namespace) -> Gaps:
    """The gaps of FROM to TO for `--tasks`; without FROM and TO those of all ranges asked for."""
    from leader_bridge.pool.gaps import find_gaps
    from leader_bridge.pool.wanted import load_wanted

    found = given_range(args)
    if found is not None:
        return await find_gaps(store, *found, await asked_tasks(settings, args, store))
    head = await store.head()
    missing: dict[int, dict[str, None]] = {}
    for wanted in await load_wanted(store):
        high = min(wanted.high, -1 if head is None else head.head.height)
        if high >= wanted.low:
            for height, tasks in await find_gaps(store, wanted.low, high, wanted.tasks):
                missing.setdefault(height, {}).update(dict.fromkeys(tasks))
    return [(height, tuple(missing[height])) for height in sorted(missing)]


async def _find(settings: Settings, args: argparse.Namespace) -> int:
    import orjson

    async with pool_store(settings, readonly=True) as store:
        gaps = await gaps_of(store, settings, args)
    if args.json:
        told: list[dict[str, Any]] = [{"height": height, "tasks": tasks} for height, tasks in gaps]
        print(orjson.dumps(told).decode())
        return FAILED if gaps else DONE
    for height, tasks in gaps[:_MOST_LINES]:
        print(f"epoch {height}: {', '.join(tasks)}")
    if len(gaps) > _MOST_LINES:
        print(f"and {len(gaps) - _MOST_LINES:,} more epochs")
    print(f"{len(gaps):,} epochs lack something", flush=True)
    return FAILED if gaps else DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The range, and the form of the answer."""
    add_tasks(parser)
    add_range(parser, required=False)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


COMMAND: Final = Command(
    "index find",
    "Find tipsets for which the pool has not done a task.",
    "follower index find 0 2880 --tasks events --store lmdb:///var/lib/follower",
    run,
    add_arguments,
)
