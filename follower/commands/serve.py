"""`follower serve`: answer JSON-RPC from the store."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Final

from follower.commands.command import Command
from follower.commands.processes import executor_children, run_loop, worker_children
from follower.commands.store.index import index_new_store
from follower.logs.set_up import say
from follower.settings import Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """One worker in this process, or several under a supervisor."""
    from follower.administration.endpoint import FOLLOWER, administered, let_children_answer
    from follower.membership import fleet_member
    from follower.supervisor import Supervisor
    from follower.worker import run_worker

    if args.one or settings["workers"] == 1:
        if not args.one:
            index_new_store(settings)

        def started(url: str) -> None:
            if not args.one:
                say(f"serving {settings.shown('store')} at {url}")

        return run_loop(run_worker(settings, started=started))
    index_new_store(settings)
    fleet_member(settings, "")  # reports bad settings once, here, and not once per worker
    say(f"serving {settings.shown('store')} at http://{settings['listen']}/rpc/v1")
    environment = settings.environment()
    with tempfile.TemporaryDirectory(prefix="follower-run-") as folder:
        children = executor_children(settings, environment, args.config, Path(folder))
        children += worker_children(settings, environment, args.config, Path(folder))
        processes = let_children_answer(settings, children, Path(folder))

        async def supervise() -> int:
            async with administered(settings, FOLLOWER, processes):
                return await Supervisor(children, stop_seconds=settings["drain_seconds"] + 10).run()

        return run_loop(supervise())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--one`, for the supervisor: one worker in this process, whatever `workers` says."""
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)


COMMAND: Final = Command(
    "serve",
    "Answer JSON-RPC from the store.",
    "follower serve --store lmdb:///var/lib/follower --listen 0.0.0.0:1234 --workers 4",
    run,
    add_arguments,
)
