"""`follower admin resume`: in service again."""

from __future__ import annotations

import argparse
from typing import Final

from follower.commands.admin import ask
from follower.commands.command import Command
from follower.settings import Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Ask the processes."""
    return ask.ask(settings, args, "resume")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is asked, and of whom."""
    ask.add_arguments(parser)


COMMAND: Final = Command(
    "admin resume",
    "Take back a drain.",
    "follower admin resume --admin-listen 127.0.0.1:2345",
    run,
    add_arguments,
)
