"""`follower index walk`: have each tipset of a range worked on."""

from __future__ import annotations

import argparse
import asyncio
from typing import Final

from follower.commands.command import DONE, FAILED, Command
from follower.commands.index.pool import (
    add_here,
    add_range,
    add_tasks,
    asked_tasks,
    finishing,
    given_range,
    pool_store,
    redis_engine,
    take_claims,
    working_here,
)
from follower.commands.processes import run_until_signal
from follower.settings import CannotRun, Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Enqueue the range, or work on it here. FAILED where something is missing afterwards.

    Errors: CannotRun (no queue, no such task, not a range), StoreError.
    """
    if args.claim and not args.here:
        raise CannotRun("--claim goes with --here")
    return run_until_signal(lambda stop: _walk(settings, args, stop))


async def _walk(settings: Settings, args: argparse.Namespace, stop: asyncio.Event) -> int:
    from blockstore.store_clock import wall_ms
    from leader_bridge.imports.progress import reporting
    from leader_bridge.pool.engine import QueueUnavailable
    from leader_bridge.pool.gaps import find_gaps
    from leader_bridge.pool.wanted import Wanted, walk

    found = given_range(args)
    assert found is not None
    span = settings["job_epochs"]
    async with pool_store(settings) as store:
        wanted = Wanted(*found, await asked_tasks(settings, args, store), args.queue, asked_ms=wall_ms())
        with reporting() as progress:
            progress.phase(f"epochs {wanted.low} to {wanted.high}", wanted.high - wanted.low + 1, "epochs")

            def tell(cursor: int) -> None:
                progress.at(cursor - wanted.low)

            if not args.here:
                async with redis_engine(settings) as engine:
                    try:
                        new = await walk(store, engine, wanted, span=span, tell=tell)
                    except QueueUnavailable as error:
                        print(f"{error}; workers go on with this range when the queue is there again", flush=True)
                        return FAILED
                print(f"{new:,} jobs enqueued for epochs {wanted.low} to {wanted.high}")
                return DONE
            async with working_here(settings, store, [wanted.queue], args.concurrency) as here, finishing(here, stop):
                walking = asyncio.create_task(walk(store, here, wanted, span=span, tell=tell))
                stopped = asyncio.create_task(stop.wait())
                await asyncio.wait({walking, stopped}, return_when=asyncio.FIRST_COMPLETED)
                for one in (walking, stopped):
                    one.cancel()
                await asyncio.gather(stopped, return_exceptions=True)
                if not stop.is_set():
                    await walking
        if stop.is_set():
            print("stopped; run the same command again to go on", flush=True)
            return DONE
        if args.claim:
            await take_claims(settings, store)
        gaps = await find_gaps(store, wanted.low, wanted.high, wanted.tasks)
    print(f"epochs {wanted.low} to {wanted.high} are done; {len(gaps):,} of them lack something", flush=True)
    return FAILED if gaps else DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The range, the class, and where the work is done."""
    add_tasks(parser)
    add_range(parser, required=True)
    parser.add_argument("--queue", choices=("walk", "index"), default="walk", help="the class of the jobs")
    add_here(parser)


COMMAND: Final = Command(
    "index walk",
    "Have each tipset of a range worked on by the pool, or here.",
    "follower index walk 0 2880 --tasks events,eth_hashes --store lmdb:///var/lib/follower --here",
    run,
    add_arguments,
)
