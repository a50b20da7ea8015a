"""From a node, or a file, to a client: what comes out is what a real Lotus answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from blockstore.open import open_store
from devnode.replay import start_replay
from leader_bridge.imports.importer import import_car
from tests.support.recorded import recorded
from tests.support.recorded_answers import assert_recorded_answers
from tests.support.served import served
from tests.support.whole_path import filled


async def by_import(folder: str, at: Path) -> None:
    store = await open_store(f"lmdb://{at}")
    await import_car(store, recorded(f"{folder}/chain.car.zst"), network_file=recorded(f"{folder}/network.json"))
    await store.close()


async def by_bridge(folder: str, at: Path) -> None:
    node = await start_replay(recorded(folder))
    store = await open_store(f"lmdb://{at}")
    await filled(store, node, folder)
    await node.stop()
    await store.close()


# by the bridge takes minutes on a machine with other work
@pytest.mark.timeout(900)
@pytest.mark.recorded
@pytest.mark.parametrize(
    ("folder", "fill"),
    [
        # what comes by the bridge is the same store, and more ways to it
        pytest.param("devnet", by_import, id="devnet-import", marks=pytest.mark.long),
        pytest.param("upgrades", by_import, id="upgrades-import"),
        pytest.param("busy", by_import, id="busy-import"),
        pytest.param("devnet", by_bridge, id="devnet-bridge"),
        pytest.param("upgrades", by_bridge, id="upgrades-bridge", marks=pytest.mark.long),
        pytest.param("busy", by_bridge, id="busy-bridge", marks=pytest.mark.long),
    ],
)
async def test_every_recorded_answer_is_equal(
    folder: str,
    fill: Callable[[str, Path], Coroutine[Any, Any, None]],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    # in a loop of its own, as another process would
    await asyncio.to_thread(asyncio.run, fill(folder, tmp_path / "store"))
    async with served(tmp_path / "store") as server:
        await assert_recorded_answers(f"http://127.0.0.1:{server.port}", folder, record_property)
