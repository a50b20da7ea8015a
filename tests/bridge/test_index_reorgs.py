"""After whatever applies and reverts, each index says of the chain what one made from scratch says of it."""

from __future__ import annotations

import asyncio
import random

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockstore.memory import MemoryStore
from blockstore.store import EVENTS, Store
from chain.tipset import TipsetKey
from devnode.replay import start_replay
from devnode.sim_chain import SimSettings
from devnode.simulate import SimulatedNode, start_simulated
from leader_bridge.bridge import Bridge
from leader_bridge.imports.importer import import_car
from leader_bridge.settings import BridgeSettings
from rpc.client.node_info import parse_node_info
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from tests.support.bridge.visible_rows import visible_rows
from tests.support.recorded import recorded
from tests.support.served import services_over
from tests.support.whole_path import CHAINS, filled

#: two miners are busy enough for every tipset to have events
SIMULATED = SimSettings(accounts=6, miners=2, miner_updates=1, messages=4, reorg_rate=0.0, late_rate=0.0)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("extend"), st.integers(0, 2)),
        st.tuples(st.just("reorg"), st.integers(1, 3)),
        st.tuples(st.just("late"), st.just(0)),
    ),
    min_size=1,
    max_size=10,
)


async def follow(store: Store, node: SimulatedNode, steps: list[tuple[str, int]]) -> None:
    """Run a bridge behind the node, which takes the steps one by one, each seen, until all is stored."""
    bridge = Bridge(store, parse_node_info(node.node_info), BridgeSettings(backfill_epochs=1000, actor_code=True))
    running = asyncio.create_task(bridge.run())

    async def reached() -> None:
        async with asyncio.timeout(30):
            while (entry := await store.head()) is None or entry.head.key != node.head.key:
                if running.done():
                    running.result()
                await asyncio.sleep(0.002)

    try:
        await reached()
        for step, number in steps:
            if step == "extend":
                await node.extend(nulls=number)
            elif step == "reorg":
                await node.reorg(min(number, node.head.height - 1))
            else:
                await node.late_block()
            await reached()
        async with asyncio.timeout(30):
            await bridge.backfill.idle.wait()
    finally:
        bridge.stop()
        await running


async def ask(store: Store, method: str, *params: object) -> object:
    register_all()
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    _, answer = await Dispatcher(await services_over(store)).http(1, body)
    return orjson.loads(answer)["result"]


async def events(store: Store) -> list[object]:
    """All events of the chain, newest epochs included, as a client is told them."""
    found = await ask(store, "Filecoin.GetActorEventsRaw", {"fromHeight": 0})
    assert isinstance(found, list)
    return found


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, seed=st.integers(0, 1 << 16))
async def test_every_index_equals_one_made_from_scratch(steps: list[tuple[str, int]], seed: int) -> None:
    node = await start_simulated(SIMULATED, epochs=6)
    try:
        random.seed(seed)
        followed, scratch = MemoryStore(), MemoryStore()
        await follow(followed, node, steps)
        await follow(scratch, node, [])
        head = node.head.key
        rows = await visible_rows(followed, head)
        assert rows == await visible_rows(scratch, head)
        assert None not in rows.values()
        told = await events(followed)
        assert told == await events(scratch)
        assert told and any(table == EVENTS.name for table, _, _ in rows)
    finally:
        await node.stop()


@pytest.mark.recorded
@pytest.mark.parametrize("folder", CHAINS)
async def test_a_recorded_chain_followed_through_its_reorgs_has_the_rows_of_an_import(folder: str) -> None:
    node = await start_replay(recorded(f"{folder}/chain.car.zst").parent)
    followed, imported = MemoryStore(), MemoryStore()
    await filled(followed, node, folder)
    await node.stop()
    await import_car(imported, recorded(f"{folder}/chain.car.zst"), network_file=recorded(f"{folder}/network.json"))
    entry = await followed.head()
    assert entry is not None
    rows = await visible_rows(followed, TipsetKey(entry.head.key))
    assert rows == await visible_rows(imported, TipsetKey(entry.head.key))
    assert None not in rows.values()
    logs = await ask(followed, "eth_getLogs", {"fromBlock": "0x0"})
    assert logs and logs == await ask(imported, "eth_getLogs", {"fromBlock": "0x0"})
