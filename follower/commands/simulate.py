"""`follower simulate`: serve a made-up chain as a full node would."""

from __future__ import annotations

import argparse
import time
from typing import Final

from devnode.fault_arguments import add_fault_arguments, faults_of
from follower.commands.command import Command
from follower.commands.processes import run_until_signal
from follower.settings import Settings, split_listen


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Serve and advance until stopped."""
    from dataclasses import replace

    from devnode.sim_chain import SimSettings
    from devnode.simulate import run_simulate

    host, port = split_listen(settings["listen"])
    actors, objects = (1_000_000, 20_000) if args.mainnet else (args.actors, args.objects)
    sim = SimSettings.for_size(actors, objects, seed=args.seed)
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
    return run_until_signal(
        lambda stop: run_simulate(
            stop,
            settings=sim,
            host=host,
            port=port,
            block_time=args.block_time,
            epochs=args.epochs,
            first_epochs=args.first_epochs,
            faults=faults_of(args),
        )
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The size and pace of the chain, and the faults."""
    parser.add_argument("--block-time", type=float, default=1.0, metavar="SECONDS", help="seconds an epoch (default 1)")
    parser.add_argument("--seed", type=int, default=1, help="of all random choices (default 1)")
    parser.add_argument("--actors", type=int, default=180, metavar="N", help="actors in the state (default 180)")
    parser.add_argument("--objects", type=int, default=70, metavar="N", help="new objects an epoch (default 70)")
    parser.add_argument("--mainnet", action="store_true", help="mainnet's size: 1,000,000 actors, 20,000 objects")
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
