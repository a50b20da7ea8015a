"""Runs tasks over a range of epochs of the store's chain: what is there of the same tipsets is left, the rest is made.

Span by span (as the sink has them), and in a span tipset by tipset, rising; the rows of the next few tipsets are made
meanwhile. First what is there of tipsets that are not on the chain any more is withdrawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from blockstore.errors import Missing, StoreError
from blockstore.store import Store
from chain.errors import BadRequest, ChainError
from chain.tipset import Tipset
from leader_bridge.imports.progress import Reporter, Silent
from leader_bridge.tables.ahead import TIPSETS, RowsAhead, TipsetWork
from leader_bridge.tables.sinks.sink import Ledger, Sink, SinkError
from leader_bridge.tables.source import TableSource, TipsetView, held
from leader_bridge.tables.table import Row, Task

#: a view above keeps so many tipsets: of a longer span, parts are read one after another
_TIPSETS: Final = 2880


class ExtractFailed(ChainError):
    """A task could not make the rows of a tipset. What was made before is kept."""


@dataclass(slots=True)
class ExtractReport:
    """What a run did. `rows`: by table; `tipsets`: of the range; `kept`: tasks of tipsets that were there already;
    `withdrawn`: tasks of epochs whose rows were of another tipset; `waiting`: tasks that need the head's child."""

    low: int = 0
    high: int = 0
    tipsets: int = 0
    kept: int = 0
    withdrawn: int = 0
    waiting: int = 0
    rows: dict[str, int] = field(default_factory=dict)


class NoRows(AsyncIterator[list[Row]]):
    """No rows, as `Sink.replace` takes them."""

    async def __anext__(self) -> list[Row]:
        raise StopAsyncIteration


async def extract_tipset(sink: Sink, task: Task, view: TipsetView) -> int:
    """Replace the rows of one task at one tipset; their number. A worker's job: begin and end the sink around it.

    Errors: ExtractFailed (names the task, the epoch, and what is missing), SinkError, StoreError.
    """
    return await _replace(sink, task, view.tipset, task.rows(view))


async def _replace(sink: Sink, task: Task, tipset: Tipset, rows: AsyncIterator[list[Row]]) -> int:
    try:
        return await sink.replace(task, tipset.height, str(tipset.key.cid), _named(task, tipset, rows))
    except Missing as error:
        raise ExtractFailed(f"{task.name} at epoch {tipset.height}: not held: {error}") from None


async def _named(task: Task, tipset: Tipset, rows: AsyncIterator[list[Row]]) -> AsyncIterator[list[Row]]:
    try:
        async for part in rows:
            yield part
    except ChainError as error:
        raise ExtractFailed(f"{task.name} at epoch {tipset.height}: {error}") from error


async def extract(
    store: Store,
    sink: Sink,
    tasks: Sequence[Task],
    *,
    low: int = 0,
    high: int | None = None,
    again: bool = False,
    progress: Reporter | None = None,
    stop: asyncio.Event | None = None,
    tipsets_ahead: int = TIPSETS,
) -> ExtractReport:
    """Make the tables of epochs `low` to `high` (None: the head). `again`: also where they are made already.
    `tipsets_ahead`: tipsets whose rows are made at a time.

    When `stop` is set it ends after the tipset it is at. Errors: BadRequest (no such epochs), ExtractFailed, NotHeld,
    SinkError, StoreError, OSError.
    """
    source = await TableSource.open(store)
    head = await source.head()
    high = head.height if high is None else high
    if not 0 <= low <= high <= head.height:
        raise BadRequest(f"epochs {low} to {high}: the store's head is at {head.height}")
    run = _Run(source, sink, tasks, head, again, progress or Silent(), stop or asyncio.Event(), tipsets_ahead)
    run.report.low, run.report.high = low, high
    run.report.rows = {task.table.name: 0 for task in tasks}
    await run.range(low, high)
    return run.report


class _Run:
    def __init__(
        self,
        source: TableSource,
        sink: Sink,
        tasks: Sequence[Task],
        head: Tipset,
        again: bool,
        progress: Reporter,
        stop: asyncio.Event,
        tipsets_ahead: int,
    ) -> None:
        self._source = source
        self._sink = sink
        self._tasks = tasks
        self._head = head
        self._again = again
        self._progress = progress
        self._stop = stop
        self._tipsets_ahead = tipsets_ahead
        self.report = ExtractReport()

    async def range(self, low: int, high: int) -> None:
        self._progress.phase("tables", high - low + 1, "epochs")
        self._progress.at(0)
        at = low
        while at <= high and not self._stop.is_set():
            end = min(high, at - at % self._sink.span + self._sink.span - 1, at + _TIPSETS - 1)
            await self._span(at, end, low)
            at = end + 1

    async def _span(self, low: int, high: int, first: int) -> None:
        tipsets, child = await self._chain(low, high)
        ledgers = dict(await self._sink.begin(low, high, self._tasks))
        try:
            await self._withdraw(tipsets, ledgers)
            ahead = RowsAhead(self._works(tipsets, child, ledgers), self._tipsets_ahead)
            try:
                async for work in ahead:
                    if self._stop.is_set():
                        break
                    self.report.tipsets += 1
                    self.report.kept += work.kept
                    self.report.waiting += work.waiting
                    tipset = work.view.tipset
                    for task in work.tasks:
                        rows = await _replace(self._sink, task, tipset, ahead.rows(work))
                        self.report.rows[task.table.name] += rows
                    self._progress.at(tipset.height - first + 1, f"epoch {tipset.height}")
            finally:
                await ahead.close()
        except SinkError:
            raise
        except (ChainError, StoreError):
            # what is whole is kept, whatever went wrong with the rest
            await self._sink.end()
            raise
        await self._sink.end()

    async def _chain(self, low: int, high: int) -> tuple[list[Tipset], Tipset | None]:
        """The tipsets of these epochs, rising, and the one after them where there is one."""
        index = self._source.index
        with held(f"the chain at epochs {low} to {high}"):
            child: Tipset | None = None
            if high < self._head.height:
                child = await index.at_height(self._head, high + 1, previous=False)
                tipset = await index.parent(child)
            else:
                tipset = self._head
            await index.read_rows(low, high)
            found: list[Tipset] = []
            while tipset.height >= low:
                found.append(tipset)
                if tipset.height == 0:
                    break
                tipset = await index.parent(tipset)
        return found[::-1], child

    async def _withdraw(self, tipsets: Sequence[Tipset], ledgers: dict[str, Ledger]) -> None:
        on_chain = {tipset.height: str(tipset.key.cid) for tipset in tipsets}
        for task in self._tasks:
            ledger: Ledger = ledgers[task.name]
            for height, tipset in sorted(ledger.items()):
                if on_chain.get(height) != tipset:
                    await self._sink.replace(task, height, None, NoRows())
                    del ledger[height]
                    self.report.withdrawn += 1

    def _works(
        self, tipsets: Sequence[Tipset], child: Tipset | None, ledgers: dict[str, Ledger]
    ) -> Iterator[TipsetWork]:
        """What is to be done for each tipset of a span."""
        view: TipsetView | None = None
        for number, tipset in enumerate(tipsets):
            following = tipsets[number + 1] if number + 1 < len(tipsets) else child
            possible = [task for task in self._tasks if following is not None or not task.needs_child]
            tasks = [task for task in possible if self._again or tipset.height not in ledgers[task.name]]
            view = self._source.view(tipset, following, view)
            yield TipsetWork(view, tasks, kept=len(possible) - len(tasks), waiting=len(self._tasks) - len(possible))
