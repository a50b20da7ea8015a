"""`follower admin log-level`: change a log level."""

from __future__ import annotations

import argparse
from typing import Final

from follower.commands.admin import ask
from follower.commands.command import Command
from follower.settings import Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Ask the processes."""
    return ask.ask(settings, args, "log_level", logger=args.logger, level=args.level.upper(), seconds=args.seconds)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is asked, and of whom."""
    ask.add_arguments(parser)
    parser.add_argument("logger", metavar="LOGGER", help="e.g. follower.requests; follower for all of them")
    parser.add_argument("level", choices=("debug", "info", "warning", "error"), help="the least level that is logged")
    parser.add_argument("--seconds", type=float, default=600.0, metavar="N", help="for N seconds (600); 0: as before")


COMMAND: Final = Command(
    "admin log-level",
    "Change the level of a logger for a while.",
    "follower admin log-level follower.requests debug --seconds 60 --admin-listen 127.0.0.1:2345",
    run,
    add_arguments,
)
