"""Makes rows of several tipsets side by side, and gives them out in order.

Over a database far away nearly all the time of a task is waiting for reads. Bounded in tipsets and in bytes: a tipset
whose turn it is goes on whatever the later ones hold.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from leader_bridge.tables.source import TipsetView
from leader_bridge.tables.table import Row, Task, memory_of

#: tipsets at a time, the one that is written included
TIPSETS: Final = 8
#: bytes of rows that wait until they are written
_MOST_BYTES: Final = 32 << 20


@dataclass(slots=True)
class TipsetWork:
    """Tasks that are to be done for one tipset. `kept`: those that were done before; `waiting`: that need a child."""

    view: TipsetView
    tasks: Sequence[Task]
    kept: int = 0
    waiting: int = 0
    #: rows that wait, with the bytes they take; None: the end of a task
    _parts: deque[tuple[list[Row], int] | None] = field(default_factory=deque)
    _has_ended: bool = False
    _making: asyncio.Task[None] | None = None


class RowsAhead:
    """Makes the rows of `works` in the background, `tipsets` of them at a time."""

    def __init__(self, works: Iterator[TipsetWork], tipsets: int = TIPSETS, most_bytes: int = _MOST_BYTES) -> None:
        self._works = works
        self._tipsets = tipsets
        self._most_bytes = most_bytes
        self._bytes = 0
        self._begun: deque[TipsetWork] = deque()
        #: anything changed
        self._change = asyncio.Condition()

    async def __aiter__(self) -> AsyncIterator[TipsetWork]:
        """The works in their order. Take the rows of all tasks of each before the next one."""
        while True:
            while len(self._begun) < self._tipsets and (work := next(self._works, None)) is not None:
                self._begun.append(work)
                work._making = asyncio.create_task(self._make(work))
            if not self._begun:
                return
            async with self._change:
                # the first one may exceed the bytes now
                self._change.notify_all()
            yield self._begun[0]
            self._begun.popleft()

    async def rows(self, work: TipsetWork) -> AsyncIterator[list[Row]]:
        """The rows of the next task of the work whose turn it is. Errors: what the task raised."""
        assert work._making is not None
        while True:
            async with self._change:
                await self._change.wait_for(lambda: work._parts or work._has_ended)
                if not work._parts:
                    break
                part = work._parts.popleft()
                self._bytes -= 0 if part is None else part[1]
                self._change.notify_all()
            if part is None:
                return
            yield part[0]
        # a task that has ended without its end has failed
        await work._making

    async def _make(self, work: TipsetWork) -> None:
        try:
            for task in work.tasks:
                async for rows in task.rows(work.view):
                    await self._put(work, (rows, memory_of(rows)))
                await self._put(work, None)
        finally:
            work.view.forget_parent()
            work._has_ended = True
            async with self._change:
                self._change.notify_all()

    async def _put(self, work: TipsetWork, part: tuple[list[Row], int] | None) -> None:
        async with self._change:
            await self._change.wait_for(
                lambda: self._bytes < self._most_bytes or (work is self._begun[0] and not work._parts)
            )
            work._parts.append(part)
            self._bytes += 0 if part is None else part[1]
            self._change.notify_all()

    async def close(self) -> None:
        """End what runs in the background."""
        running = [work._making for work in self._begun if work._making is not None]
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
