"""Workers of the pool that execute: a chain's receipts, events and traces are equal to those that Lotus recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from blockstore.memory import MemoryStore
from blockstore.open import open_store
from blockstore.store import Store
from chain.index.chain_index import HELD_ALL, INDEXED_EVENTS, TipsetRow
from leader_bridge.imports.importer import import_car
from leader_bridge.nodes.no_nodes import NoNodes
from leader_bridge.pool.claims import Claims
from leader_bridge.pool.gaps import find_gaps
from leader_bridge.pool.job import WALK, walk_jobs
from leader_bridge.pool.redis_engine import RedisEngine
from leader_bridge.pool.reports import Report, reports_of
from leader_bridge.pool.tasks import bound_tasks
from leader_bridge.pool.tasks.task import TaskContext
from leader_bridge.pool.wanted import Wanted, walk
from leader_bridge.pool.worker import Worker
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.tipset_writer import TipsetWriter
from rpc.methods import register_all
from tests.bridge.store.test_traces import assert_traces
from tests.execution.machine import StoreExecutor, require_machine
from tests.execution.test_execute_past import rows_of_head, write_without_receipts
from tests.pool.redis_server import redis_server
from tests.support.processes import follower_process
from tests.support.recorded import recorded
from tests.support.recorded_answers import assert_recorded_answers
from tests.support.served import served

pytestmark = [pytest.mark.recorded, pytest.mark.timeout(900)]

#: all that a snapshot without receipts lacks, in the order in which one task needs another
TASKS = ("receipts", "events", "messages", "eth_hashes", "traces")


async def failures(store: Store) -> list[Report]:
    return [one async for one in reports_of(store, 0, 10_000) if not one.status.is_done]


async def claimed_rows(store: Store) -> list[TipsetRow]:
    """The rows of the head's chain, newest first, after a bridge took the reports over."""
    await Claims(store, TipsetWriter(store, Mirror(store, NoNodes()))).once()
    return await rows_of_head(store)


async def test_a_worker_makes_receipts_and_traces_by_execution(record_property: Callable[[str, object], None]) -> None:
    """A chain's first tipsets. Receipts are found by their hash, so those that a row promises are the chain's own."""
    require_machine()
    register_all()
    high = 60
    store = MemoryStore()
    await import_car(store, recorded("devnet/snapshot.car.zst"), network_file=recorded("devnet/network.json"))
    context = TaskContext(store, executor=StoreExecutor(store))
    worker = Worker(context, bound_tasks(context), "test", job_seconds=600)
    for job in walk_jobs(WALK, 0, high, TASKS, 20):
        assert await worker.handle(job, 0) is None
    assert await failures(store) == []
    assert await find_gaps(store, 0, high, TASKS) == []
    whole = [row.height for row in await claimed_rows(store) if row.held == HELD_ALL | INDEXED_EVENTS]
    # a tipset's row promises what its parent's messages did
    assert max(whole) > high
    assert len(whole) >= 45
    for row in await rows_of_head(store):
        if row.height in whole and row.height:
            child = await context.index.tipset(row.key)
            assert await store.get(child.parent_message_receipts.multihash) is not None
    assert await assert_traces(store, "devnet/traces.jsonl.zst", record_property, high) == 19


@pytest.mark.long
@pytest.mark.parametrize(("folder", "traces"), [("devnet", 1_962), ("busy", 1_832)])
async def test_worker_processes_complete_a_chain(
    folder: str, traces: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """`follower worker --execution on` over a queue; then every recorded answer and trace of Lotus."""
    require_machine()
    register_all()
    write_without_receipts(folder, tmp_path / "snapshot.car")
    url = f"lmdb://{tmp_path / 'store'}"
    store = await open_store(url)
    await import_car(store, tmp_path / "snapshot.car", network_file=recorded(f"{folder}/network.json"))
    high = (await rows_of_head(store))[1].height
    with redis_server(tmp_path) as redis:
        options = ("--store", url, "--redis", redis.url, "--execution", "on", "--queues", "walk")
        with follower_process("worker", *options, "--job-seconds", "600") as worker:
            engine = RedisEngine(redis.url, job_seconds=600)
            await walk(store, engine, Wanted(0, high, TASKS))
            while await find_gaps(store, 0, high, TASKS):
                assert worker.process.poll() is None, worker.output()
                await asyncio.sleep(0.5)
            await engine.close()
    assert await failures(store) == []
    rows = await claimed_rows(store)
    assert all(row.held == HELD_ALL | INDEXED_EVENTS for row in rows[:-1])
    async with served(store) as server:
        await assert_recorded_answers(f"http://127.0.0.1:{server.port}", folder, record_property)
    assert await assert_traces(store, f"{folder}/traces.jsonl.zst", record_property) == traces
    await store.close()
