"""`follower admin status`: what each process does."""

from __future__ import annotations

import argparse
from typing import Final

from follower.commands.admin import ask
from follower.commands.command import Command
from follower.settings import Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Ask the processes."""
    return ask.ask(settings, args, "status")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is asked, and of whom."""
    ask.add_arguments(parser)


COMMAND: Final = Command(
    "admin status",
    "What each process of this machine does.",
    "follower admin status --admin-listen unix:/run/lotus-follower/admin.sock",
    run,
    add_arguments,
)
