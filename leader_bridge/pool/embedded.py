"""The queue inside one process, for one machine: nothing else is needed, and nothing of it outlives the process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from leader_bridge.pool.engine import Handle, QueueUnavailable, Waiting
from leader_bridge.pool.job import SHARES, Job

#: jobs of a class that may wait; who enqueues more waits
_MOST: Final = 100


class EmbeddedEngine:
    """As `engine.Engine`. `put` waits while a class is full, so `run` runs beside it."""

    def __init__(self, most: int = _MOST) -> None:
        self._queues = {queue: asyncio.Queue[tuple[Job, int]](most) for queue in SHARES}
        #: ids of the jobs that wait, are done, or come back later
        self._known: set[str] = set()
        self._taken = dict.fromkeys(SHARES, 0)
        self._idle = asyncio.Event()
        self._idle.set()
        #: whether `run` has ended: nobody takes a job any more
        self._ended = asyncio.Event()
        #: set when a class may have room again
        self._room = asyncio.Event()

    async def put(self, jobs: Sequence[Job]) -> int:
        new = 0
        for job in jobs:
            if job.id in self._known:
                continue
            self._known.add(job.id)
            self._idle.clear()
            new += 1
            await self._wait_for_room(self._queues[job.queue])
            self._queues[job.queue].put_nowait((job, 0))
        return new

    async def _wait_for_room(self, queue: asyncio.Queue[tuple[Job, int]]) -> None:
        """Errors: QueueUnavailable (nobody makes room any more)."""
        while queue.full() and not self._ended.is_set():
            self._room.clear()
            await self._room.wait()
        if self._ended.is_set():
            raise QueueUnavailable("the work in this process has ended")

    async def join(self) -> None:
        """Wait until nothing waits, runs, or is to come back, or `run` has ended."""
        ends = [asyncio.create_task(event.wait()) for event in (self._idle, self._ended)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in ends:
                one.cancel()

    async def run(self, handle: Handle, slots: Mapping[str, int], stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait())
        try:
            async with asyncio.TaskGroup() as group:
                for queue, count in slots.items():
                    for _ in range(count):
                        group.create_task(self._slot(queue, handle, stopping))
        finally:
            stopping.cancel()
            self._ended.set()
            self._room.set()

    async def _slot(self, queue: str, handle: Handle, stopping: asyncio.Task[bool]) -> None:
        later: set[asyncio.Task[None]] = set()
        try:
            while not stopping.done():
                getting = asyncio.create_task(self._queues[queue].get())
                await asyncio.wait({getting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    return
                job, tries = getting.result()
                self._room.set()
                self._taken[queue] += 1
                again = await handle(job, tries)
                self._taken[queue] -= 1
                if again is None:
                    self._forget(job)
                    continue
                back = asyncio.create_task(self._come_back(job, tries + again.is_try, again.seconds))
                later.add(back)
                back.add_done_callback(later.discard)
        finally:
            for one in later:
                one.cancel()

    async def _come_back(self, job: Job, tries: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._queues[job.queue].put((job, tries))

    def _forget(self, job: Job) -> None:
        self._known.discard(job.id)
        if not self._known:
            self._idle.set()

    async def still_holds(self, job: Job) -> bool:
        return True

    async def claim_turn(self, what: str, seconds: float) -> bool:
        return True

    async def waiting(self) -> dict[str, Waiting]:
        return {name: Waiting(queue.qsize(), self._taken[name]) for name, queue in self._queues.items()}

    async def close(self) -> None:
        return None
