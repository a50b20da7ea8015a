"""`follower resume`: execute messages again after the self-check has stopped it."""

from __future__ import annotations

import argparse
from typing import Final

from follower.commands.command import DONE, FAILED, Command
from follower.commands.processes import run_loop
from follower.settings import Settings, shared_options


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Say what differed, and let the machine execute again. Errors: StoreError."""
    return run_loop(_resume(settings, args.machine))


async def _resume(settings: Settings, machine: str) -> int:
    from blockstore.open import open_store
    from follower.execution_stop import remove_stop, stops, this_machine

    map_size = settings["map_size_gb"] << 30
    store = await open_store(settings["store"], map_size=map_size, shared=shared_options(settings))
    try:
        stopped = await stops(store)
        name = machine or this_machine()
        if name not in stopped:
            print(f"the self-check has not stopped execution on {name}; stopped: {', '.join(stopped) or 'none'}")
            return FAILED
        await remove_stop(store, name)
        print(f"messages are executed on {name} again. It had stopped because {stopped[name]}")
        return DONE
    finally:
        await store.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The machine."""
    parser.add_argument("machine", nargs="?", default="", help="host name of the machine; this one without it")


COMMAND: Final = Command(
    "resume",
    "Execute messages again after the self-check has stopped it.",
    "follower resume --store lmdb:///var/lib/follower",
    run,
    add_arguments,
)
