"""The backfill by execution over a store that machines share: under a term of its own, ended by a newer one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from blockstore.cassandra.store import CassandraStore
from chain.index.chain_index import HELD_ALL, INDEXED_EVENTS
from leader_bridge.imports.importer import import_car
from tests.execution.machine import require_machine
from tests.execution.test_execute_past import lacking, rows_of_head
from tests.support.bridge.imported import check_whole
from tests.support.cassandra.stores import emptied, keyspace_url
from tests.support.processes import FollowerProcess, follower_process
from tests.support.recorded import recorded

pytestmark = [pytest.mark.recorded, pytest.mark.long, pytest.mark.timeout(900)]

DELTA, EPSILON = 200, 50


async def lacking_in(url: str) -> int:
    store = await CassandraStore.open(url, delta_ms=DELTA, epsilon_ms=EPSILON)
    try:
        return len(lacking(await rows_of_head(store)))
    finally:
        await store.close()


async def until(condition: Callable[[int], bool], url: str, process: FollowerProcess) -> None:
    async with asyncio.timeout(400):
        while not condition(await lacking_in(url)):
            assert process.process.poll() is None, process.output()
            await asyncio.sleep(0.5)


async def test_a_newer_term_ends_the_backfill_and_the_next_one_goes_on(tmp_path: Path) -> None:
    require_machine()
    url = keyspace_url("follower_past")
    store = await emptied(url, delta_ms=DELTA, epsilon_ms=EPSILON, every=True)
    await import_car(store, recorded("devnet/snapshot.car.zst"), network_file=recorded("devnet/network.json"))
    before = len(lacking(await rows_of_head(store)))
    assert before > 900
    common = ("--store", url, "--executor-socket", str(tmp_path / "executor.sock"))
    common = (*common, "--delta-ms", str(DELTA), "--epsilon-ms", str(EPSILON))
    with follower_process("execute", *common):
        with follower_process("backfill", *common, "--execution-backfill-percent", "10") as process:
            await until(lambda left: left < before - 10, url, process)
            await store.new_term("a bridge")
            assert await asyncio.to_thread(process.process.wait, 60) == 1, process.output()
            assert "another leads" in process.output()
        assert lacking(await check_whole(store))
        with follower_process("backfill", *common, "--execution-backfill-percent", "100") as process:
            assert await asyncio.to_thread(process.process.wait, 600) == 0, process.output()
    rows = await check_whole(store)
    assert all(row.held == HELD_ALL | INDEXED_EVENTS for row in rows[:-1])
    await store.close()
