"""`follower simulate`: serve a made-up chain as a full node would."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devnode.fault_arguments import add_fault_arguments, faults_of
from follower.commands.command import Command
from follower.commands.processes import run_until_signal
from follower.settings import Settings, split_listen


@dataclass(frozen=True, slots=True)
class _Size:
    """What is simulated where no option says otherwise. `objects`: least and most an epoch (0: the least)."""

    actors: int
    objects: tuple[int, int]
    block_time: float
    gigabytes: float


_SMALL: Final = _Size(180, (70, 0), 1.0, 4)
_MAINNET: Final = _Size(3_500_000, (20_000, 60_000), 30.0, 20)


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Serve and advance until stopped."""
    from dataclasses import replace

    from devnode.sim_chain import SimSettings
    from devnode.simulate import run_simulate

    host, port = split_listen(settings["listen"])
    usual = _MAINNET if args.mainnet else _SMALL
    least, most = args.objects or usual.objects
    sim = SimSettings.for_size(args.actors or usual.actors, least, most, seed=args.seed)
    genesis_time = args.genesis_time
    if genesis_time is None:
        # so that the first head that is served is a new one
        genesis_time = int(time.time()) - args.first_epochs * sim.block_delay
    sim = replace(
        sim,
        genesis_time=genesis_time,
        max_blocks=args.blocks,
        null_rate=args.null_rate,
        reorg_rate=args.reorg_rate,
        reorg_depth=args.reorg_depth,
        late_rate=args.late_rate,
    )
    with contextlib.ExitStack() as stack:
        folder = args.folder
        if folder is None and args.mainnet:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="follower-simulate-")))
        return run_until_signal(
            lambda stop: run_simulate(
                stop,
                settings=sim,
                host=host,
                port=port,
                block_time=args.block_time or usual.block_time,
                epochs=args.epochs,
                first_epochs=args.first_epochs,
                faults=faults_of(args),
                store_limit=int((args.gigabytes or usual.gigabytes) * 1e9),
                folder=folder,
            )
        )


def objects_range(text: str) -> tuple[int, int]:
    """Least and most objects from N or N-M. Errors: ValueError."""
    least, dash, most = text.partition("-")
    found = int(least), int(most) if dash else 0
    if found[0] < 0 or (dash and found[1] < found[0]):
        raise ValueError(text)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The size and pace of the chain, and the faults."""
    parser.add_argument("--block-time", type=float, metavar="SECONDS", help="seconds an epoch (default 1)")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices (default 1)")
    parser.add_argument("--actors", type=int, metavar="N", help="actors in the state (default 180)")
    parser.add_argument("--objects", type=objects_range, metavar="N[-M]", help="new objects an epoch (default 70)")
    parser.add_argument(
        "--mainnet",
        action="store_true",
        help="other defaults: 3,500,000 actors, 20,000-60,000 objects, 30 s an epoch, in files, 20 GB",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="keep objects in files there (default: in memory; --mainnet: a temporary folder)",
    )
    parser.add_argument("--gigabytes", type=float, metavar="N", help="stand still at so many of objects (default 4)")
    parser.add_argument("--blocks", type=int, default=4, metavar="N", help="blocks a tipset, at most (default 4)")
    parser.add_argument("--null-rate", type=float, default=0.1, metavar="P", help="chance of a null round (0.1)")
    parser.add_argument("--reorg-rate", type=float, default=0.05, metavar="P", help="chance of a reorg a step (0.05)")
    parser.add_argument("--reorg-depth", type=int, default=3, metavar="N", help="its depth at most (default 3)")
    parser.add_argument("--late-rate", type=float, default=0.05, metavar="P", help="chance of a late block (0.05)")
    parser.add_argument("--epochs", type=int, metavar="N", help="stand still after so many head changes")
    parser.add_argument("--first-epochs", type=int, default=0, metavar="N", help="head changes made before serving")
    parser.add_argument(
        "--genesis-time", type=int, metavar="SECONDS", help="the genesis' timestamp, seconds since 1970 (default: now)"
    )
    add_fault_arguments(parser)


COMMAND: Final = Command(
    "simulate",
    "Serve a made-up chain as a full node would.",
    "follower simulate --listen 127.0.0.1:1235 --block-time 1",
    run,
    add_arguments,
)
