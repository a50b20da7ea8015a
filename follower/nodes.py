"""`follower replay` and `follower simulate`: the played nodes on the command line."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path

from follower.faults import Faults
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


def faults_of(args: argparse.Namespace) -> Faults:
    """The faults that were asked for."""
    return Faults(delay=args.delay, drop_every=args.drop_every, lie_every=args.lie_every)


def replay_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `follower replay`."""
    parser.add_argument("folder", type=Path, help="chain.car.zst, chain_notify.jsonl.zst and network.json")
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="times the recorded pace (default 1)")
    parser.add_argument("--interval", type=float, metavar="SECONDS", help="one head change each SECONDS instead")
    parser.add_argument("--at-end", action="store_true", help="stand still at the recording's last head")
    fault_arguments(parser)


def replay(settings: Settings, args: argparse.Namespace) -> int:
    """`follower replay FOLDER`: play, then stand still until stopped."""
    from follower.replay import start_replay
    from follower.up import on_signals, run_loop

    async def run() -> int:
        stop = asyncio.Event()
        on_signals(stop)
        host, port = split_listen(settings["listen"])
        node = await start_replay(args.folder, host=host, port=port, faults=faults_of(args), at_end=args.at_end)
        print(f"replaying {args.folder} at {node.url}", flush=True)

        async def play() -> None:
            async for played in node.play(speed=args.speed, interval=args.interval):
                if args.restart_every and played % args.restart_every == 0:
                    await node.restart()
            print(f"the recording has ended at epoch {node.heads.head.height}", flush=True)

        playing = asyncio.create_task(play())
        await stop.wait()
        playing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await playing
        await node.stop()
        return 0

    return run_loop(run())


def simulate_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `follower simulate`."""
    parser.add_argument("--block-time", type=float, default=1.0, metavar="SECONDS", help="seconds an epoch (default 1)")
    fault_arguments(parser)


def simulate(settings: Settings, args: argparse.Namespace) -> int:
    return 1
