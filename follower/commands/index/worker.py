"""`follower worker`: do the jobs of the pool's queue."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Final

from follower.commands.command import DONE, Command
from follower.commands.index.pool import add_concurrency, opened_worker, pool_store, redis_engine
from follower.commands.processes import metrics_server, run_until_signal
from follower.setting_groups.pool import split_names
from follower.settings import CannotRun, Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Work until SIGINT or SIGTERM; jobs under way are finished then.

    Errors: CannotRun (no queue, no such class), StoreError.
    """
    return run_until_signal(lambda stop: _work(settings, stop, args.concurrency))


async def _work(settings: Settings, stop: asyncio.Event, concurrency: int) -> int:
    from leader_bridge.pool.job import SHARES, slots_of
    from leader_bridge.pool.service import serve

    queues = split_names(settings["queues"])
    unknown = [name for name in queues if name not in SHARES]
    if unknown:
        raise CannotRun(f"there is no class {unknown[0]}; there are {', '.join(SHARES)}")
    slots = slots_of(queues, concurrency)
    # those that serve go first
    os.nice(5)
    async with (
        metrics_server(settings["metrics_listen"]),
        pool_store(settings) as store,
        redis_engine(settings) as engine,
        opened_worker(settings, store, engine) as worker,
    ):
        told = ", ".join(f"{name} {count}" for name, count in slots.items())
        print(f"worker {worker.name} takes jobs of {settings.shown('redis')} (slots: {told})", flush=True)
        await serve(
            store,
            engine,
            worker,
            slots,
            stop,
            find_seconds=settings["find_seconds"],
            span=settings["job_epochs"],
        )
    print("stopped", flush=True)
    return DONE


COMMAND: Final = Command(
    "worker",
    "Do the jobs of the pool's queue.",
    "follower worker --queues watch,fill --concurrency 10 --store lmdb:///var/lib/follower"
    " --redis redis://127.0.0.1:6379/0",
    run,
    add_concurrency,
)
