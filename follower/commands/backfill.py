"""`follower backfill`: make by execution what an imported store lacks, with no node."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from follower.commands.command import DONE, FAILED, Command
from follower.commands.processes import metrics_server, run_until_signal
from follower.executor.child import executor_of
from follower.settings import CannotRun, Settings, shared_options

if TYPE_CHECKING:
    from blockstore.archive.tier import Archives
    from blockstore.store import Store


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Execute until nothing is left, or SIGINT or SIGTERM. Errors: CannotRun (nothing executes), StoreError."""
    return run_until_signal(lambda stop: _backfill(settings, stop))


async def _backfill(settings: Settings, stop: asyncio.Event) -> int:
    from blockstore.open import open_store
    from follower.archives import opened_archives
    from leader_bridge.follow.lease import hold_lease

    shared = replace(shared_options(settings), may_create_tables=True)
    store = await open_store(settings["store"], map_size=settings["map_size_gb"] << 30, shared=shared)
    try:
        lease_seconds = settings["lease_seconds"]
        async with (
            metrics_server(settings["metrics_listen"]),
            opened_archives(settings) as archives,
            hold_lease(store, "backfill", lease_seconds) as term,
        ):
            return await _execute(settings, store, stop, term, archives)
    finally:
        await store.close()


async def _wait_until_fenced(store: Store, term: int, lease_seconds: float) -> None:
    """Return when another leads a shared store; never for one that has no lease: its writes fail then."""
    from blockstore.errors import StoreError
    from leader_bridge.follow.lease import LeaseStore

    while True:
        if isinstance(store, LeaseStore):
            with contextlib.suppress(StoreError):
                if (await store.lease()).term != term:
                    return
        await asyncio.sleep(lease_seconds / 4)


async def _execute(settings: Settings, store: Store, stop: asyncio.Event, term: int, archives: Archives | None) -> int:
    from leader_bridge.execute_past import execute_past
    from leader_bridge.follow.lease import LeaseStore
    from leader_bridge.store.execution import ExecutionDiffers
    from rpc.errors import RpcError

    if not isinstance(store, LeaseStore):
        # a bridge that writes to the same files is fenced
        await store.new_term("backfill")
    lookback = settings["trace_lookback_epochs"] if settings["traces"] == "on" else None
    async with executor_of(settings) as executor:
        if executor is None:
            raise CannotRun(
                "nothing executes here: run `make execution`, or `pip install lotus-follower[execution]`, with the"
                " setting execution not off"
            )
        percent = settings["execution_backfill_percent"]
        working = asyncio.create_task(
            execute_past(store, executor, percent=percent, trace_lookback=lookback, archives=archives)
        )
        stopped = asyncio.create_task(stop.wait())
        fenced = asyncio.create_task(_wait_until_fenced(store, term, settings["lease_seconds"]))
        try:
            await asyncio.wait({working, stopped, fenced}, return_when=asyncio.FIRST_COMPLETED)
            if fenced.done():
                print(f"stopped: term {term} has ended, another leads", flush=True)
                return FAILED
            if not working.done():
                print("stopped; run the same command again to go on", flush=True)
                return DONE
            report = working.result()
        except (ExecutionDiffers, RpcError) as error:
            print(f"stopped: {error}", flush=True)
            return FAILED
        finally:
            for task in (working, stopped, fenced):
                task.cancel()
            await asyncio.gather(working, stopped, fenced, return_exceptions=True)
    print(f"done: {report.lacking} tipsets lack receipts or events; traces of {report.traced} epochs are recorded")
    return DONE


COMMAND: Final = Command(
    "backfill",
    "Make receipts, events and traces that an imported store lacks, by execution.",
    "follower backfill --store lmdb:///var/lib/follower --traces on",
    run,
)
