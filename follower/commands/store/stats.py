"""`follower store stats`: how much a store holds, of what kind, and how old it is."""

from __future__ import annotations

import argparse
import os
from typing import Any, Final

from follower.commands.command import DONE, Command
from follower.commands.processes import run_loop
from follower.commands.store.opening import opened_store
from follower.commands.store.percent import add_percent
from follower.settings import Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Print the figures of the store that the settings name. Errors: StoreError."""
    return run_loop(_stats(settings, args))


async def _stats(settings: Settings, args: argparse.Namespace) -> int:
    import orjson

    from leader_bridge.imports.progress import reporting
    from leader_bridge.upkeep.figures import store_figures
    from leader_bridge.upkeep.pace import Pace

    # those that serve go first
    os.nice(10)
    async with opened_store(settings) as store:
        with reporting() as progress:
            report = await store_figures(
                store, samples=args.samples, exact=args.exact, pace=Pace(args.percent), progress=progress
            )
    if args.json:
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        _print(report)
    return DONE


def _amount(objects: int | None, size: int | None) -> str:
    told = "not counted (--exact counts)" if objects is None else f"{objects:,} objects"
    return told if size is None else f"{told}, {size / 1e6:,.1f} MB"


def _print(report: dict[str, Any]) -> None:
    head = report["head"]
    print(f"store    {report['store']}")
    print("head     none yet" if head is None else f"head     epoch {head['height']}, entry {head['seq']}")
    for part in report["parts"]:
        print(f"{part['name']:<8} {_amount(part['objects'], part['bytes'])}")
    for name, told in report.get("counted", {}).items():
        print(f"{name:<8} {_amount(told['objects'], told['bytes'])}")
    for name, told in report["tables"].items():
        if told["rows"]:
            print(f"rows     {name}: {told['rows']:,}, {told['bytes'] / 1e6:,.1f} MB")
    for age in report["ages"]:
        low, high = age["epochs"]
        print(f"{age['age']}: epochs {low} to {high}, about {age['tipsets']:,} tipsets ({age['sampled']} sampled)")
        for kind, told in age["kinds"].items():
            held = told["held_percent"]
            shown = "not held" if not held else _amount(told["objects"], told["bytes"])
            print(f"  {kind:<20} {shown}" + (f", held in {held} % of the samples" if 0 < held < 100 else ""))


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The form of the output, and how closely is looked."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--samples",
        type=_count,
        default=24,
        help="tipsets of each age that are walked to tell kinds apart; 0 for none (default 24)",
    )
    parser.add_argument("--exact", action="store_true", help="read and count every object too")
    add_percent(parser)


COMMAND: Final = Command(
    "store stats",
    "How much a store holds, of what kind, and how old it is.",
    "follower store stats --store lmdb:///var/lib/follower",
    run,
    add_arguments,
)
