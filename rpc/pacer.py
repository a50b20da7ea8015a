"""How long work that does not wait may keep the event loop: one slice a turn of the loop, for all requests together.

A walk over many objects answers from memory and so never waits by itself. It calls `Context.checkpoint`, which ends
here: when the slice of this turn is used up, the walk queues, and the loop serves everybody else before the next walk
goes on. However many walks run, other requests wait for one slice at most.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Final

#: seconds of work in one turn of the loop
SLICE_SECONDS: Final = 0.003
#: seconds of pushing in one turn of the loop, and connections pushed to: what is written leaves at the turn's end, in a
#: system call each, which takes longer than to make it
PUSH_SECONDS: Final = 0.0005
PUSHED_IN_A_TURN: Final = 8
#: from so many connections on, pushing waits so many seconds for what else the same head brings: new heads, logs and
#: head changes come one after the other, and leave in one write
_MANY: Final = 64
_JOIN_SECONDS: Final = 0.005


class LoopPacer:
    """Hands out slices of the event loop, first come, first served. One a process."""

    __slots__ = ("_busy", "_loop", "_queue", "slice_end", "slice_seconds", "turns")

    def __init__(self, slice_seconds: float = SLICE_SECONDS) -> None:
        self.slice_seconds = slice_seconds
        #: until when (`time.perf_counter`) work may go on without asking
        self.slice_end = 0.0
        #: how many slices have been handed out
        self.turns = 0
        #: whether the slice of this turn is in use, or promised
        self._busy = False
        self._queue: deque[asyncio.Future[None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def waiting(self) -> int:
        """How many walks wait for their slice."""
        return len(self._queue)

    def try_turn(self, now: float) -> bool:
        """Take the slice of this turn of the loop, unless somebody has. `now`: `time.perf_counter`."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._busy = loop, False
            self._queue.clear()
        if self._busy:
            return False
        self._busy = True
        self.turns += 1
        self.slice_end = now + self.slice_seconds
        loop.call_soon(self._end)
        return True

    async def turn(self) -> None:
        """Wait for a slice. Returns at once when nobody has used the one of this turn of the loop."""
        if not self.try_turn(perf_counter()):
            loop = asyncio.get_running_loop()
            place = loop.create_future()
            self._queue.append(place)
            try:
                await place
            except BaseException:
                if place.done() and not place.cancelled():
                    # the slice was promised to who has just been cancelled: the next one gets it
                    self._end()
                raise
            # promised: nobody else has taken it since
            self.turns += 1
            self.slice_end = perf_counter() + self.slice_seconds
            loop.call_soon(self._end)

    def _end(self) -> None:
        """The turn of the loop is over: the slice goes to the next in the queue."""
        self.slice_end = 0.0
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._busy = False


class PushQueue:
    """Connections that have something to push, each served once in its turn: a few in a turn of the loop.

    Between two of its turns the loop reads and answers requests. One a process.
    """

    def __init__(self) -> None:
        self._due: deque[Callable[[], object]] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many connections wait for their turn."""
        return len(self._due)

    def add(self, push: Callable[[], object]) -> None:
        """Call this in its turn. It writes what its connection has to push, and raises nothing."""
        self._due.append(push)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="pushes")

    async def reached(self) -> None:
        """Wait until everything that was added before has been pushed."""
        if self._due:
            place = asyncio.get_running_loop().create_future()
            self.add(lambda: None if place.done() else place.set_result(None))
            await place

    async def _run(self) -> None:
        due = self._due
        if len(due) >= _MANY:
            await asyncio.sleep(_JOIN_SECONDS)
        while due:
            end = perf_counter() + PUSH_SECONDS
            for _ in range(min(PUSHED_IN_A_TURN, len(due))):
                due.popleft()()
                if perf_counter() > end:
                    break
            await asyncio.sleep(0)
