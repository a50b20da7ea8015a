"""An export in a process of its own, to be killed: a line on standard output when it has begun to write.

python -m tests.exports.export_child STORE FILE
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from blockstore.open import open_store
from leader_bridge.exports.exporter import export_snapshot
from leader_bridge.exports.scope import snapshot_scope
from leader_bridge.upkeep.pace import Pace


class Begun:
    """Tells the parent of the first run that is written."""

    def phase(self, what: str, total: int | None, unit: str) -> None:
        return

    def at(self, done: int, note: str = "") -> None:
        print(note, flush=True)

    def say(self, text: str) -> None:
        return

    def end(self) -> None:
        return


async def run(url: str, file: str) -> None:
    """Export slowly."""
    store = await open_store(url, readonly=True)
    scope = await snapshot_scope(store, state_roots=1000, lowest=1)
    await export_snapshot(store, Path(file), scope, pace=Pace(5), progress=Begun())


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:3]))
