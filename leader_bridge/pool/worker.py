"""Runs jobs: for each epoch, what no worker has done yet; then a report of each task.

A job that fails comes back a few times, later each time; what still fails stays a gap that `find` names. A job whose
store is behind is deferred: it comes back at no cost. Rows are durable before a report says so, so a worker may be
killed at any moment.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from blockstore.errors import Missing, StoreError
from blockstore.store import Store
from blockstore.store_clock import wall_ms
from chain.errors import ChainError, NotHeld
from chain.tipset import Tipset, TipsetKey
from leader_bridge import metrics
from leader_bridge.clock import monotonic
from leader_bridge.pool.engine import Again
from leader_bridge.pool.job import LIMITS, Job
from leader_bridge.pool.reports import NULL_ROUND, Report, Status, digest_of, reported_tasks, save_reports
from leader_bridge.pool.tasks.tables import PREFIX as TABLE
from leader_bridge.pool.tasks.task import Defer, Outcome, TaskContext, TaskRun
from leader_bridge.store.execution import ExecutionDiffers
from rpc.errors import RpcError
from rpc.node_errors import NodeError

log = logging.getLogger(__name__)

#: a job that fails more often is left to `find`
MOST_TRIES: Final = 3
#: what a task may raise beside Defer
_FAILURES: Final = (StoreError, ChainError, NodeError, RpcError, ExecutionDiffers)


@dataclass(slots=True)
class Counts:
    """What a worker has done: tasks on tipsets by their status, jobs, and jobs put off."""

    tasks: dict[str, int] = field(default_factory=dict)
    jobs: int = 0
    deferred: int = 0
    failed: int = 0


class _Taken(Exception):
    """Another worker does this job: this one stood still for so long that it counted as dead."""


class Worker:
    """`handle` is given to an engine. `tasks`: those that can be done here, by name. `job_seconds`: the time limit of a
    job of class `watch`; others have a multiple. `defer_seconds`: until a deferred job comes back.
    `on_null_round` is called with each epoch that turns out to be one, before that is reported. `still_holds`: as the
    engine tells it; a worker that stood still reports nothing of a job that another one does."""

    def __init__(
        self,
        context: TaskContext,
        tasks: Mapping[str, TaskRun],
        name: str,
        *,
        job_seconds: float = 60.0,
        defer_seconds: float = 2.0,
        wall: Callable[[], int] = wall_ms,
        on_null_round: Callable[[int], Awaitable[None]] | None = None,
        still_holds: Callable[[Job], Awaitable[bool]] | None = None,
    ) -> None:
        self._context = context
        self._store: Store = context.store
        self._tasks = tasks
        self.name = name
        self._job_seconds = job_seconds
        self._defer_seconds = defer_seconds
        self._wall = wall
        self._on_null_round = on_null_round
        self._still_holds = still_holds
        self.counts = Counts()

    async def handle(self, job: Job, tries: int) -> Again | None:
        """Do a job (`engine.Handle`)."""
        began = monotonic()
        self.counts.jobs += 1
        try:
            async with asyncio.timeout(self._job_seconds * LIMITS[job.queue]):
                failed = await self._do(job)
        except Defer as reason:
            log.debug("epochs %d to %d come back later: %s", job.low, job.high, reason)
            self.counts.deferred += 1
            metrics.POOL_JOBS.labels(job.queue, "deferred").inc()
            return Again(self._defer_seconds, is_try=False)
        except _Taken:
            log.info("epochs %d to %d are left to the worker that took them over meanwhile", job.low, job.high)
            metrics.POOL_JOBS.labels(job.queue, "taken").inc()
            return None
        except TimeoutError:
            log.warning(
                "a job of class %s, epochs %d to %d, took longer than %.0f s",
                job.queue,
                job.low,
                job.high,
                self._job_seconds * LIMITS[job.queue],
            )
            failed = True
        except _FAILURES as error:
            log.warning("a job of class %s, epochs %d to %d, failed: %s", job.queue, job.low, job.high, error)
            failed = True
        except Exception:
            # a fault of the program: other jobs go on, and this one is not given out without end
            log.exception("a job of class %s, epochs %d to %d, has met a fault", job.queue, job.low, job.high)
            failed = True
        finally:
            metrics.POOL_JOB_SECONDS.labels(job.queue).observe(monotonic() - began)
        if not failed:
            metrics.POOL_JOBS.labels(job.queue, "done").inc()
            return None
        self.counts.failed += 1
        metrics.POOL_JOBS.labels(job.queue, "failed").inc()
        if tries + 1 >= MOST_TRIES:
            return None
        return Again(self._defer_seconds * (tries + 1) ** 4 * random.uniform(1.0, 1.5), is_try=True)

    async def _do(self, job: Job) -> bool:
        """Whether a task failed that may succeed later. Errors: Defer, and `_FAILURES`."""
        entry = await self._store.head()
        if entry is None:
            raise Defer("the store has no head yet")
        try:
            head = await self._context.index.tipset(TipsetKey(entry.head.key))
            await self._context.begin(head, job.low, job.high)
            if job.key:
                return await self._tipset(job, await self._context.index.tipset(TipsetKey(job.key)))
        except Missing as error:
            raise Defer(f"a header is not held yet: {error}") from None
        failed = False
        for height in range(job.low, job.high + 1):
            if height > head.height:
                raise Defer(f"the head of this store is at epoch {head.height}, below {height}")
            try:
                tipset = await self._context.index.at_height(head, height)
            except (NotHeld, Missing) as error:
                await self._not_read(job, height, Outcome(Status.SKIP, f"not held: {error}"))
                continue
            except ChainError as error:
                await self._not_read(job, height, Outcome(Status.ERROR, f"{type(error).__name__}: {error}"))
                failed = True
                continue
            if tipset.height == height:
                failed |= await self._tipset(job, tipset)
            else:
                await self._null_round(job, height)
        return failed

    async def _tipset(self, job: Job, tipset: Tipset) -> bool:
        """Do what is left to do for one tipset; whether something failed. Errors: Defer, StoreError."""
        digest = digest_of(tipset.key)
        done, failed_before = await reported_tasks(self._store, tipset.height, digest, job.tasks)
        reports: list[Report] = []
        deferred: Defer | None = None
        for name in job.tasks:
            if name in done:
                continue
            started = self._wall()
            try:
                outcome = await self._run(name, tipset)
            except Defer as reason:
                deferred = reason
                continue
            reports.append(self._made(tipset.height, digest, name, outcome, started))
        await self._save(job, reports, failed_before)
        if deferred is not None:
            raise deferred
        return any(report.status == Status.ERROR for report in reports)

    async def _run(self, name: str, tipset: Tipset) -> Outcome:
        """Errors: Defer."""
        task = self._task(name)
        if task is None:
            return self._lacking(name)
        try:
            return await task(self._store, tipset) or Outcome()
        except Defer:
            raise
        except (*_FAILURES, OSError) as error:
            return Outcome(Status.ERROR, f"{type(error).__name__}: {error}")
        except Exception as error:
            # a fault of the program, maybe with this tipset alone: the job would be given out again without end
            log.exception("the task %s has a fault at epoch %d", name, tipset.height)
            return Outcome(Status.ERROR, f"a fault: {type(error).__name__}")

    def _task(self, name: str) -> TaskRun | None:
        # a place may stand behind a name (`tasks.moving`); rows of tables go to one place alone
        found = self._tasks.get(name)
        return self._tasks.get(name.partition("@")[0]) if found is None and not name.startswith(TABLE) else found

    @staticmethod
    def _lacking(name: str) -> Outcome:
        return Outcome(Status.SKIP, f"this worker lacks what the task {name} needs")

    async def _null_round(self, job: Job, height: int) -> None:
        """Report a null round, once. Errors: StoreError."""
        done, failed_before = await reported_tasks(self._store, height, NULL_ROUND, job.tasks)
        nothing = Outcome(Status.INFO, "null round")
        lacking = [name for name in job.tasks if name not in done]
        if lacking and self._on_null_round is not None:
            await self._on_null_round(height)
        reports: list[Report] = []
        for name in lacking:
            # rows that a table has of a tipset of before are withdrawn at their own place alone
            is_done = not name.startswith(TABLE) or self._task(name) is not None
            outcome = nothing if is_done else self._lacking(name)
            reports.append(self._made(height, NULL_ROUND, name, outcome, self._wall()))
        await self._save(job, reports, failed_before)

    async def _not_read(self, job: Job, height: int, outcome: Outcome) -> None:
        """Report that the chain cannot be read down to an epoch. Errors: StoreError."""
        await self._save(job, [self._made(height, NULL_ROUND, name, outcome, self._wall()) for name in job.tasks])

    async def _save(self, job: Job, reports: list[Report], failed_before: Collection[str] = ()) -> None:
        """Errors: _Taken, StoreError."""
        if reports and self._still_holds is not None and not await self._still_holds(job):
            raise _Taken
        for report in reports:
            name = report.status.name
            self.counts.tasks[name] = self.counts.tasks.get(name, 0) + 1
            metrics.POOL_TASKS.labels(report.task, name).inc()
        await save_reports(self._store, reports, failed_before)

    def _made(self, height: int, digest: bytes, name: str, outcome: Outcome, started: int) -> Report:
        return Report(
            height,
            digest,
            name,
            outcome.status,
            self.name,
            started,
            self._wall(),
            outcome.why,
            claim=outcome.claim,
        )
