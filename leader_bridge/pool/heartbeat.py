"""A worker's row, renewed every few seconds while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from blockstore.background import in_background
from blockstore.errors import StoreError
from blockstore.pool_rows import GONE_SECONDS, RENEW_SECONDS, WorkerRow, delete_worker, put_worker, read_workers
from blockstore.store import Batch, Store
from blockstore.store_clock import wall_ms
from leader_bridge.pool.engine import Engine, QueueUnavailable
from leader_bridge.pool.worker import Worker

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def announced(store: Store, worker: Worker, engine: Engine, slots: Mapping[str, int]) -> AsyncIterator[None]:
    """Keep the row of a worker while the block runs; it is removed behind it. A store error is no error."""
    renewing = in_background(_renew(store, worker, engine, slots), "the renewal of this worker's row")
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        batch = Batch()
        delete_worker(batch, worker.name)
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(RENEW_SECONDS):
                await store.write(batch)


async def _renew(store: Store, worker: Worker, engine: Engine, slots: Mapping[str, int]) -> None:
    row = WorkerRow(worker.name, dict(slots))
    with contextlib.suppress(StoreError):
        await _remove_gone(store)
    while True:
        counts = worker.counts
        waiting: dict[str, int] = {}
        with contextlib.suppress(QueueUnavailable):
            waiting = {name: one.waiting + one.taken for name, one in (await engine.waiting()).items()}
        row = replace(
            row,
            done=counts.jobs - counts.deferred - counts.failed,
            deferred=counts.deferred,
            failed=counts.failed,
            tasks=dict(counts.tasks),
            waiting=waiting,
            renewals=row.renewals + 1,
            written_ms=wall_ms(),
        )
        batch = Batch()
        put_worker(batch, row)
        try:
            await store.write(batch)
        except StoreError as error:
            log.debug("the row of this worker is not renewed: %s", error)
        await asyncio.sleep(RENEW_SECONDS)


async def _remove_gone(store: Store) -> None:
    """Remove the rows of workers that were killed long ago."""
    batch = Batch()
    for row in await read_workers(store):
        if wall_ms() - row.written_ms > GONE_SECONDS * 1000:
            delete_worker(batch, row.name)
    if batch:
        await store.write(batch)
