"""`follower hooks`: run the hooks on tipsets that installed packages add."""

from __future__ import annotations

import argparse
import asyncio
from typing import Final

from blockstore.extensions import TIPSET_HOOKS, find_extensions
from follower.commands.command import Command
from follower.commands.processes import config_arguments, metrics_server, run_loop, run_until_signal
from follower.logs.set_up import say
from follower.settings import CannotRun, Settings
from follower.supervisor import Child, Supervisor


def run(settings: Settings, args: argparse.Namespace) -> int:
    """Run them until SIGINT or SIGTERM. Errors: CannotRun (there is no such hook), BadExtension, OSError."""
    names = [one.name for one in find_extensions(TIPSET_HOOKS)]
    if not names:
        raise CannotRun(f"no installed package adds a hook (entry points {TIPSET_HOOKS}); see docs/extending.md")
    if args.only is not None and args.only not in names:
        raise CannotRun(f"there is no hook {args.only}; installed: {', '.join(names)}")
    if args.one:
        return run_until_signal(lambda stop: _run_hooks(settings, stop, args.only))
    say(f"running hooks over {settings.shown('store')}: {args.only or ', '.join(names)}")
    # a hook that blocks ends its process, which is started again
    arguments = ["hooks", "--one", *config_arguments(args.config), *(["--only", args.only] if args.only else [])]
    return run_loop(Supervisor([Child("hooks", arguments, settings.environment())]).run())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--only`; `--one`, for the supervisor: run in this process."""
    parser.add_argument("--only", metavar="HOOK", help="run this one alone, for a process to each")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)


async def _run_hooks(settings: Settings, stop: asyncio.Event, only: str | None) -> int:
    from follower.extending.hook_runner import load_hooks, run_hooks
    from follower.worker import wait_for_store

    hooks = load_hooks(only)
    opened = await wait_for_store(settings, stop)
    if opened is None:
        return 0
    store, _ = opened
    try:
        async with metrics_server(settings["hooks_metrics_listen"]):
            await run_hooks(
                hooks, store, stop, limit_seconds=settings["hook_seconds"], lease_seconds=settings["lease_seconds"]
            )
    finally:
        await store.close()
    return 0


COMMAND: Final = Command(
    "hooks",
    "Run the hooks on tipsets that installed packages add.",
    "follower hooks --store lmdb:///var/lib/follower",
    run,
    add_arguments,
)
