"""`follower sync`: the command itself."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from follower.commands import bridge
from follower.commands.command import DONE, FAILED, Command
from follower.commands.import_car import work_folder
from follower.commands.processes import metrics_server, run_until_signal
from follower.commands.sync.sources import (
    car_files,
    node_texts,
    open_sources,
    shard_folders,
    shard_keepers,
    source_finder,
    split_sources,
)
from follower.settings import CannotRun, Settings, shared_options

if TYPE_CHECKING:
    from blockstore.store import Store
    from leader_bridge.imports.progress import Reporter
    from leader_bridge.sync.pool import Pool
    from leader_bridge.sync.run import SyncOptions

#: seconds before the next try, when the store has no room or does not answer
_AGAIN_SECONDS: Final = 15.0


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Fill the store, then go on as its bridge. Errors: CannotRun (the sources), StoreError, ChainError, OSError."""
    from blockstore.shards.erasure import is_available

    sources = split_sources(args.sources)
    if (shard_folders(sources) or shard_keepers(sources)) and not is_available():
        # said now: later it would look like a store that does not answer
        raise CannotRun("shards need pyeclib: pip install 'lotus-follower[dispersal]'")
    done = run_until_signal(lambda stop: _sync(settings, args, sources, stop))
    if done is not DONE or args.once or args.was_stopped:
        return done
    if not settings["node"]:
        settings = settings.with_value("node", ",".join(node_texts(sources)), "--from")
    return bridge.follow(settings)


async def _sync(settings: Settings, args: argparse.Namespace, sources: list[str], stop: asyncio.Event) -> int:
    from leader_bridge.sync.discovery import looking_for_sources
    from leader_bridge.sync.pool import Pool

    args.was_stopped = False
    async with metrics_server(settings["metrics_listen"]):
        pool = Pool(
            open_sources(settings, sources),
            in_all=settings["sync_requests_in_all"],
            per_source=settings["sync_requests_per_second"],
        )
        async with pool.running(), looking_for_sources(pool, source_finder(settings, args.sources)):
            working = asyncio.create_task(_fill(settings, args, pool, sources))
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    return working.result()
                args.was_stopped = True
                print("stopped; run the same command again to go on", flush=True)
                return DONE
            finally:
                for task in (working, stopped):
                    task.cancel()
                await asyncio.gather(working, stopped, return_exceptions=True)


def sync_options(settings: Settings, args: argparse.Namespace) -> SyncOptions:
    """What is filled, as the settings say."""
    from leader_bridge.retention.policy import Policy
    from leader_bridge.sync.run import SyncOptions

    return SyncOptions(
        from_epoch=args.from_epoch,
        with_state=settings["state"] == "full",
        states=max(0, args.states),
        actor_code=settings["mirror_actor_code"],
        policy=Policy(settings["keep_state_epochs"], settings["keep_message_epochs"], settings["keep_index_epochs"]),
        lease_seconds=settings["lease_seconds"],
    )


async def _read_files(settings: Settings, store: Store, pool: Pool, sources: list[str], progress: Reporter) -> None:
    """Store the objects of CAR files, before anything else is asked for: what they hold need not be asked for.

    Errors: CannotRun (the shards of a file are too few, or not its own), StoreError, OSError.
    """
    from blockstore.shards.erasure import BadShards
    from blockstore.shards.files import join_files
    from leader_bridge.imports.importer import import_car
    from leader_bridge.sync.checkpoint import load_checkpoint
    from leader_bridge.sync.shards import files_of_shards

    if await load_checkpoint(store) is not None:
        # a filling that has begun has read them
        return
    files, joined = car_files(sources), []
    if folders := shard_folders(sources):
        progress.say(f"putting files together from shards in {', '.join(map(str, folders))}")
        try:
            joined = await asyncio.to_thread(join_files, folders, work_folder(settings, "joined"))
        except BadShards as error:
            raise CannotRun(str(error)) from None
    fetched = work_folder(settings, "shards")
    if keepers := shard_keepers(sources):
        files += await files_of_shards(pool, keepers, fetched, progress)
    for file in [*files, *joined]:
        await import_car(store, file, index=False, progress=progress, lease_seconds=settings["lease_seconds"])
    for file in joined:
        file.unlink()
    await asyncio.to_thread(shutil.rmtree, fetched, ignore_errors=True)


async def _fill(settings: Settings, args: argparse.Namespace, pool: Pool, sources: list[str]) -> int:
    from blockstore.bridge_rows import FILLING, BridgeRow, NodeStanding
    from blockstore.errors import StoreFull, StoreUnavailable
    from blockstore.open import open_store
    from leader_bridge.announcement import announced
    from leader_bridge.imports.progress import reporting
    from leader_bridge.sync.run import describe_sources, sync_store
    from leader_bridge.sync.stage_progress import StageProgress

    shared = replace(shared_options(settings), may_create_tables=True)
    name = f"{socket.gethostname()}:{os.getpid()}"
    with reporting() as shown:
        progress = StageProgress(shown)

        def standing(one: str) -> NodeStanding:
            found = pool.standings[one]
            word = "left alone" if pool.cooldown_seconds(one) >= 1 else "usable"
            return NodeStanding(one, "refused" if found.refusal else word, found.failures, found.bad)

        def describe() -> BridgeRow:
            nodes = tuple(standing(one) for one in pool.standings)
            return BridgeRow(name, True, policy=settings["state"], stopped=f"{FILLING}{progress.text}", nodes=nodes)

        while True:
            try:
                store = await open_store(
                    settings["store"], map_size=settings["map_size_gb"] << 30, bulk=True, shared=shared
                )
                try:
                    async with announced(store, describe):
                        await _read_files(settings, store, pool, sources, progress)
                        done = await sync_store(store, pool, sync_options(settings, args), progress)
                        break
                finally:
                    with contextlib.suppress(StoreUnavailable, StoreFull):
                        await store.close()
            except (StoreFull, StoreUnavailable) as error:
                shown.say(f"{error}; going on in {_AGAIN_SECONDS:g} s from where it stopped")
                await asyncio.sleep(_AGAIN_SECONDS)
    for line in describe_sources(pool):
        print(line)
    print(
        f"filled {done.tipsets:,} tipsets into {settings.shown('store')}; the head is at epoch {done.height}",
        flush=True,
    )
    return DONE if done.height >= 0 else FAILED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sources, and how far."""
    parser.add_argument(
        "--from",
        dest="sources",
        required=True,
        metavar="SOURCES",
        help="separated by commas: http(s)://HOST:PORT of followers of other stores (they need range_tokens_file), and "
        "node:NODE for full nodes (as in the setting node); shards:http(s)://HOST:PORT for followers that keep shards "
        "of files too; and CAR files, or folders of their shards, whose objects are read first; "
        "list:FILE for a list of followers and nodes, which is read again",
    )
    parser.add_argument(
        "--from-epoch", type=int, metavar="EPOCH", help="the lowest epoch (default: all that the sources hold)"
    )
    parser.add_argument(
        "--states", type=int, default=900, metavar="EPOCHS", help="states below the head that are filled too (900)"
    )
    parser.add_argument("--once", action="store_true", help="end when the store is filled, and do not go on as bridge")


COMMAND: Final = Command(
    "sync",
    "Fill a store from many followers and nodes at once, then keep it as `follower bridge` does.",
    "follower sync --from http://follower1:1234,http://follower2:1234 --sync-token-file token "
    "--store lmdb:///var/lib/follower",
    run,
    add_arguments,
)
