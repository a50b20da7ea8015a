"""From a node, or a file, to a client: what comes out is what a real Lotus answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from blockstore.open import open_store
from devnode.replay import start_replay
from follower.commands.comparison import compare
from leader_bridge.imports.importer import import_car
from tests.support.recorded import recorded
from tests.support.served import served
from tests.support.whole_path import CHAINS, ETH, EXCLUDED, LEAST, METHODS, eth_excluded, filled


async def by_import(folder: str, at: Path) -> None:
    store = await open_store(f"lmdb://{at}")
    await import_car(store, recorded(f"{folder}/chain.car.zst"), network_file=recorded(f"{folder}/network.json"))
    await store.close()


async def by_bridge(folder: str, at: Path) -> None:
    node = await start_replay(recorded(f"{folder}/chain.car.zst").parent)
    store = await open_store(f"lmdb://{at}")
    await filled(store, node, folder)
    await node.stop()
    await store.close()


@pytest.fixture(scope="module", params=CHAINS)
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[by_import, by_bridge], ids=["import", "bridge"])
def stored(folder: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LMDB store that holds a recorded chain whole."""
    at = tmp_path_factory.mktemp("whole") / "store"
    asyncio.run(request.param(folder, at))
    return at


async def judge(stored: Path, folder: str, methods: str, exclude: str) -> int:
    """Every recorded answer is equal, under each path; how many there are."""
    async with served(stored) as server:
        report = await compare(
            f"http://127.0.0.1:{server.port}",
            [recorded(f"{folder}/rpc.jsonl.zst")],
            methods,
            exclude=exclude,
            paths=["/rpc/v0", "/rpc/v1", "/rpc/v2"],
        )
    assert not report.differences, report.differences[:5]
    assert report.equal == report.total
    return report.total


@pytest.mark.recorded
async def test_the_chains_methods_answer_as_lotus_did(stored: Path, folder: str) -> None:
    assert await judge(stored, folder, r"Filecoin\.Chain", EXCLUDED) > 900


@pytest.mark.recorded
async def test_the_states_methods_answer_as_lotus_did(stored: Path, folder: str) -> None:
    assert await judge(stored, folder, METHODS, rf"{EXCLUDED}|Filecoin\.Chain") > LEAST[folder] - 1100


@pytest.mark.recorded
async def test_the_ethereum_methods_answer_as_lotus_did(stored: Path, folder: str) -> None:
    assert await judge(stored, folder, ETH, eth_excluded(folder)) > 5_000
