"""The queue of the pool, behind one interface: embedded in one process (`embedded`), or on Redis (`redis_engine`).

A queue is a hint. Whoever loses it finds the gaps in the store again, so an engine may lose jobs, and may give one out
twice; it may not grow without bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from leader_bridge.pool.job import Job


@dataclass(frozen=True, slots=True)
class Again:
    """A job is to come back after `seconds`. `is_try`: that was one of its tries, for it failed; a deferred job comes
    back at no cost."""

    seconds: float
    is_try: bool


#: Does a job, given how often it has failed before; None: nothing is left to do for the queue. It never raises.
Handle = Callable[[Job, int], Awaitable[Again | None]]


class QueueUnavailable(Exception):
    """The queue cannot be reached. Nothing is lost: what is to do stands in the store."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Of one class: jobs that wait, jobs that workers have taken and not finished, and how long the oldest one that
    waits has waited."""

    waiting: int
    taken: int
    oldest_seconds: float = 0.0


class Engine(Protocol):
    """A queue with one stream a class."""

    async def put(self, jobs: Sequence[Job]) -> int:
        """Enqueue jobs; how many are new. One that waits already is not enqueued twice. Errors: QueueUnavailable."""

    async def run(self, handle: Handle, slots: Mapping[str, int], stop: asyncio.Event) -> None:
        """Give jobs of these classes to `handle`, as many at once as the class has slots, until `stop` is set.

        Jobs under way are finished then. A queue that is away is waited for.
        """

    async def still_holds(self, job: Job) -> bool:
        """Whether a job under way is still this process's own: no other one found this one dead and took it over."""

    async def claim_turn(self, what: str, seconds: float) -> bool:
        """Whether this process may do `what` now: no other one that shares the queue was told so within `seconds`.

        Errors: QueueUnavailable.
        """

    async def waiting(self) -> dict[str, Waiting]:
        """What waits, by class. Errors: QueueUnavailable."""

    async def close(self) -> None:
        """Close connections. A second call does nothing."""
