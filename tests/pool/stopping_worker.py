"""A worker that stops itself (SIGSTOP) once, behind its first task and before the report of it.

As a process: `python -m tests.pool.stopping_worker STORE REDIS LIFE_SECONDS`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from blockstore.lmdb.store import LmdbStore
from blockstore.store import Store
from chain.tipset import Tipset
from leader_bridge.pool.job import WALK
from leader_bridge.pool.redis_engine import RedisEngine
from leader_bridge.pool.tasks import bound_tasks
from leader_bridge.pool.tasks.task import Outcome, TaskContext, TaskRun
from leader_bridge.pool.worker import Worker

#: far above what a test takes: nothing comes back by the limit of a job
JOB_SECONDS = 3600.0


def worker_named(name: str, store: Store, engine: RedisEngine, stops: bool = False) -> Worker:
    """A worker with all tasks. `stops`: the process stops itself behind the first one."""
    context = TaskContext(store)
    tasks = bound_tasks(context)
    left = ["stop"] if stops else []

    def wrapped(task: TaskRun) -> TaskRun:
        async def run(store: Store, tipset: Tipset) -> Outcome | None:
            done = await task(store, tipset)
            if left:
                left.clear()
                os.kill(os.getpid(), signal.SIGSTOP)
            return done

        return run

    tasks = {task: wrapped(run) for task, run in tasks.items()}
    return Worker(
        context, tasks, name, job_seconds=JOB_SECONDS, defer_seconds=0.05, still_holds=engine.still_holds
    )  # fmt: skip


async def main(path: str, redis: str, life_seconds: str) -> None:
    """Work on the class `walk` until SIGTERM."""
    store = await LmdbStore.open(Path(path), map_size=1 << 30)
    engine = RedisEngine(redis, job_seconds=JOB_SECONDS, life_seconds=float(life_seconds))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await engine.run(worker_named("stopped", store, engine, stops=True).handle, {WALK: 1}, stop)
    await engine.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
