"""`follower index fill`: have what is missing done."""

from __future__ import annotations

import argparse
import asyncio
from typing import Final

from follower.commands.command import DONE, FAILED, Command
from follower.commands.index.find import gaps_of
from follower.commands.index.pool import (
    add_here,
    add_range,
    add_tasks,
    finishing,
    pool_store,
    redis_engine,
    take_claims,
    working_here,
)
from follower.commands.processes import run_until_signal
from follower.settings import CannotRun, Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Enqueue the gaps, or fill them here. FAILED where something is missing after --here.

    Errors: CannotRun (no queue, not a range), BadRequest (the head is below the range), StoreError.
    """
    if args.claim and not args.here:
        raise CannotRun("--claim goes with --here")
    return run_until_signal(lambda stop: _fill(settings, args, stop))


async def _fill(settings: Settings, args: argparse.Namespace, stop: asyncio.Event) -> int:
    from leader_bridge.pool.engine import QueueUnavailable
    from leader_bridge.pool.job import FILL
    from leader_bridge.pool.wanted import fill

    span = settings["job_epochs"]
    async with pool_store(settings) as store:
        gaps = await gaps_of(store, settings, args)
        if not args.here:
            async with redis_engine(settings) as engine:
                try:
                    new = await fill(engine, gaps, span=span)
                except QueueUnavailable as error:
                    print(error, flush=True)
                    return FAILED
            print(f"{new:,} jobs enqueued for {len(gaps):,} epochs that lack something")
            return DONE
        async with working_here(settings, store, [FILL], args.concurrency) as here, finishing(here, stop):
            await fill(here, gaps, span=span)
        if stop.is_set():
            print("stopped; run the same command again to go on", flush=True)
            return DONE
        if args.claim:
            await take_claims(settings, store)
        left = await gaps_of(store, settings, args)
    print(f"{len(gaps):,} epochs lacked something; {len(left):,} still do", flush=True)
    return FAILED if left else DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The range, and where the work is done."""
    add_tasks(parser)
    add_range(parser, required=False)
    add_here(parser)


COMMAND: Final = Command(
    "index fill",
    "Have done what the pool has not done yet.",
    "follower index fill 0 2880 --store lmdb:///var/lib/follower --here",
    run,
    add_arguments,
)
