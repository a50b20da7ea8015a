"""`follower execute`: run messages for the workers of this machine, in a process of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from follower.commands.command import Command
from follower.commands.processes import run_until_signal
from follower.settings import CannotRun, Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Execute until SIGINT or SIGTERM, or (with `--with-parent`) until whoever started this has gone."""
    if not settings["executor_socket"]:
        raise CannotRun("no socket to listen at: give --executor-socket PATH")
    try:
        from follower.executor.process import run_executor
    except ImportError as error:
        raise CannotRun(f"the virtual machine is not installed ({error}): run `make execution`") from None

    return run_until_signal(
        lambda stop: run_executor(settings, Path(settings["executor_socket"]), stop, with_parent=args.with_parent)
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--with-parent`, for the process that starts this one."""
    parser.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)


COMMAND: Final = Command(
    "execute",
    "Run messages for the followers of this machine (started by up and serve).",
    "follower execute --store lmdb:///var/lib/follower --executor-socket /run/follower/executor.sock",
    run,
    add_arguments,
)
