"""Tables for people who ask in SQL, made by workers: what `leader_bridge.tables` makes of a tipset.

The names are `table_messages` and so on. Behind them stands which place the rows go to, for what was done for one place
is not done for another one.
"""

from __future__ import annotations

import hashlib
from typing import Final

from blockstore.store import Store
from blockstore.store_url import public_url
from chain.tipset import Tipset
from leader_bridge.pool.tasks.task import CannotDo, Defer, Outcome, TaskRun
from leader_bridge.tables.catalogue import TASKS
from leader_bridge.tables.jobs import NoChild, TableJob, TableJobs

PREFIX: Final = "table_"
NAMES: Final = tuple(PREFIX + name for name in TASKS)


def placed_table(name: str, place: str) -> str:
    """The full name of a task. `place`: as `--tables-store` takes it. Errors: CannotDo (there is no place)."""
    if not place:
        raise CannotDo(f"{name} needs a place for its rows: give --tables-store")
    public = public_url(place) if "://" in place else place
    return f"{name}@{hashlib.blake2b(public.partition('?')[0].encode(), digest_size=4).hexdigest()}"


async def open_tables(place: str) -> TableJobs:
    """All tables of a place. Errors: BadRequest, SinkError, OSError."""
    return await TableJobs.open(place, ["all"])


def table_tasks(jobs: TableJobs, place: str) -> dict[str, TaskRun]:
    """The tasks that make them, by full name: a worker of another place must not say that they are done here."""
    return {placed_table(name, place): _task(job) for name, job in jobs.by_name().items()}


def _task(job: TableJob) -> TaskRun:
    async def run(store: Store, tipset: Tipset) -> Outcome:
        try:
            await job(store, tipset)
        except NoChild as error:
            raise Defer(str(error)) from None
        return Outcome()

    return run
