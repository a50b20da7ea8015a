"""`follower admin drain`: out of service."""

from __future__ import annotations

import argparse
from typing import Final

from follower.commands.admin import ask
from follower.commands.command import Command
from follower.settings import Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Ask the processes."""
    return ask.ask(settings, args, "drain", **({} if args.seconds is None else {"seconds": args.seconds}))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is asked, and of whom."""
    ask.add_arguments(parser)
    parser.add_argument("--seconds", type=float, metavar="N", help="stop the followers after N seconds")


COMMAND: Final = Command(
    "admin drain",
    "Take followers out of service, or have a bridge follow nothing.",
    'follower admin drain --process "worker 1" --seconds 30 --admin-listen 127.0.0.1:2345',
    run,
    add_arguments,
)
