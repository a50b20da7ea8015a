"""`follower replay FOLDER`: serve a recorded chain as a full node would."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from devnode.fault_arguments import add_fault_arguments, faults_of
from follower.commands.command import Command
from follower.commands.processes import run_until_signal
from follower.settings import Settings, split_listen


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Play, then stand still until stopped."""
    from devnode.replay import run_replay

    host, port = split_listen(settings["listen"])
    return run_until_signal(
        lambda stop: run_replay(
            stop,
            folder=args.folder,
            host=host,
            port=port,
            speed=args.speed,
            interval=args.interval,
            as_consumed=args.as_consumed,
            at_end=args.at_end,
            hide_future=args.hide_future,
            answers=args.answers,
            faults=faults_of(args),
        )
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The recording, its pace, and the faults."""
    parser.add_argument("folder", type=Path, help="holds chain.car.zst, network.json, chain_notify.jsonl.zst")
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="times the recorded pace (default 1)")
    parser.add_argument("--interval", type=float, metavar="SECONDS", help="one head change each SECONDS instead")
    parser.add_argument("--as-consumed", action="store_true", help="one as soon as all subscribers took the last")
    parser.add_argument("--at-end", action="store_true", help="stand still at the recording's last head")
    parser.add_argument("--hide-future", action="store_true", help="objects come with the head change that needs them")
    parser.add_argument(
        "--answers", type=Path, action="append", default=[], metavar="FILE",
        help="recorded calls (traces.jsonl.zst) to answer where nothing here does; may be given again",
    )  # fmt: skip
    add_fault_arguments(parser)


COMMAND: Final = Command(
    "replay",
    "Serve a recorded chain as a full node would.",
    "follower replay recorded/devnet --listen 127.0.0.1:1235 --interval 0.3",
    run,
    add_arguments,
)
