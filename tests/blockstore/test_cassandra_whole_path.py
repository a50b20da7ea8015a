"""What a store that machines share is judged by: every answer that a real Lotus gave, chain, state and Ethereum."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from blockstore.cassandra.store import CassandraStore
from devnode.replay import start_replay
from follower.commands.comparison import compare
from follower.shared_store_heads import SharedStoreHeads
from follower.worker import build_checks
from leader_bridge.imports.importer import import_car
from rpc.methods import register_all
from rpc.server.server import serve
from tests.support.cassandra.stores import emptied, keyspace_url
from tests.support.recorded import recorded
from tests.support.served import services_over
from tests.support.whole_path import CHAINS, ETH, EXCLUDED, LEAST, METHODS, eth_excluded, filled

DELTA, EPSILON = 200, 50


async def by_import(folder: str, store: CassandraStore) -> None:
    await import_car(store, recorded(f"{folder}/chain.car.zst"), network_file=recorded(f"{folder}/network.json"))


async def by_bridge(folder: str, store: CassandraStore) -> None:
    node = await start_replay(recorded(f"{folder}/chain.car.zst").parent)
    try:
        await filled(store, node, folder)
    finally:
        await node.stop()


CASES = [
    pytest.param(("devnet", "import"), id="devnet-import"),
    *(
        pytest.param((folder, how), id=f"{folder}-{how}", marks=pytest.mark.long)
        for folder in CHAINS
        for how in ("import", "bridge")
        if (folder, how) != ("devnet", "import")
    ),
]


@pytest.fixture(scope="module", params=CASES)
def stored(request: pytest.FixtureRequest) -> tuple[str, str]:
    """(the recording, the URL of a shared store that holds it whole)."""
    folder, how = request.param
    url = keyspace_url("follower_whole")

    async def fill() -> None:
        store = await emptied(url, delta_ms=DELTA, epsilon_ms=EPSILON, every=True)
        await (by_import if how == "import" else by_bridge)(folder, store)
        await store.close()

    asyncio.run(fill())
    return folder, url


async def judge(stored: tuple[str, str], methods: str, exclude: str) -> int:
    """Every recorded answer is equal, under each path; how many there are."""
    folder, url = stored
    store = await CassandraStore.open(url, delta_ms=DELTA, epsilon_ms=EPSILON)
    register_all()
    services = await services_over(store)
    heads = SharedStoreHeads(store, services.index, DELTA, EPSILON)
    heads.start()
    services = replace(services, head_source=heads, checks=build_checks(heads, None, 5))
    server = await serve(services, "127.0.0.1", 0)
    try:
        report = await compare(
            f"http://127.0.0.1:{server.port}",
            [recorded(f"{folder}/rpc.jsonl.zst")],
            methods,
            exclude=exclude,
            paths=["/rpc/v0", "/rpc/v1", "/rpc/v2"],
        )
    finally:
        await server.stop(0)
        await heads.close()
        await store.close()
    assert not report.differences, report.differences[:5]
    assert report.equal == report.total
    return report.total


@pytest.mark.recorded
async def test_chain_and_state_answer_as_lotus_did(stored: tuple[str, str]) -> None:
    assert await judge(stored, METHODS, EXCLUDED) > LEAST[stored[0]]


@pytest.mark.recorded
async def test_the_ethereum_methods_answer_as_lotus_did(stored: tuple[str, str]) -> None:
    assert await judge(stored, ETH, eth_excluded(stored[0])) > 5_000
