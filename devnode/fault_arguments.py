"""The faults that `follower replay` and `follower simulate` take as flags."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devnode.faults import Faults


def add_fault_arguments(parser: argparse.ArgumentParser) -> None:
    """What both nodes can be told to do wrong."""
    group = parser.add_argument_group("faults")
    group.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="answer so much later")
    group.add_argument(
        "--drop-every", type=int, default=0, metavar="N", help="cut every connection each N head changes"
    )
    group.add_argument("--lie-every", type=int, default=0, metavar="N", help="answer wrong bytes for one object in N")
    group.add_argument("--restart-every", type=int, default=0, metavar="N", help="restart each N head changes")
    group.add_argument("--down", type=float, default=0.0, metavar="SECONDS", help="how long a restart takes")
    group.add_argument("--status", type=int, default=0, metavar="CODE", help="answer HTTP requests with this status")
    group.add_argument("--status-every", type=int, default=1, metavar="N", help="... but only one in N (default 1)")
    group.add_argument("--no-websocket", action="store_true", help="speak HTTP only")


def faults_of(args: argparse.Namespace) -> Faults:
    """The faults that the flags ask for. Errors: BadRequest."""
    from devnode.faults import Faults

    return Faults(
        delay_seconds=args.delay,
        drop_every=args.drop_every,
        restart_every=args.restart_every,
        down_seconds=args.down,
        lie_every=args.lie_every,
        status=args.status,
        status_every=args.status_every,
        has_websocket=not args.no_websocket,
    )
