"""Tables by a pool of workers: each task as an async function of (store, tipset), with a name.

Only PostgreSQL takes rows from several workers at once; into a folder of Parquet files one process writes at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from blockstore.store import Store
from chain.errors import NotHeld
from chain.tipset import Tipset
from leader_bridge.tables.catalogue import find_tasks
from leader_bridge.tables.extract import NoRows, extract_tipset
from leader_bridge.tables.sinks.opening import open_sink
from leader_bridge.tables.sinks.sink import Sink
from leader_bridge.tables.source import TableSource
from leader_bridge.tables.table import Task

#: Makes the rows of one task at one tipset, which replace all that is at its epoch; their number.
TableJob = Callable[[Store, Tipset], Awaitable[int]]

_PREFIX: Final = "table_"


class NoChild(NotHeld):
    """The rows are made from the child's header, and the tipset has none on the chain of the head yet."""


class TableJobs:
    """The tasks of a place of rows, for one worker; they run one after another, for a place has one connection.

    What one has written is durable when it returns. Errors of jobs: ExtractFailed, NoChild, SinkError, StoreError.
    """

    def __init__(self, sink: Sink, tasks: Sequence[Task]) -> None:
        self._sink = sink
        self._tasks = tasks
        self._turn = asyncio.Lock()
        self._sources: dict[int, TableSource] = {}

    @classmethod
    async def open(cls, place: str, names: Sequence[str]) -> TableJobs:
        """`place` as `--to-store`, `names` as `--tasks` take them. Errors: BadRequest, SinkError, OSError."""
        tasks = find_tasks(names)
        return cls(await open_sink(place, [task.table for task in tasks]), tasks)

    def by_name(self) -> dict[str, TableJob]:
        """The jobs: "table_messages", …"""
        return {_PREFIX + task.name: self._job(task) for task in self._tasks}

    def _job(self, task: Task) -> TableJob:
        async def run(store: Store, tipset: Tipset) -> int:
            source = await self._source(store)
            child = await _child(source, tipset) if task.needs_child else None
            async with self._span(tipset.height, [task]):
                return await extract_tipset(self._sink, task, source.view(tipset, child))

        return run

    async def withdraw(self, height: int) -> None:
        """Remove the rows of an epoch that is a null round now. Errors: SinkError."""
        async with self._span(height, self._tasks):
            for task in self._tasks:
                await self._sink.replace(task, height, None, NoRows())

    @contextlib.asynccontextmanager
    async def _span(self, height: int, tasks: Sequence[Task]) -> AsyncIterator[None]:
        """A span of one epoch; nothing stays of one that fails or is cancelled, so the next job begins afresh."""
        async with self._turn:
            try:
                await self._sink.begin(height, height, tasks)
                yield
                await self._sink.end()
            except BaseException:
                await self._sink.abandon()
                raise

    async def close(self) -> None:
        """Leave the place."""
        await self._sink.close()

    async def _source(self, store: Store) -> TableSource:
        source = self._sources.get(id(store))
        if source is None:
            source = self._sources[id(store)] = await TableSource.open(store)
        return source


async def _child(source: TableSource, tipset: Tipset) -> Tipset:
    head = await source.head()
    if head.height > tipset.height:
        child = await source.index.at_height(head, tipset.height + 1, previous=False)
        if child.parents == tipset.key:
            return child
    raise NoChild(f"a child of the tipset at epoch {tipset.height}")
