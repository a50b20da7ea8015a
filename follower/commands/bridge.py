"""`follower bridge`: follow a full node and keep the store."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from follower.commands.command import Command
from follower.commands.processes import metrics_server, run_until_signal
from follower.executor.child import executor_of
from follower.settings import CannotRun, Settings, shared_options

if TYPE_CHECKING:
    from blockstore.store import Store
    from leader_bridge.bridge import Bridge
    from leader_bridge.dispersal.heads import HeadDispersal
    from leader_bridge.settings import BridgeSettings
    from rpc.executor import Executor


#: settings that need an executor, and the values with which they do not
_IDLE: Final = {"verify": ("off",), "execution_backfill": ("off", "auto")}


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Follow until SIGINT or SIGTERM. Errors: CannotRun (no node is named), StoreError, OSError."""
    if not settings["node"]:
        raise CannotRun("no node to follow: give --node, FULLNODE_API_INFO, or 'node' in the settings file")
    return follow(settings, args.accept_reorg_below_finality)


def follow(settings: Settings, accepts_reorg_below_finality: bool = False) -> int:
    """Follow `node` until SIGINT or SIGTERM. Errors: as `run`."""
    return run_until_signal(lambda stop: _follow(settings, stop, accepts_reorg_below_finality))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that are no settings."""
    parser.add_argument(
        "--accept-reorg-below-finality",
        action="store_true",
        help="publish one reorg that reverts what is final; used up by it",
    )


def bridge_settings(settings: Settings, owner: str) -> BridgeSettings:
    """What the bridge takes of the settings. `owner`: the name of this process in the lease."""
    from leader_bridge.settings import BridgeSettings

    return BridgeSettings(
        state=settings["state"],
        backfill_epochs=settings["backfill_epochs"],
        actor_code=settings["mirror_actor_code"],
        network_file=Path(settings["network_file"]) if settings["network_file"] else None,
        fetch_concurrency=settings["fetch_concurrency"],
        fetch_batch=settings["fetch_batch"],
        node_timeout_seconds=settings["node_timeout_seconds"],
        poll_interval_seconds=settings["poll_interval_seconds"],
        traces=settings["traces"] == "on",
        trace_lookback_epochs=settings["trace_lookback_epochs"],
        executes_past=settings["execution_backfill"] != "off",
        backfill_percent=settings["execution_backfill_percent"],
        verify=settings["verify"],
        verify_one_in=settings["verify_one_in"],
        owner=owner,
        keep_state_epochs=settings["keep_state_epochs"],
        keep_message_epochs=settings["keep_message_epochs"],
        keep_index_epochs=settings["keep_index_epochs"],
        retention_rate=settings["retention_rate"],
        read_through_fill_epochs=settings["read_through_fill_epochs"],
        read_through_free_bytes=settings["read_through_free_gb"] << 30,
    )


async def _follow(settings: Settings, stop: asyncio.Event, accepts_reorg_below_finality: bool) -> int:
    from blockstore.bridge_rows import BridgeRow, LoggedError
    from blockstore.open import open_store
    from follower.administration.bridge import BridgeControl
    from follower.administration.endpoint import BRIDGE, administered, check_endpoint
    from follower.administration.group import OwnProcess
    from follower.archives import open_archives
    from follower.logs.recent_errors import watch_log
    from leader_bridge.announcement import announced, bridge_row
    from leader_bridge.bridge import Bridge
    from leader_bridge.follow.head_rules import ReorgPermit
    from leader_bridge.follow.lease import LeaseStore, lead
    from leader_bridge.follow.standby import StandbyNodes
    from leader_bridge.store.unfinished_copy import refuse_unfinished_copy
    from rpc.client.node_info import parse_node_info

    check_endpoint(settings, BRIDGE)
    logged = watch_log()
    archives = await open_archives(settings)
    shared = replace(shared_options(settings), may_create_tables=True)
    store = await open_store(settings["store"], map_size=settings["map_size_gb"] << 30, shared=shared)
    await refuse_unfinished_copy(store)
    # random: a process that is started again is not the one that held the lease
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    permit = ReorgPermit(accepts_reorg_below_finality)

    nodes = parse_node_info(settings["node"])

    leading: Bridge | None = None

    def new_bridge(after_term: int | None = None) -> Bridge:
        nonlocal leading
        taken = bridge_settings(settings, owner)
        leading = Bridge(
            store, nodes, taken, permit=permit, after_term=after_term, executor=executor, archives=archives
        )
        leading.sources.cordon(control.cordoned)
        if dispersal is not None:
            dispersal.attach(leading.mirror, leading.publisher)
        return leading

    def describe() -> BridgeRow:
        errors = [LoggedError(one.at, one.level, one.text) for one in logged.lines()]
        return bridge_row(owner, leading, errors)

    async def follow(until: asyncio.Event) -> None:
        nonlocal leading
        if isinstance(store, LeaseStore):
            async with contextlib.aclosing(StandbyNodes(nodes)) as standby:
                await lead(store, new_bridge, owner, settings["lease_seconds"], until, nodes=standby)
        else:
            await _run_until(new_bridge(), until)
        leading = None

    def cordon(names: Collection[str]) -> None:
        if leading is not None:
            leading.sources.cordon(names)

    control = BridgeControl(describe, [node.name for node in nodes], cordon)
    try:
        async with (
            metrics_server(settings["metrics_listen"]),
            _executor_of(settings) as executor,
            _dispersal_of(settings, store) as dispersal,
            announced(store, describe),
            administered(settings, BRIDGE, [OwnProcess("bridge", control.methods)]),
        ):
            await control.follow_while_wanted(follow, stop)
    finally:
        control.close()
        if archives is not None:
            await archives.close()
        await store.close()
    return 0


@contextlib.asynccontextmanager
async def _dispersal_of(settings: Settings, store: Store) -> AsyncIterator[HeadDispersal | None]:
    """What sends heads to followers, where the settings name some. Errors: CannotRun (no secret, no library)."""
    from follower.commands.disperse.disperse import sender_of
    from leader_bridge.dispersal.heads import HeadDispersal

    if not settings["disperse_to"]:
        yield None
        return
    dispersal = HeadDispersal(sender_of(settings, store), least_bytes=settings["disperse_least_kb"] << 10)
    async with dispersal.running():
        yield dispersal


@contextlib.asynccontextmanager
async def _executor_of(settings: Settings) -> AsyncIterator[Executor | None]:
    """The executor, where the bridge verifies or makes what the past lacks. One is started where it is asked for.

    Errors: CannotRun (there is none, and it is asked for).
    """
    wanted = [name for name, idle in _IDLE.items() if settings[name] not in idle]
    if not wanted and not (settings["executor_socket"] and settings["execution_backfill"] == "auto"):
        yield None
        return
    async with executor_of(settings) as executor:
        if executor is None:
            raise CannotRun(
                f"{wanted[0]} is {settings[wanted[0]]}, but nothing executes here: run `make execution`, or"
                " `pip install lotus-follower[execution]`, with the setting execution not off"
            )
        yield executor


async def _run_until(bridge: Bridge, stop: asyncio.Event) -> None:
    """Follow until `stop` is set. Errors: what `Bridge.run` raises, Fenced too."""
    following = asyncio.create_task(bridge.run())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
        bridge.stop()
        await following
    finally:
        stopped.cancel()


COMMAND: Final = Command(
    "bridge",
    "Follow a full node and keep the store.",
    "follower bridge --node $FULLNODE_API_INFO --store lmdb:///var/lib/follower",
    run,
    add_arguments,
)
