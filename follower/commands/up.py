"""`follower up`: a bridge and its followers in one command; with no node named, a simulated node too."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
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
from follower.first_steps import introduction, say_when_ready, served_at
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
            print(CALIBNET_HINT, flush=True)
        config = config_arguments(args.config)
        # a simulated state has no code to execute
        if node:
            environment["FOLLOWER_EXECUTION"] = "off"
        runtime = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="follower-run-")))
        if not node:
            children += executor_children(settings, environment, args.config, runtime)
        children.append(Child("bridge", ["bridge", *config], environment, stage=1, starts_after=node))
        children += worker_children(settings, environment, args.config, starts_after=node)
        children += hook_children(environment, args.config)
        follows = f"a simulated node of its own, {node}" if node else settings.shown("node")
        store = public_url(environment.get("FOLLOWER_STORE", settings["store"]))
        print(introduction(settings, follows, store), flush=True)
        return run_loop(_supervise(Supervisor(children, stop_seconds=settings["drain_seconds"] + 10), settings))


async def _supervise(supervisor: Supervisor, settings: Settings) -> int:
    """Run the children, and say when the followers are ready."""
    saying = asyncio.create_task(say_when_ready(served_at(settings), lambda text: print(text, flush=True)))
    try:
        return await supervisor.run()
    finally:
        saying.cancel()
        await asyncio.gather(saying, return_exceptions=True)


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
