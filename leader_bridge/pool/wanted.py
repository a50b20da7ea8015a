"""Ranges that somebody asked to have worked on. They stand in the store, so a queue that is lost loses none of them.

`walk` writes the range and enqueues it in chunks, with a cursor: it goes on where it was broken off. `fill` enqueues
what is missing of a range; `refill` does so for all ranges, when the queue has nothing left.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Final

import orjson

from blockstore.store import REPORTS, Batch, Store
from chain.errors import NotHeld
from chain.index.kept import load_kept
from leader_bridge.pool.engine import Engine
from leader_bridge.pool.gaps import Gaps, find_gaps
from leader_bridge.pool.job import FILL, WALK, WATCH, Job, jobs_of, walk_jobs

_PARTITION: Final = b"wanted"
#: ranges that are remembered
MOST_RANGES: Final = 1000
#: jobs that are enqueued at once, before the cursor moves on
CHUNK: Final = 500
#: epochs a job
SPAN: Final = 10
#: milliseconds in which what failed is not tried again by itself
RETRY_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Epochs `low` to `high` and the tasks wanted for them. `cursor`: the next epoch to enqueue. `watched`: the range
    of the watcher, which grows. `complete`: nothing was missing when it was looked through last."""

    low: int
    high: int
    tasks: tuple[str, ...]
    queue: str = WALK
    cursor: int = 0
    asked_ms: int = 0
    watched: bool = False
    complete: bool = False

    @property
    def key(self) -> bytes:
        """The row key."""
        what = [self.watched or [self.low, self.high], sorted(self.tasks)]
        return hashlib.blake2b(orjson.dumps(what), digest_size=16).digest()


async def save_wanted(store: Store, wanted: Wanted) -> None:
    """Write a range. Errors: StoreError."""
    batch = Batch()
    batch.put(REPORTS, _PARTITION, wanted.key, orjson.dumps(asdict(wanted)))
    await store.write(batch)


async def load_wanted(store: Store) -> list[Wanted]:
    """All ranges. Errors: StoreError."""
    rows = await store.scan(REPORTS, _PARTITION, limit=MOST_RANGES)
    found = (orjson.loads(value) for _, value in rows)
    return [Wanted(**{**one, "tasks": tuple(one["tasks"])}) for one in found]


async def _earlier(store: Store, wanted: Wanted) -> Wanted | None:
    value = await store.row(REPORTS, _PARTITION, wanted.key)
    if value is None:
        return None
    raw = orjson.loads(value)
    return Wanted(**{**raw, "tasks": tuple(raw["tasks"])})


async def walk(
    store: Store, engine: Engine, wanted: Wanted, *, span: int = SPAN, tell: Callable[[int], None] = lambda epoch: None
) -> int:
    """Enqueue a whole range, chunk by chunk; how many jobs are new. `tell` is given the cursor, first where the walk
    begins, then after each chunk.

    A range that was asked for before goes on at its cursor, or, where that is at its end, begins again. Errors:
    QueueUnavailable, StoreError: the next call goes on.
    """
    before = await _earlier(store, wanted)
    cursor = before.cursor if before is not None and wanted.low <= before.cursor <= wanted.high else wanted.low
    wanted = replace(wanted, cursor=cursor, complete=False)
    await save_wanted(store, wanted)
    tell(cursor)
    new = 0
    for chunk in _chunks(walk_jobs(wanted.queue, cursor, wanted.high, wanted.tasks, span)):
        new += await engine.put(chunk)
        wanted = replace(wanted, cursor=chunk[-1].high + 1)
        await save_wanted(store, wanted)
        tell(wanted.cursor)
    return new


async def fill(engine: Engine, gaps: Gaps, *, queue: str = FILL, span: int = SPAN) -> int:
    """Enqueue what is missing; how many jobs are new. Errors: QueueUnavailable."""
    new = 0
    for chunk in _chunks(jobs_of(queue, gaps, span)):
        new += await engine.put(chunk)
    return new


async def refill(store: Store, engine: Engine, now_ms: int, *, span: int = SPAN) -> int:
    """Enqueue what is missing of all ranges, where nothing waits in the queue; how many jobs are new.

    What failed within the last hour is left alone. A range of which nothing is missing is marked complete. Errors:
    QueueUnavailable, StoreError.
    """
    # not those that workers have taken: one that is deferred again and again must not keep the rest from being found
    if any(one.waiting for name, one in (await engine.waiting()).items() if name != WATCH):
        return 0
    head = await store.head()
    kept = await load_kept(store)
    new = 0
    for wanted in await load_wanted(store) if head is not None else ():
        assert head is not None
        # below, retention removes what the pool would make
        low, high = max(wanted.low, kept.indices), min(wanted.high, head.head.height)
        if wanted.complete or high < low:
            continue
        try:
            gaps = await find_gaps(store, low, high, wanted.tasks)
        except NotHeld:
            continue
        if not gaps and high == wanted.high and not wanted.watched:
            await save_wanted(store, replace(wanted, cursor=wanted.high + 1, complete=True))
            continue
        if gaps:
            recent = await find_gaps(store, low, high, wanted.tasks, without_failed_since=now_ms - RETRY_MS)
            new += await fill(engine, recent, span=span)
    return new


def _chunks(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    source = iter(jobs)
    while chunk := list(itertools.islice(source, CHUNK)):
        yield chunk
