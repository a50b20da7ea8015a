"""`follower up`: a bridge and its followers in one command; with no node named, a simulated node too."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
import tempfile
from pathlib import Path
from typing import Final

from blockstore.store_url import public_url
from follower.commands.command import Command
from follower.commands.processes import (
    config_arguments,
    executor_children,
    hook_children,
    run_loop,
    worker_children,
)
from follower.commands.store.index import index_new_store
from follower.first_steps import introduction, report_start, served_at
from follower.logs.set_up import is_json_log, say
from follower.settings import Settings
from follower.supervisor import Child, Supervisor

CALIBNET_HINT: Final = (
    "No node is named, so a simulated one is followed. To follow calibnet instead:\n"
    "  FULLNODE_API_INFO=https://api.calibration.node.glif.io/rpc/v1 FOLLOWER_STATE=lazy make run"
)


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Supervise the processes until SIGINT or SIGTERM."""
    environment = settings.environment()
    children: list[Child] = []
    node = ""
    with contextlib.ExitStack() as stack:
        if not settings["node"]:
            # a simulated chain is new at every start, so its store is too (unless one was named)
            if settings.source("store") == "default":
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="follower-simulated-"))
                environment["FOLLOWER_STORE"] = f"lmdb://{folder}"
            node = f"127.0.0.1:{_free_port()}"
            environment["FOLLOWER_NODE"] = f"http://{node}"
            children.append(Child("simulated node", ["simulate", "--listen", node], environment))
            say(CALIBNET_HINT)
        else:
            index_new_store(settings)
        config = config_arguments(args.config)
        # a simulated state has no code to execute
        if node:
            environment["FOLLOWER_EXECUTION"] = "off"
        runtime = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="follower-run-")))
        if not node:
            children += executor_children(settings, environment, args.config, runtime)
        children.append(Child("bridge", ["bridge", *config], environment, stage=1, starts_after=node))
        children += worker_children(settings, environment, args.config, runtime, starts_after=node)
        children += hook_children(environment, args.config)
        follows = f"a simulated node of its own, {node}" if node else settings.shown("node")
        store = public_url(environment.get("FOLLOWER_STORE", settings["store"]))
        say(introduction(settings, follows, store))
        store = environment.get("FOLLOWER_STORE", settings["store"])
        return run_loop(_administer(children, settings, store, runtime))


async def _administer(children: list[Child], settings: Settings, store: str, folder: Path) -> int:
    from follower.administration.endpoint import FOLLOWER, administered, let_children_answer

    processes = let_children_answer(settings, children, folder)
    async with administered(settings, FOLLOWER, processes):
        return await _supervise(children, settings, store)


async def _supervise(children: list[Child], settings: Settings, store: str) -> int:
    """Run the children, and show how far they are until the followers are ready and the backfill is done."""
    from leader_bridge.imports.progress import reporting

    if is_json_log():
        return await Supervisor(children, stop_seconds=settings["drain_seconds"] + 10).run()
    with reporting(sys.stdout) as reporter:
        # a bar stays whole only where nothing else prints to its terminal
        relay = reporter.say if sys.stdout.isatty() else None
        supervisor = Supervisor(children, stop_seconds=settings["drain_seconds"] + 10, relay=relay)
        showing = asyncio.create_task(report_start(served_at(settings), store, reporter))
        try:
            return await supervisor.run()
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


COMMAND: Final = Command(
    "up",
    "A bridge and its followers in one command.",
    "follower up --node https://api.calibration.node.glif.io/rpc/v1 --state lazy",
    run,
)
