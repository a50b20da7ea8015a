"""An import in a process of its own, to be killed: a line on standard output at each step.

python -m tests.bridge.imports.import_child STORE CAR NETWORK_FILE [EPOCHS FOLDER [SORT]]

EPOCHS: how many the policy keeps (empty: all). FOLDER: what the import keeps while it runs. SORT: `sort_above`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import blockstore.car.batches
import leader_bridge.imports.importer
from blockstore.open import open_store
from leader_bridge.imports.importer import import_car
from leader_bridge.retention.policy import Policy


class Steps:
    """Tells the parent of each step, and waits for its leave: so a kill falls where the parent wants it."""

    def phase(self, what: str, total: int | None, unit: str) -> None:
        self._step(what)

    def at(self, done: int, note: str = "") -> None:
        self._step(str(done))

    def say(self, text: str) -> None:
        self._step(text)

    def end(self) -> None:
        return

    def _step(self, text: str) -> None:
        print(text, flush=True)


async def run(url: str, car: str, network: str, epochs: str = "", folder: str = "", sort: str = "") -> None:
    """Import with small batches, so that there is much to be killed in."""
    blockstore.car.batches.BATCH_BYTES = 1 << 20
    leader_bridge.imports.importer.GROUP = 48
    store = await open_store(url, bulk=True)
    kept = int(epochs) if epochs else None
    report = await import_car(
        store,
        car,
        network_file=Path(network),
        progress=Steps(),
        policy=Policy(kept, kept, kept),
        folder=Path(folder) if folder else None,
        sort_above=int(sort) if sort else None,
    )
    await store.close()
    print(f"done {report.resumed_at}", flush=True)


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
