"""A job: some tasks for the tipsets of some epochs, and the class of the queue that it waits in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

#: the classes, and their shares of a worker's slots
WATCH: Final = "watch"
FILL: Final = "fill"
INDEX: Final = "index"
WALK: Final = "walk"
SHARES: Final[Mapping[str, int]] = {WATCH: 5, FILL: 3, INDEX: 1, WALK: 1}
#: the time limit of a job, as a multiple of the setting `job_seconds`
LIMITS: Final[Mapping[str, int]] = {WATCH: 1, FILL: 2, INDEX: 5, WALK: 5}


@dataclass(frozen=True, slots=True)
class Job:
    """`tasks` for each tipset of the epochs `low` to `high`, or for the tipset `key` alone (its blocks' CIDs)."""

    queue: str
    low: int
    high: int
    tasks: tuple[str, ...]
    key: bytes = b""

    @property
    def id(self) -> str:
        """A digest of what the job does. Two jobs that do the same have the same id, whatever queue they wait in."""
        what = orjson.dumps([self.low, self.high, sorted(self.tasks), self.key.hex()])
        return hashlib.blake2b(what, digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """What goes through a queue."""
        return {
            "queue": self.queue,
            "low": self.low,
            "high": self.high,
            "tasks": list(self.tasks),
            "key": self.key.hex(),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Job:
        """Errors: ValueError, KeyError, TypeError (not a job)."""
        queue, low, high = str(raw["queue"]), int(raw["low"]), int(raw["high"])
        if queue not in SHARES or not 0 <= low <= high:
            raise ValueError(f"not a job: {queue} {low} {high}")
        return cls(queue, low, high, tuple(str(task) for task in raw["tasks"]), bytes.fromhex(raw["key"]))


def slots_of(queues: Sequence[str], concurrency: int) -> dict[str, int]:
    """How many of `concurrency` slots each class has: its share, at least one."""
    total = sum(SHARES[queue] for queue in queues)
    slots = {queue: max(1, concurrency * SHARES[queue] // total) for queue in queues}
    left = concurrency - sum(slots.values())
    for queue in sorted(queues, key=lambda one: -SHARES[one]):
        if left <= 0:
            break
        slots[queue] += 1
        left -= 1
    return slots


def jobs_of(queue: str, gaps: Iterable[tuple[int, tuple[str, ...]]], span: int) -> Iterator[Job]:
    """Jobs for gaps (epoch, tasks), rising: neighbours with the same tasks go together, cut as in `walk_jobs`."""
    low = high = -1
    tasks: tuple[str, ...] = ()
    for height, missing in gaps:
        if missing == tasks and height == high + 1 and height % span:
            high = height
            continue
        if tasks:
            yield Job(queue, low, high, tasks)
        low = high = height
        tasks = missing
    if tasks:
        yield Job(queue, low, high, tasks)


def walk_jobs(queue: str, low: int, high: int, tasks: tuple[str, ...], span: int) -> Iterator[Job]:
    """Jobs for all epochs of a range, `span` epochs each, cut at multiples of it: a range that overlaps makes the same
    jobs."""
    at = low
    while at <= high:
        end = min(high, at // span * span + span - 1)
        yield Job(queue, at, end, tasks)
        at = end + 1
