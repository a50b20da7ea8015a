"""`follower replay` and `follower simulate`: the played nodes on the command line."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from devnode.faults import Faults
from follower.settings import Settings, split_listen


def fault_arguments(parser: argparse.ArgumentParser) -> None:
    """What both nodes can do wrong."""
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
    """The faults that were asked for. Errors: BadRequest."""
    return Faults(
        delay=args.delay,
        drop_every=args.drop_every,
        restart_every=args.restart_every,
        down_seconds=args.down,
        lie_every=args.lie_every,
        status=args.status,
        status_every=args.status_every,
        websocket=not args.no_websocket,
    )


def _until_stopped(work: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    from follower.commands.up import on_signals, run_loop

    async def run() -> int:
        stop = asyncio.Event()
        on_signals(stop)
        return await work(stop)

    return run_loop(run())


def replay_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `follower replay`."""
    parser.add_argument("folder", type=Path, help="chain.car.zst, chain_notify.jsonl.zst and network.json")
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="times the recorded pace (default 1)")
    parser.add_argument("--interval", type=float, metavar="SECONDS", help="one head change each SECONDS instead")
    parser.add_argument("--as-consumed", action="store_true", help="one as soon as all subscribers took the last")
    parser.add_argument("--at-end", action="store_true", help="stand still at the recording's last head")
    parser.add_argument("--hide-future", action="store_true", help="objects come with the head change that needs them")
    parser.add_argument(
        "--answers", type=Path, action="append", default=[], metavar="FILE",
        help="recorded calls (traces.jsonl.zst) to answer where nothing here does; may be given again",
    )  # fmt: skip
    fault_arguments(parser)


def replay(settings: Settings, args: argparse.Namespace) -> int:
    """`follower replay FOLDER`: play, then stand still until stopped."""
    from devnode.replay import run_replay

    host, port = split_listen(settings["listen"])
    return _until_stopped(
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


def simulate_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `follower simulate`."""
    parser.add_argument("--block-time", type=float, default=1.0, metavar="SECONDS", help="seconds an epoch (default 1)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same chain (default 1)")
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
    fault_arguments(parser)


def simulate(settings: Settings, args: argparse.Namespace) -> int:
    """`follower simulate`: serve and advance until stopped."""
    from dataclasses import replace

    from devnode.sim_chain import SimSettings
    from devnode.simulate import run_simulate

    host, port = split_listen(settings["listen"])
    actors, objects = (1_000_000, 20_000) if args.mainnet else (args.actors, args.objects)
    sim = replace(
        SimSettings.sized(actors, objects, seed=args.seed),
        max_blocks=args.blocks,
        null_rate=args.null_rate,
        reorg_rate=args.reorg_rate,
        reorg_depth=args.reorg_depth,
        late_rate=args.late_rate,
    )
    return _until_stopped(
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
