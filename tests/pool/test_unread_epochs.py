"""Epochs that a worker cannot read are reported, so that they are not given out again and again."""

from __future__ import annotations

import logging

import pytest

from blockstore.memory import MemoryStore
from blockstore.store import TIPSETS, Batch
from chain.tipset import Tipset
from leader_bridge.pool.gaps import find_gaps
from leader_bridge.pool.job import FILL, Job
from leader_bridge.pool.reports import Status
from leader_bridge.pool.tasks.task import TaskContext
from leader_bridge.pool.worker import Worker
from tests.pool.chain import PoolChain
from tests.pool.test_worker import reports, worker_of

TASKS = ("messages", "eth_hashes")


async def broken_chain(store: MemoryStore, break_at: int, *, with_row: bytes | None) -> list[Tipset]:
    """Epochs 0 to 40; the row of one tipset is gone, or is something else."""
    tipsets = await PoolChain(store).line(40)
    batch = Batch()
    key = tipsets[break_at].key.cid
    if with_row is None:
        batch.delete(TIPSETS, key, b"")
        # else the headers lead on
        for block in tipsets[break_at].blocks:
            store._objects.pop(block.cid.multihash)
    else:
        batch.put(TIPSETS, key, b"", with_row)
    await store.write(batch)
    return tipsets


@pytest.mark.parametrize(
    ("row", "status"), [(None, Status.SKIP), (b"no row", Status.ERROR)], ids=["not held", "damaged"]
)
async def test_below_a_hole_each_epoch_is_reported_and_left_alone_for_a_while(
    row: bytes | None, status: Status
) -> None:
    store = MemoryStore()
    await broken_chain(store, 37, with_row=row)
    worker = worker_of(store)
    await worker.handle(Job(FILL, 33, 34, TASKS), 0)
    told = await reports(store)
    assert [(one.height, one.status) for one in told] == [(33, status), (33, status), (34, status), (34, status)]
    # they stay gaps, but those that have just failed are not given out again
    assert await find_gaps(store, 33, 34, TASKS) == [(33, TASKS), (34, TASKS)]
    assert await find_gaps(store, 33, 34, TASKS, without_failed_since=told[0].ended_ms) == []
    later = max(one.ended_ms for one in told) + 1
    assert len(await find_gaps(store, 33, 34, TASKS, without_failed_since=later)) == 2


async def test_a_damaged_row_costs_no_other_epoch_of_its_job() -> None:
    store = MemoryStore()
    await broken_chain(store, 31, with_row=b"no row")
    await worker_of(store).handle(Job(FILL, 28, 34, TASKS), 0)
    told = {(one.height, one.status) for one in await reports(store)}
    assert {height for height, status in told if status is Status.OK} == {32, 33, 34}
    assert {height for height, status in told if status is Status.ERROR} == {28, 29, 30, 31}


async def test_a_fault_in_a_job_costs_a_try_and_ends_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(epoch: int) -> None:
        raise ZeroDivisionError("a fault")

    chain = PoolChain(MemoryStore())
    await chain.line(6, nulls={3})
    worker = Worker(TaskContext(chain.store), {}, "test", defer_seconds=0.01, on_null_round=broken)
    with caplog.at_level(logging.ERROR):
        again = await worker.handle(Job(FILL, 3, 3, TASKS), 0)
    assert again is not None
    assert again.is_try
    assert "has met a fault" in caplog.text
    assert await worker.handle(Job(FILL, 3, 3, TASKS), 2) is None
