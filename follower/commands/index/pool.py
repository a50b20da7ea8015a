"""What the subcommands of the pool share: its tasks, its queue, a worker in this process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

from follower.commands.store.opening import opened_store
from follower.setting_groups.pool import split_names
from follower.settings import CannotRun, Settings

if TYPE_CHECKING:
    from blockstore.store import Store
    from leader_bridge.pool.embedded import EmbeddedEngine
    from leader_bridge.pool.engine import Engine
    from leader_bridge.pool.worker import Worker

_MOST_SLOTS: Final = 1024
_NO_QUEUE: Final = "there is no queue: name one by --redis, or give --here to work in this process"


async def asked_tasks(settings: Settings, args: argparse.Namespace, store: Store) -> tuple[str, ...]:
    """The tasks that `--tasks` names, with their places. Errors: CannotRun (one is not there, or cannot be done)."""
    from leader_bridge.pool.tasks import ALL, DEFAULT
    from leader_bridge.pool.tasks.moving import WARM, placed
    from leader_bridge.pool.tasks.tables import NAMES
    from leader_bridge.pool.tasks.task import CannotDo

    names = split_names(args.tasks or ",".join(DEFAULT))
    unknown = [name for name in names if name not in ALL and name not in NAMES]
    if unknown:
        raise CannotRun(f"there is no task {unknown[0]}; there are {', '.join((*ALL, *NAMES))}")
    if WARM in names and not getattr(args, "here", True):
        raise CannotRun("warm fills the cache of one machine: give --here on that machine")
    try:
        return await placed(store, names, settings["tables_store"])
    except CannotDo as error:
        raise CannotRun(str(error)) from None


@contextlib.asynccontextmanager
async def redis_engine(settings: Settings) -> AsyncIterator[Engine]:
    """The queue on Redis. Errors: CannotRun (none is named, or its libraries are not installed)."""
    if not settings["redis"]:
        raise CannotRun(_NO_QUEUE)
    try:
        from leader_bridge.pool.redis_engine import RedisEngine
    except ModuleNotFoundError as error:
        raise CannotRun(f"{error.name} is not installed: pip install lotus-follower[workers]") from None
    engine = RedisEngine(settings["redis"], job_seconds=settings["job_seconds"])
    try:
        yield engine
    finally:
        await engine.close()


@contextlib.asynccontextmanager
async def opened_worker(settings: Settings, store: Store, engine: Engine) -> AsyncIterator[Worker]:
    """A worker of this process for a queue, with all tasks that can be done here.

    Errors: CannotRun, BadCar, StoreError.
    """
    from follower.archives import opened_archives
    from follower.executor.child import executor_of
    from follower.object_tier.open import open_object_tier
    from leader_bridge.nodes.sources import Sources
    from leader_bridge.pool.tasks import bound_tasks
    from leader_bridge.pool.tasks.tables import open_tables, table_tasks
    from leader_bridge.pool.tasks.task import TaskContext
    from leader_bridge.pool.worker import Worker
    from rpc.client.client import NodeClient
    from rpc.client.node_info import parse_node_info

    async with opened_archives(settings) as archives, contextlib.AsyncExitStack() as stack:
        executor = None
        # one of its own costs each process some time and memory: only where somebody asks for it
        if settings["execution"] == "on" or settings["executor_socket"]:
            executor = await stack.enter_async_context(executor_of(settings))
        sources = None
        if settings["node"]:
            timeout = settings["node_timeout_seconds"]
            sources = Sources([NodeClient(node, timeout=timeout) for node in parse_node_info(settings["node"])])
            stack.push_async_callback(sources.close)
        reads = None
        if archives is not None:
            from blockstore.archive.tier import ArchivedObjects

            reads = ArchivedObjects(store, archives)
        context = TaskContext(
            store, reads, executor, None if sources is None else sources.all[0].client, fetcher=sources
        )
        tier = await open_object_tier(settings, reads or store)
        if tier is not None:
            stack.push_async_callback(tier.close)
            context.near = tier.objects
        # random: a process that is started again is another worker
        name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(2)}"
        tasks = bound_tasks(context)
        withdraw = None
        if settings["tables_store"]:
            jobs = await open_tables(settings["tables_store"])
            stack.push_async_callback(jobs.close)
            tasks.update(table_tasks(jobs, settings["tables_store"]))
            withdraw = jobs.withdraw
        yield Worker(
            context,
            tasks,
            name,
            job_seconds=settings["job_seconds"],
            on_null_round=withdraw,
            still_holds=engine.still_holds,
        )


@contextlib.asynccontextmanager
async def pool_store(settings: Settings, *, readonly: bool = False) -> AsyncIterator[Store]:
    """The store that the settings name. Reports are written to it, unless `readonly`. Errors: StoreError."""
    async with opened_store(settings, readonly=readonly) as store:
        yield store


@contextlib.asynccontextmanager
async def working_here(
    settings: Settings, store: Store, queues: Sequence[str], concurrency: int
) -> AsyncIterator[EmbeddedEngine]:
    """A queue and a worker inside this process, while the block runs. What is enqueued is done at the end of the block.

    Errors: as `opened_worker`.
    """
    from leader_bridge.pool.embedded import EmbeddedEngine
    from leader_bridge.pool.job import slots_of

    engine = EmbeddedEngine()
    stop = asyncio.Event()
    async with opened_worker(settings, store, engine) as worker:
        running = asyncio.create_task(engine.run(worker.handle, slots_of(queues, concurrency), stop))
        try:
            yield engine
        finally:
            stop.set()
            await running


@contextlib.asynccontextmanager
async def finishing(engine: EmbeddedEngine, stop: asyncio.Event) -> AsyncIterator[None]:
    """Behind the block, wait until all that was enqueued is done, or `stop` is set."""
    yield
    joined = asyncio.create_task(engine.join())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({joined, stopped}, return_when=asyncio.FIRST_COMPLETED)
    for one in (joined, stopped):
        one.cancel()


async def take_claims(settings: Settings, store: Store) -> int:
    """Say what indices cover now, as the leader: no bridge writes meanwhile. How many reports count. Errors:
    StoreError, ChainError."""
    from leader_bridge.follow.lease import LeaseStore, hold_lease
    from leader_bridge.nodes.no_nodes import NoNodes
    from leader_bridge.pool.claims import Claims
    from leader_bridge.store.mirror import Mirror
    from leader_bridge.store.tipset_writer import TipsetWriter

    async with hold_lease(store, "index", settings["lease_seconds"]):
        if not isinstance(store, LeaseStore):
            # a bridge that writes to the same files is fenced
            await store.new_term("index")
        return await Claims(store, TipsetWriter(store, Mirror(store, NoNodes()))).once()


def add_here(parser: argparse.ArgumentParser) -> None:
    """The flags of work in this process."""
    parser.add_argument("--here", action="store_true", help="work in this process, without a queue")
    add_concurrency(parser)
    parser.add_argument(
        "--claim",
        action="store_true",
        help="with --here: say at the end what indices cover; no bridge may run meanwhile. A bridge does so by itself",
    )


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """What is done."""
    parser.add_argument(
        "--tasks", metavar="NAMES", help="what is done to each tipset, separated by commas (messages,eth_hashes,events)"
    )


def add_concurrency(parser: argparse.ArgumentParser) -> None:
    """How many jobs are done at once."""
    parser.add_argument(
        "--concurrency", type=_slots, default=10, metavar="N", help="jobs that are done at once (default 10)"
    )


def _slots(text: str) -> int:
    count = int(text)
    if not 1 <= count <= _MOST_SLOTS:
        raise argparse.ArgumentTypeError(f"must be from 1 to {_MOST_SLOTS}")
    return count


def add_range(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """FROM and TO."""
    count = None if required else "?"
    parser.add_argument("low", nargs=count, type=int, metavar="FROM", help="the first epoch")
    parser.add_argument("high", nargs=count, type=int, metavar="TO", help="the last epoch")


def given_range(args: argparse.Namespace) -> tuple[int, int] | None:
    """FROM and TO, where they are given. Errors: CannotRun (not a range)."""
    if args.low is None:
        return None
    if args.high is None or not 0 <= args.low <= args.high:
        raise CannotRun("give FROM and TO, with 0 <= FROM <= TO")
    return args.low, args.high
