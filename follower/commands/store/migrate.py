"""`follower store migrate`: make what an older version stored a generation, so that it can be dropped one day."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Final

from follower.commands.command import DONE, Command
from follower.commands.processes import run_loop
from follower.settings import CannotRun, Settings


def run(settings: Settings, _: argparse.Namespace) -> int:
    """Migrate, in place. Errors: CannotRun (a shared store), StoreError."""
    if not settings["store"].startswith("lmdb://"):
        raise CannotRun("only an LMDB store is migrated in place: copy a shared store, `follower store copy`")
    path = Path(settings["store"].removeprefix("lmdb://")).absolute()
    return run_loop(_migrate(settings, path))


async def _migrate(settings: Settings, path: Path) -> int:
    from blockstore.lmdb.migration import migrate
    from chain.tipset import TipsetKey
    from leader_bridge.imports.progress import reporting

    shown = ""
    with reporting() as progress:

        def tell(what: str, done: int) -> None:
            nonlocal shown
            if what != shown:
                shown = what
                progress.phase(what, None, "")
            progress.at(done)

        def headers(key: bytes) -> list[bytes]:
            return [cid.multihash for cid in TipsetKey(key).cids]

        done = await asyncio.to_thread(migrate, path, settings["map_size_gb"] << 30, headers, tell)
    if done:
        print(f"{settings.shown('store')} is migrated: what it held is a generation, which ages by the policy")
    else:
        print(f"nothing to do: no older version has stored anything in {settings.shown('store')}")
    return DONE


COMMAND: Final = Command(
    "store migrate",
    "Make what an older version stored a generation, so that it can be dropped.",
    "follower store migrate --store lmdb:///var/lib/follower",
    run,
)
