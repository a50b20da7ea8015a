"""`follower store stats`: how much a store holds."""

from __future__ import annotations

import argparse
from typing import Final

from follower.commands.command import DONE, Command
from follower.commands.processes import run_loop
from follower.commands.store.opening import opened_store
from follower.settings import Settings


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Print the figures of the store that the settings name. Errors: StoreError."""
    return run_loop(_stats(settings, as_json=args.json))


async def _stats(settings: Settings, *, as_json: bool) -> int:
    import orjson

    async with opened_store(settings) as store:
        head = await store.head()
        figures = await store.stats()
    if as_json:
        shown = None if head is None else {"height": head.head.height, "seq": head.seq, "term": head.term}
        report = {"store": settings.shown("store"), "head": shown, "whole": figures}
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
        return DONE
    print(f"store: {settings.shown('store')}")
    print("head: none yet" if head is None else f"head: epoch {head.head.height}, entry {head.seq}")
    for name, value in figures.items():
        print(f"{name}: {value:,}")
    return DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The form of the output."""
    parser.add_argument("--json", action="store_true", help="print JSON")


COMMAND: Final = Command(
    "store stats",
    "How much a store holds.",
    "follower store stats --store lmdb:///var/lib/follower",
    run,
    add_arguments,
)
