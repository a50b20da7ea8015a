"""What a worker's process runs: its jobs, its row, and now and then the search for gaps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from blockstore.background import in_background
from blockstore.errors import StoreError
from blockstore.store import Store
from blockstore.store_clock import wall_ms
from chain.errors import ChainError
from leader_bridge.clock import monotonic
from leader_bridge.pool.engine import Engine, QueueUnavailable
from leader_bridge.pool.heartbeat import announced
from leader_bridge.pool.wanted import SPAN, refill
from leader_bridge.pool.worker import Worker

log = logging.getLogger(__name__)

#: seconds between two searches for gaps, of all workers together
FIND_SECONDS: Final = 30.0
#: times as long as the last search took
_REST: Final = 20.0


async def serve(
    store: Store,
    engine: Engine,
    worker: Worker,
    slots: Mapping[str, int],
    stop: asyncio.Event,
    *,
    find_seconds: float = FIND_SECONDS,
    span: int = SPAN,
) -> None:
    """Work until `stop` is set; jobs under way are finished then. Gaps are searched for at the start too."""
    finding = in_background(
        find_repeatedly(store, engine, every_seconds=find_seconds, span=span), "the search for gaps"
    )
    try:
        async with announced(store, worker, engine, slots):
            await engine.run(worker.handle, slots, stop)
    finally:
        finding.cancel()
        await asyncio.gather(finding, return_exceptions=True)


async def find_repeatedly(
    store: Store, engine: Engine, *, every_seconds: float = FIND_SECONDS, span: int = SPAN
) -> None:
    """Search for gaps at once, then again and again until cancelled: one of all processes that share a queue."""
    pause = every_seconds
    while True:
        began = monotonic()
        try:
            if await engine.claim_turn("find", pause):
                found = await refill(store, engine, wall_ms(), span=span)
                if found:
                    log.info("%d jobs that the queue had lost, or that had failed, are enqueued again", found)
        except (StoreError, ChainError, QueueUnavailable) as error:
            log.info("gaps are not searched for now: %s", error)
        # a search that takes long is made less often
        pause = max(every_seconds, _REST * (monotonic() - began))
        await asyncio.sleep(pause)
