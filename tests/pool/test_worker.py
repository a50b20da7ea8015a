"""A worker: what it reports, what comes back and at what cost, and that a second run changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from blockstore.errors import StoreUnavailable
from blockstore.lmdb.store import LmdbStore
from blockstore.memory import MemoryStore
from blockstore.scan import row_pages
from blockstore.store import COVERAGE, ETH_TXS, EVENT_POSTINGS, EVENTS, MESSAGES, TIPSETS, Batch, Store
from chain.index.chain_index import HELD_ALL, INDEXED_EVENTS, decode_row
from chain.index.coverage import MESSAGES_INDEX, covered
from chain.index.event_rows import EVENTS_INDEX
from chain.index.kept import INDICES, Kept, save_kept
from chain.tipset import Tipset, TipsetKey
from leader_bridge.nodes.no_nodes import NoNodes
from leader_bridge.pool.claims import Claims
from leader_bridge.pool.embedded import EmbeddedEngine
from leader_bridge.pool.engine import Again, QueueUnavailable
from leader_bridge.pool.gaps import find_gaps
from leader_bridge.pool.job import FILL, WALK, WATCH, Job, jobs_of, slots_of, walk_jobs
from leader_bridge.pool.reports import Report, Status, reports_of
from leader_bridge.pool.tasks import DEFAULT, bound_tasks
from leader_bridge.pool.tasks.task import Defer, Outcome, TaskContext, TaskRun
from leader_bridge.pool.worker import MOST_TRIES, Worker
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.tipset_writer import TipsetWriter
from tests.pool.chain import pool_chain


def worker_of(store: Store, **tasks: TaskRun) -> Worker:
    context = TaskContext(store)
    return Worker(context, tasks or bound_tasks(context), "test", job_seconds=20, defer_seconds=0.01)


async def reports(store: Store) -> list[Report]:
    return [one async for one in reports_of(store, 0, 10_000)]


async def all_rows(store: Store) -> dict[str, list[object]]:
    tables = (EVENTS, EVENT_POSTINGS, MESSAGES, ETH_TXS, COVERAGE)
    return {one.name: [row async for page in row_pages(store, one) for row in page.rows] for one in tables}


async def test_a_walk_leaves_only_the_head_to_its_child() -> None:
    chain = await pool_chain(MemoryStore(), 12, nulls={5, 6})
    worker = worker_of(chain.store)
    assert await worker.handle(Job(WALK, 0, 11, DEFAULT), 0) is None
    assert await find_gaps(chain.store, 0, 11, DEFAULT) == []
    assert await find_gaps(chain.store, 0, 12, DEFAULT) == [(12, DEFAULT)]
    by_status = {status: [one for one in await reports(chain.store) if one.status == status] for status in Status}
    assert len(by_status[Status.OK]) == 10 * len(DEFAULT)
    assert {one.height for one in by_status[Status.INFO]} == {5, 6}
    # the head's events are told by a child that is not there yet
    assert await worker.handle(Job(WALK, 12, 12, DEFAULT), 0) == Again(0.01, is_try=False)
    assert await find_gaps(chain.store, 0, 12, DEFAULT) == [(12, ("events",))]
    await chain.line(13)
    assert await worker.handle(Job(WALK, 12, 12, DEFAULT), 0) is None
    assert await find_gaps(chain.store, 0, 12, DEFAULT) == []


async def test_a_second_run_does_nothing_and_a_forced_one_changes_nothing(tmp_path: Path) -> None:
    store = await LmdbStore.open(tmp_path / "store")
    await pool_chain(store, 6)
    runs: list[int] = []
    worker = worker_of(store)
    job = Job(WALK, 0, 5, DEFAULT)
    await worker.handle(job, 0)
    once = await all_rows(store)
    assert once["events"]

    async def never(store: Store, tipset: Tipset) -> None:
        runs.append(tipset.height)

    await worker_of(store, **dict.fromkeys(DEFAULT, never)).handle(job, 0)
    assert runs == []
    again = TaskContext(store)
    entry = await store.head()
    assert entry is not None
    again.head = await again.index.tipset(TipsetKey(entry.head.key))
    for run in bound_tasks(again).values():
        await run(store, await again.index.at_height(again.head, 3))
    assert await all_rows(store) == once
    await store.close()


@pytest.mark.parametrize(
    ("outcomes", "status", "comes_back"),
    [
        ([None], ["OK"], False),
        ([Outcome(Status.INFO)], ["INFO"], False),
        ([None, StoreUnavailable("away")], ["OK", "ERROR"], True),
        ([None, Outcome(Status.SKIP, "not held")], ["OK", "SKIP"], False),
        ([StoreUnavailable("away")], ["ERROR"], True),
        ([ZeroDivisionError("a fault"), None], ["OK", "ERROR"], True),
        ([None, Defer("not yet")], ["OK"], True),
    ],
    ids=["OK", "INFO", "OK and ERROR", "OK and SKIP", "ERROR", "a fault", "OK and DEFER"],
)
async def test_results(outcomes: list[Outcome | Exception | None], status: list[str], comes_back: bool) -> None:
    chain = await pool_chain(MemoryStore(), 3)

    def made(outcome: Outcome | Exception | None) -> TaskRun:
        async def run(store: Store, tipset: Tipset) -> Outcome | None:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return run

    tasks = {f"task{number}": made(outcome) for number, outcome in enumerate(outcomes)}
    worker = worker_of(chain.store, **tasks)
    again = await worker.handle(Job(FILL, 2, 2, tuple(tasks)), 0)
    assert [one.status.name for one in await reports(chain.store)] == status
    assert (again is not None) == comes_back
    is_whole = all(name in ("OK", "INFO") for name in status) and len(status) == len(outcomes)
    assert (await find_gaps(chain.store, 2, 2, tuple(tasks)) == []) == is_whole


async def test_a_failure_costs_a_try_and_a_deferral_none() -> None:
    chain = await pool_chain(MemoryStore(), 3)

    async def fails(store: Store, tipset: Tipset) -> None:
        raise StoreUnavailable("away")

    async def waits(store: Store, tipset: Tipset) -> None:
        raise Defer("not yet")

    for task, is_try in ((fails, True), (waits, False)):
        worker = worker_of(chain.store, task=task)
        found = [await worker.handle(Job(FILL, 2, 2, ("task",)), tries) for tries in range(MOST_TRIES)]
        assert [one and one.is_try for one in found] == ([True, True, None] if is_try else [False, False, False])
        waits_for = [one.seconds for one in found if one is not None]
        # later each time
        assert not is_try or waits_for[0] < waits_for[1]


async def test_a_job_that_takes_too_long_fails() -> None:
    chain = await pool_chain(MemoryStore(), 3)

    async def hangs(store: Store, tipset: Tipset) -> None:
        await asyncio.Event().wait()

    worker = Worker(TaskContext(chain.store), {"task": hangs}, "test", job_seconds=0.02, defer_seconds=0.01)
    again = await worker.handle(Job(WATCH, 2, 2, ("task",)), 0)
    assert again is not None
    assert again.is_try
    assert worker.counts.failed == 1


async def test_a_worker_whose_store_lags_defers_and_loses_nothing() -> None:
    chain = await pool_chain(MemoryStore(), 4)
    worker = worker_of(chain.store)
    ahead = Job(FILL, 3, 7, DEFAULT)
    assert await worker.handle(ahead, 0) == Again(0.01, is_try=False)
    unknown = await pool_chain(MemoryStore(), 4)
    other = await unknown.tipset(unknown.head, [])
    assert await worker.handle(Job(WATCH, 5, 5, DEFAULT, other.key), 0) == Again(0.01, is_try=False)
    assert await worker_of(MemoryStore()).handle(ahead, 0) == Again(0.01, is_try=False)
    assert not [one for one in await reports(chain.store) if not one.status.is_done]
    await chain.line(8)
    assert await worker.handle(ahead, 0) is None
    assert await find_gaps(chain.store, 3, 7, DEFAULT) == []


async def test_objects_that_a_lagging_store_lacks_defer_and_those_that_nobody_has_are_skipped() -> None:
    chain = await pool_chain(MemoryStore(), 4)
    tipset, child = chain.canonical()[2:4]
    meta = tipset.blocks[0].messages.multihash
    assert chain.store._objects.pop(meta)
    worker = worker_of(chain.store)
    job = Job(FILL, 2, 2, DEFAULT)
    assert await worker.handle(job, 0) == Again(0.01, is_try=False)
    assert await reports(chain.store) == []
    batch = Batch()
    for one in (tipset, child):
        # the bridge has said that it holds neither
        batch.put(TIPSETS, one.key.cid, b"", replace(chain.rows[one.key], held=HELD_ALL & ~3).encode())
    await chain.store.write(batch)
    assert await worker_of(chain.store).handle(job, 0) is None
    assert {one.status for one in await reports(chain.store)} == {Status.SKIP}


async def test_the_leader_takes_over_what_is_on_its_chain() -> None:
    chain = await pool_chain(MemoryStore(), 9, nulls={4})
    await worker_of(chain.store).handle(Job(WALK, 0, 8, DEFAULT), 0)
    fork = chain.canonical()[7:]
    await chain.reorg(2, [], [])
    writer = TipsetWriter(chain.store, Mirror(chain.store, NoNodes()))
    claims = Claims(chain.store, writer)
    assert await covered(chain.store, EVENTS_INDEX) == []
    assert await claims.once() > 0
    tipsets = chain.canonical()
    assert fork[0].height == 8
    # the tipset of epoch 8 is another now; its rows are not there
    assert await covered(chain.store, EVENTS_INDEX) == [(0, 7)]
    assert await covered(chain.store, MESSAGES_INDEX) == [(0, 7)]
    for child in tipsets[1:8]:
        value = await chain.store.row(TIPSETS, child.key.cid, b"")
        assert value is not None
        assert bool(decode_row(value).held & INDEXED_EVENTS) == (child.height <= 7)
    assert await claims.once() == 0


async def test_a_leader_that_is_started_again_does_not_look_at_all_reports_anew(tmp_path: Path) -> None:
    store = await LmdbStore.open(tmp_path / "store", map_size=1 << 30)
    chain = await pool_chain(store, 5)
    await worker_of(store).handle(Job(WALK, 0, 3, DEFAULT), 0)
    writer = TipsetWriter(store, Mirror(store, NoNodes()))
    assert await Claims(store, writer).once() > 0
    assert await Claims(store, writer).once() == 0
    await worker_of(store).handle(Job(WALK, 4, 4, DEFAULT), 0)
    assert await Claims(store, writer).once() > 0
    assert await covered(store, EVENTS_INDEX) == [(0, 4)]
    # retention removes the rows of the first two days
    batch = Batch()
    save_kept(batch, Kept().raised({INDICES: 2 * 2880}))
    await store.write(batch)
    assert chain.head is not None
    assert await Claims(store, writer).once() == 0
    assert [one async for one in reports_of(store, 0, 10_000)] == []
    await store.close()


def test_slots_are_shared_5_3_1_1() -> None:
    assert slots_of(("watch", "fill", "index", "walk"), 10) == {"watch": 5, "fill": 3, "index": 1, "walk": 1}
    assert slots_of(("watch", "fill"), 8) == {"watch": 5, "fill": 3}
    assert slots_of(("fill",), 8) == {"fill": 8}
    assert sum(slots_of(("watch", "fill", "index", "walk"), 23).values()) == 23
    assert slots_of(("watch", "fill", "index", "walk"), 1) == dict.fromkeys(("watch", "fill", "index", "walk"), 1)


def test_a_jobs_id_is_what_it_does() -> None:
    job = Job(WALK, 0, 9, ("events", "messages"))
    assert Job.from_json(job.to_json()) == job
    assert job.id == replace(job, queue=FILL).id == replace(job, tasks=("messages", "events")).id
    others = [replace(job, low=1), replace(job, high=8), replace(job, tasks=("events",)), replace(job, key=b"k")]
    assert len({job.id, *(other.id for other in others)}) == 5
    for wrong in ({**job.to_json(), "queue": "none"}, {**job.to_json(), "low": 10}):
        with pytest.raises(ValueError, match="not a job"):
            Job.from_json(wrong)


def test_walks_that_overlap_make_the_same_jobs() -> None:
    first, second = (list(walk_jobs(WALK, low, high, ("events",), 10)) for low, high in ((0, 45), (13, 60)))
    assert [(job.low, job.high) for job in first] == [(0, 9), (10, 19), (20, 29), (30, 39), (40, 45)]
    assert {job.id for job in first[2:4]} <= {job.id for job in second}
    gaps = [(height, ("events",)) for height in range(20, 40)]
    assert [job.id for job in jobs_of(FILL, gaps, 10)] == [job.id for job in first[2:4]]


def test_gaps_become_jobs_of_neighbours() -> None:
    gaps = [(8, ("a",)), (9, ("a",)), (10, ("a",)), (12, ("a",)), (13, ("a", "b"))]
    found = [(job.low, job.high, job.tasks) for job in jobs_of(FILL, gaps, 10)]
    assert found == [(8, 9, ("a",)), (10, 10, ("a",)), (12, 12, ("a",)), (13, 13, ("a", "b"))]
    assert list(jobs_of(FILL, [], 10)) == []


async def run_embedded(handle: Callable[[Job, int], object], jobs: list[Job]) -> int:
    engine, stop = EmbeddedEngine(most=3), asyncio.Event()
    running = asyncio.create_task(engine.run(handle, {"walk": 2, "watch": 1}, stop))  # type: ignore[arg-type]
    new = await engine.put(jobs)
    await engine.join()
    stop.set()
    await running
    return new


async def test_the_embedded_queue_gives_each_job_once_and_again_when_asked() -> None:
    seen: list[tuple[int, int]] = []

    async def handle(job: Job, tries: int) -> Again | None:
        seen.append((job.low, tries))
        if job.low == 3 and tries < 2:
            return Again(0.001, is_try=True)
        return Again(0.001, is_try=False) if job.low == 4 and seen.count((4, 0)) < 3 else None

    jobs = [Job(WALK, number, number, ("events",)) for number in range(12)]
    assert await run_embedded(handle, [*jobs, *jobs[:2]]) in (12, 13, 14)
    assert {low for low, _ in seen} == set(range(12))
    assert [tries for low, tries in seen if low == 3] == [0, 1, 2]
    assert [tries for low, tries in seen if low == 4] == [0, 0, 0]


async def test_a_fault_of_the_program_ends_the_embedded_queue_and_nobody_waits_for_it() -> None:
    async def handle(job: Job, tries: int) -> Again | None:
        raise ZeroDivisionError("a fault")

    engine, stop = EmbeddedEngine(most=2), asyncio.Event()
    running = asyncio.create_task(engine.run(handle, {"walk": 1}, stop))
    async with asyncio.timeout(60):
        with pytest.raises(QueueUnavailable):
            await engine.put([Job(WALK, number, number, ("events",)) for number in range(10)])
        await engine.join()
        with pytest.raises(ExceptionGroup):
            await running
