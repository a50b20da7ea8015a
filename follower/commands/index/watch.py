"""`follower index watch`: have each new tipset worked on, once enough others stand on it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from blockstore.background import in_background
from follower.commands.command import DONE, Command
from follower.commands.index.pool import add_concurrency, add_tasks, asked_tasks, pool_store, redis_engine, working_here
from follower.commands.processes import metrics_server, run_until_signal
from follower.settings import Settings

if TYPE_CHECKING:
    from blockstore.store import Store
    from leader_bridge.pool.engine import Engine

log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 2.0


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Watch until SIGINT or SIGTERM. Errors: CannotRun (no queue, no such task), StoreError."""
    return run_until_signal(lambda stop: _watch(settings, args, stop))


async def _watch(settings: Settings, args: argparse.Namespace, stop: asyncio.Event) -> int:
    from leader_bridge.pool.job import FILL, WATCH
    from leader_bridge.pool.service import find_repeatedly

    async with (
        metrics_server(settings["metrics_listen"]),
        pool_store(settings) as store,
        contextlib.AsyncExitStack() as stack,
    ):
        if not args.here:
            await _follow(settings, args, store, await stack.enter_async_context(redis_engine(settings)), stop)
            return DONE
        engine = await stack.enter_async_context(working_here(settings, store, [WATCH, FILL], args.concurrency))
        finding = in_background(find_repeatedly(store, engine, span=settings["job_epochs"]), "the search for gaps")
        try:
            await _follow(settings, args, store, engine, stop)
        finally:
            finding.cancel()
            await asyncio.gather(finding, return_exceptions=True)
    return DONE


async def _follow(
    settings: Settings, args: argparse.Namespace, store: Store, engine: Engine, stop: asyncio.Event
) -> None:
    from blockstore.errors import StoreUnavailable
    from leader_bridge.pool.engine import QueueUnavailable
    from leader_bridge.pool.watch import Watcher

    tasks = await asked_tasks(settings, args, store)
    while not stop.is_set():
        watcher = Watcher(store, engine, tasks, confidence=settings["confidence"])
        try:
            await watcher.run(stop)
        except (StoreUnavailable, QueueUnavailable) as error:
            log.warning("the pool does not watch for now: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _RETRY_SECONDS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the work is done."""
    parser.add_argument("--here", action="store_true", help="work in this process, without a queue")
    add_tasks(parser)
    add_concurrency(parser)


COMMAND: Final = Command(
    "index watch",
    "Have each new tipset worked on, once enough others stand on it.",
    "follower index watch --tasks events --store lmdb:///var/lib/follower --redis redis://127.0.0.1:6379/0",
    run,
    add_arguments,
)
