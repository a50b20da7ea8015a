"""Imports that are killed, cut off or cancelled go on, and leave nothing behind."""

from __future__ import annotations

import asyncio
import io
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from blockstore.memory import MemoryStore
from blockstore.open import open_store
from blockstore.store import META
from leader_bridge.imports.import_state import MARK
from leader_bridge.imports.importer import import_car
from leader_bridge.imports.progress import Lines
from tests.support.bridge.imported import check_whole, contents
from tests.support.paths import ROOT
from tests.support.recorded import recorded


def run_child(
    url: str, car: Path, network: Path, steps: int | None, given: BinaryIO | None = None, more: Sequence[str] = ()
) -> str:
    """Let an import go `steps` steps and kill it (None: to its end); its last line."""
    root = ROOT
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.bridge.imports.import_child", url, str(car), str(network), *more],
        stdin=given,
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        text=True,
    )
    assert child.stdout is not None
    line = ""
    for number, one in enumerate(child.stdout):
        line = one.strip()
        if steps is not None and number >= steps:
            break
    if steps is not None:
        child.kill()
    child.stdout.close()
    assert child.wait() in ((0,) if steps is None else (0, -9))
    return line


async def killed_and_resumed(tmp_path: Path, car: Path, network: Path, kills: int, steps: int) -> None:
    url = f"lmdb://{tmp_path}/store"
    rng = random.Random(os.environ.get("SEED", "7"))
    for number in range(kills):
        last = await asyncio.to_thread(run_child, url, car, network, rng.randrange(2, steps))
        store = await open_store(url)
        if await store.head() is not None:
            # the kill came when it was published: then it is whole, whether or not it could still be said
            await check_whole(store)
        else:
            assert not last.startswith("done")
            if number == 0:
                assert await store.row(META, b"", MARK) is not None
        await store.close()
    last = await asyncio.to_thread(run_child, url, car, network, None)
    assert last.startswith("done")
    assert int(last.split()[1]) > 0 or kills == 0
    fresh = MemoryStore()
    await import_car(fresh, car, network_file=network)
    store = await open_store(url)
    await check_whole(store)
    assert await contents(store, tmp_path) == await contents(fresh, tmp_path)
    held = [await one.held_many(sorted(fresh._objects)) for one in (store, fresh)]
    assert held[0] == held[1], "closed and loose are the same as without a crash"
    await store.close()


@pytest.mark.recorded
async def test_killed_at_random_moments(tmp_path: Path) -> None:
    car, network = recorded("devnet/chain.car.zst"), recorded("devnet/network.json")
    await killed_and_resumed(tmp_path, car, network, kills=7, steps=55)


async def test_made_chain_killed(tmp_path: Path, made: Path) -> None:
    await killed_and_resumed(tmp_path, made / "made.car", made / "network.json", kills=3, steps=6)


async def test_standard_input(tmp_path: Path, made: Path) -> None:
    url = f"lmdb://{tmp_path}/store"
    with open(made / "made.car", "rb") as car:
        last = await asyncio.to_thread(run_child, url, Path("-"), made / "network.json", None, car)
    assert last == "done 0"
    store = await open_store(url)
    await check_whole(store)
    await store.close()


def children() -> set[str]:
    """The processes that this one has started and not yet waited for."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


async def test_cancelled_import_leaves_no_process(tmp_path: Path, made: Path) -> None:
    store = MemoryStore()
    before = children()

    class Stops(Lines):
        def at(self, done: int, note: str = "") -> None:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await import_car(
            store, made / "made.car", network_file=made / "network.json", process=True, progress=Stops(io.StringIO())
        )
    report = await import_car(store, made / "made.car", network_file=made / "network.json")
    assert report.published
    assert children() <= before
