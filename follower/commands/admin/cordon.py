"""`follower admin cordon`: forward nothing to a node."""

from __future__ import annotations

import argparse
from typing import Final

from follower.commands.admin import ask
from follower.commands.command import Command
from follower.settings import Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Ask the processes."""
    return ask.ask(settings, args, "cordon", node=args.node)


COMMAND: Final = Command(
    "admin cordon",
    "Forward nothing more to a full node.",
    "follower admin cordon 10.0.0.5:1234 --admin-listen 127.0.0.1:2345",
    run,
    ask.add_node,
)
