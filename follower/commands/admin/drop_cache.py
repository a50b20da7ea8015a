"""`follower admin drop-cache`: drop a cache."""

from __future__ import annotations

import argparse
from typing import Final

from follower.commands.admin import ask
from follower.commands.command import Command
from follower.settings import Settings

_CACHES: Final = ("answers", "objects", "decoded", "forwarded", "disk", "all")


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Ask the processes."""
    return ask.ask(settings, args, "drop_cache", name=args.cache)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is asked, and of whom."""
    ask.add_arguments(parser)
    parser.add_argument("cache", choices=_CACHES, help="which one")


COMMAND: Final = Command(
    "admin drop-cache",
    "Drop a cache of the followers.",
    "follower admin drop-cache answers --admin-listen 127.0.0.1:2345",
    run,
    add_arguments,
)
