"""The watcher over a real head log: what becomes a job and when, reorgs, restarts; and ranges that are filled again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from blockstore.errors import StoreUnavailable
from blockstore.memory import MemoryStore
from blockstore.store import HeadEntry
from leader_bridge.pool import watch
from leader_bridge.pool.engine import Handle, QueueUnavailable, Waiting
from leader_bridge.pool.gaps import find_gaps
from leader_bridge.pool.job import SHARES, WATCH, Job
from leader_bridge.pool.reports import Report, Status, digest_of, reports_of, save_reports
from leader_bridge.pool.tasks import DEFAULT, bound_tasks
from leader_bridge.pool.tasks.task import TaskContext
from leader_bridge.pool.wanted import RETRY_MS, Wanted, fill, load_wanted, refill, walk
from leader_bridge.pool.watch import Watcher
from leader_bridge.pool.worker import Worker
from tests.pool.chain import PoolChain, pool_chain
from tests.support.event_chain import TOKEN


class Noted:
    """An engine that keeps what is enqueued; it may be lost, or away."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.chunks: list[int] = []
        self.is_away = False

    async def put(self, jobs: Sequence[Job]) -> int:
        if self.is_away:
            raise QueueUnavailable("away")
        known = {job.id for job in self.jobs}
        new = [job for job in jobs if job.id not in known]
        self.jobs += new
        self.chunks.append(len(jobs))
        return len(new)

    async def run(self, handle: Handle, slots: object, stop: object) -> None:
        raise NotImplementedError

    async def work(self, chain: PoolChain) -> None:
        """Do all that waits."""
        context = TaskContext(chain.store)
        worker = Worker(context, bound_tasks(context), "test", job_seconds=30)
        for job in self.jobs:
            await worker.handle(job, 0)
        self.jobs.clear()

    async def claim_turn(self, what: str, seconds: float) -> bool:
        return True

    async def waiting(self) -> dict[str, Waiting]:
        counts = {queue: sum(job.queue == queue for job in self.jobs) for queue in SHARES}
        return {queue: Waiting(count, 0) for queue, count in counts.items()}

    async def close(self) -> None:
        return None


def heights(engine: Noted) -> list[int]:
    return [job.low for job in engine.jobs]


async def test_a_tipset_becomes_a_job_when_three_stand_on_it() -> None:
    chain = await pool_chain(MemoryStore(), 5)
    engine = Noted()
    watcher = Watcher(chain.store, engine, DEFAULT, confidence=3)
    assert await watcher.step() == 0
    tipset = await chain.grow((TOKEN, 6, b""), nulls=2)
    # the ring is warm: 3, 4, 5 are in it
    assert await watcher.step() == 1
    assert engine.jobs == [Job(WATCH, 3, 3, DEFAULT, chain.canonical()[3].key)]
    for _ in range(3):
        await chain.grow()
    assert await watcher.step() == 3
    assert engine.jobs[-1].low == 8
    assert engine.jobs[-1].key == tipset.key
    await engine.work(chain)
    assert await find_gaps(chain.store, 3, 8, DEFAULT) == []


@pytest.mark.parametrize("confidence", [0, 1, 3])
async def test_of_n_tipsets_all_but_the_ring_are_worked_on(confidence: int) -> None:
    chain = await pool_chain(MemoryStore(), 0)
    engine = Noted()
    watcher = Watcher(chain.store, engine, DEFAULT, confidence=confidence)
    await watcher.step()
    for _ in range(7):
        await chain.grow()
        await watcher.step()
    # the genesis is in the ring from the start
    first = 1 if confidence == 0 else 0
    assert heights(engine) == list(range(first, 8 - confidence))


async def test_a_reorg_within_the_ring_makes_no_job_of_what_was_reverted() -> None:
    chain = await pool_chain(MemoryStore(), 5)
    engine = Noted()
    watcher = Watcher(chain.store, engine, DEFAULT, confidence=3)
    await watcher.step()
    old = {tipset.key for tipset in chain.canonical()[-2:]}
    await chain.reorg(2, [(TOKEN, 1, b"")], [(TOKEN, 2, b"")], [(TOKEN, 3, b"")])
    await watcher.step()
    for _ in range(3):
        await chain.grow()
    await watcher.step()
    assert heights(engine) == [3, 4, 5, 6]
    assert not old & {job.key for job in engine.jobs}


async def test_a_reorg_below_the_ring_withdraws_reports_and_works_on_the_new_tipsets() -> None:
    chain = await pool_chain(MemoryStore(), 3)
    engine = Noted()
    watcher = Watcher(chain.store, engine, ("messages",), confidence=1)
    await watcher.step()
    for _ in range(4):
        await chain.grow()
    await watcher.step()
    await engine.work(chain)
    gone = chain.canonical()[-4:]
    await chain.reorg(4, *[[(TOKEN, number, b"")] for number in range(5)])
    assert await watcher.step() > 0
    await engine.work(chain)
    reported = {(one.height, one.tipset) async for one in reports_of(chain.store, 0, 100)}
    assert not {(one.height, digest_of(one.key)) for one in gone} & reported
    head = chain.head
    assert head is not None
    assert await find_gaps(chain.store, 3, head.height - 1, ("messages",)) == []


