"""`follower index status`: workers, the queue, and the ranges that were asked for."""

from __future__ import annotations

import argparse
from typing import Any, Final

from follower.commands.command import DONE, Command
from follower.commands.index.pool import pool_store, redis_engine
from follower.commands.processes import run_loop
from follower.settings import Settings

#: seconds without a sign after which a worker counts as gone
_SILENT_SECONDS: Final = 15.0


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Print what the pool does. Errors: StoreError, CannotRun (the queue's libraries are not installed)."""
    return run_loop(_status(settings, args))


async def _status(settings: Settings, args: argparse.Namespace) -> int:
    from dataclasses import asdict

    import orjson

    from blockstore.pool_rows import read_workers
    from blockstore.store_clock import wall_ms
    from leader_bridge.pool.engine import QueueUnavailable
    from leader_bridge.pool.wanted import load_wanted

    told: dict[str, Any] = {"queue": None, "trouble": ""}
    async with pool_store(settings, readonly=True) as store:
        if settings["redis"]:
            async with redis_engine(settings) as engine:
                try:
                    told["queue"] = {name: asdict(one) for name, one in (await engine.waiting()).items()}
                except QueueUnavailable as error:
                    told["trouble"] = str(error)
        now = wall_ms()
        told["workers"] = [
            {**asdict(row), "silent_seconds": max(0.0, (now - row.written_ms) / 1000)}
            for row in await read_workers(store)
        ]
        told["ranges"] = [asdict(wanted) for wanted in await load_wanted(store)]
    if args.json:
        print(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
    else:
        _print(told)
    return DONE


def _print(told: dict[str, Any]) -> None:
    if told["trouble"]:
        print(told["trouble"])
    for name, one in (told["queue"] or {}).items():
        print(f"queue    {name:<6} {one['waiting']:>9,} waiting, {one['taken']:,} taken")
    for row in told["workers"]:
        gone = ", no sign" if row["silent_seconds"] > _SILENT_SECONDS else ""
        slots = ", ".join(f"{name} {count}" for name, count in row["slots"].items())
        jobs = f"{row['done']:,} jobs done, {row['failed']:,} failed, {row['deferred']:,} put off"
        print(f"worker   {row['name']}: {jobs} (slots: {slots}){gone}")
    if not told["workers"]:
        print("worker   none")
    for one in told["ranges"]:
        end = "complete" if one["complete"] else f"enqueued to epoch {one['cursor'] - 1}"
        kind = "watched" if one["watched"] else one["queue"]
        print(f"range    {one['low']} to {one['high']} ({kind}): {', '.join(one['tasks'])}: {end}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The form of the answer."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


COMMAND: Final = Command(
    "index status",
    "Show the workers of the pool, its queue, and the ranges asked for.",
    "follower index status --store lmdb:///var/lib/follower --redis redis://127.0.0.1:6379/0",
    run,
    add_arguments,
)
