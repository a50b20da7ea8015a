"""What a store that machines share is judged by: every answer that a real Lotus gave, chain, state and Ethereum."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from blockstore.cassandra.store import CassandraStore
from devnode.replay import start_replay
from follower.readiness import Freshness, build_checks
from follower.shared_store_heads import SharedStoreHeads
from leader_bridge.imports.importer import import_car
from rpc.server.server import serve
from tests.support.cassandra.stores import emptied, keyspace_url
from tests.support.recorded import recorded
from tests.support.recorded_answers import COMPARED, assert_recorded_answers
from tests.support.served import services_over
from tests.support.whole_path import filled

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
        for folder in COMPARED
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


async def until_visible(store: CassandraStore, heads: SharedStoreHeads) -> None:
    """Wait until the last head is served: it becomes visible delta after it was published, or later."""
    last = await store.head()
    assert last is not None
    async with asyncio.timeout(60):
        while (await heads.current()).seq != last.seq:
            await asyncio.sleep(0.01)


@pytest.mark.recorded
async def test_every_recorded_answer_is_equal(
    stored: tuple[str, str], record_property: Callable[[str, object], None]
) -> None:
    folder, url = stored
    store = await CassandraStore.open(url, delta_ms=DELTA, epsilon_ms=EPSILON)
    services = await services_over(store)
    heads = SharedStoreHeads(store, services.index, DELTA, EPSILON)
    heads.start()
    services = replace(services, head_source=heads, checks=build_checks(heads, None, Freshness(5, 0, 30)))
    server = await serve(services, "127.0.0.1", 0)
    try:
        await until_visible(store, heads)
        await assert_recorded_answers(f"http://127.0.0.1:{server.port}", folder, record_property)
    finally:
        await server.stop(0)
        await heads.close()
        await store.close()