async def test_a_watcher_goes_on_where_the_one_before_stopped() -> None:
    chain = await pool_chain(MemoryStore(), 3)
    engine = Noted()
    watcher = Watcher(chain.store, engine, DEFAULT, confidence=2)
    await watcher.step()
    for _ in range(3):
        await chain.grow()
    await watcher.step()
    await chain.grow()
    await chain.grow()
    again = Watcher(chain.store, engine, DEFAULT, confidence=2)
    await again.step()
    assert heights(engine) == [2, 3, 4, 5, 6]


async def test_what_is_lost_while_the_queue_is_away_is_filled() -> None:
    chain = await pool_chain(MemoryStore(), 3)
    engine = Noted()
    watcher = Watcher(chain.store, engine, DEFAULT, confidence=1)
    await watcher.step()
    await chain.grow()
    await watcher.step()
    await engine.work(chain)
    engine.is_away = True
    for _ in range(4):
        await chain.grow()
    with pytest.raises(QueueUnavailable):
        await watcher.step()
    engine.is_away = False
    assert await refill(chain.store, engine, 0) > 0
    await engine.work(chain)
    head = chain.head
    assert head is not None
    assert await find_gaps(chain.store, 3, head.height - 1, DEFAULT) == []


async def test_the_next_step_enqueues_what_the_queue_did_not_take() -> None:
    """Also while a long walk waits there, during which nothing is filled."""
    chain = await pool_chain(MemoryStore(), 3)
    engine = Noted()
    watcher = Watcher(chain.store, engine, DEFAULT, confidence=1)
    await watcher.step()
    for _ in range(3):
        await chain.grow()
    engine.is_away = True
    with pytest.raises(QueueUnavailable):
        await watcher.step()
    engine.is_away = False
    await chain.grow()
    await watcher.step()
    assert heights(engine) == [3, 4, 5, 6]


async def test_a_watcher_that_fails_while_it_follows_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = await pool_chain(MemoryStore(), 3)
    engine = Noted()
    watcher = Watcher(chain.store, engine, DEFAULT, confidence=1)
    await watcher.step()
    monkeypatch.setattr(watch, "_ENTRIES", 2)
    for _ in range(5):
        await chain.grow()
    really_read, reads = chain.store.head_entries, 0

    async def read(*arguments: Any, **options: Any) -> list[HeadEntry]:
        nonlocal reads
        reads += 1
        if reads == 2:
            raise StoreUnavailable("away")
        return await really_read(*arguments, **options)

    monkeypatch.setattr(chain.store, "head_entries", read)
    with pytest.raises(StoreUnavailable):
        await watcher.step()
    assert heights(engine) == []
    await watcher.step()
    assert heights(engine) == [3, 4, 5, 6, 7]


async def test_a_watcher_that_was_killed_before_its_first_job_is_gone_on_with() -> None:
    chain = await pool_chain(MemoryStore(), 3)
    engine = Noted()
    await Watcher(chain.store, engine, DEFAULT, confidence=2).step()
    for _ in range(4):
        await chain.grow()
    await Watcher(chain.store, engine, DEFAULT, confidence=2).step()
    assert heights(engine) == [2, 3, 4, 5]


async def test_a_walk_goes_on_at_its_cursor_in_chunks() -> None:
    chain = await pool_chain(MemoryStore(), 3)
    engine = Noted()
    wanted = Wanted(0, 11_999, DEFAULT)
    cursors: list[int] = []

    def tell(cursor: int) -> None:
        cursors.append(cursor)
        engine.is_away = len(cursors) == 3

    with pytest.raises(QueueUnavailable):
        await walk(chain.store, engine, wanted, span=10, tell=tell)
    assert cursors == [0, 5000, 10_000]
    engine.is_away = False
    # a queue that was lost meanwhile: the walk does not begin again, the gaps are the refill's
    assert await walk(chain.store, engine, wanted, span=10, tell=cursors.append) == 200
    assert cursors == [0, 5000, 10_000, 10_000, 12_000]
    assert engine.chunks == [500, 500, 200]
    assert len({job.id for job in engine.jobs}) == 1200


async def test_a_lost_queue_is_filled_from_the_store() -> None:
    chain = await pool_chain(MemoryStore(), 40)
    engine = Noted()
    await walk(chain.store, engine, Wanted(0, 39, DEFAULT), span=10)
    assert await refill(chain.store, engine, 0, span=10) == 0, "jobs wait still"
    engine.jobs = engine.jobs[:1]
    await engine.work(chain)
    assert await refill(chain.store, engine, 0, span=10) == 3
    await engine.work(chain)
    assert await refill(chain.store, engine, 0, span=10) == 0
    assert [one.complete for one in await load_wanted(chain.store)] == [True]
    assert await find_gaps(chain.store, 0, 39, DEFAULT) == []


async def test_what_failed_is_not_tried_by_itself_for_an_hour() -> None:
    chain = await pool_chain(MemoryStore(), 4)
    engine = Noted()
    await walk(chain.store, engine, Wanted(1, 2, ("events",)))
    engine.jobs.clear()
    for tipset in chain.canonical()[1:3]:
        report = Report(tipset.height, digest_of(tipset.key), "events", Status.SKIP, ended_ms=1000)
        await save_reports(chain.store, [report])
    assert await refill(chain.store, engine, 1000 + RETRY_MS) == 0
    assert await refill(chain.store, engine, 1001 + RETRY_MS) == 1
    assert [one.complete for one in await load_wanted(chain.store)] == [False]
    engine.jobs.clear()
    # a person who asks gets it at once
    assert await fill(engine, await find_gaps(chain.store, 1, 2, ("events",))) == 1
