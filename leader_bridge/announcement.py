"""What a bridge tells about itself, for the status page: a row of the FLEET table, renewed every few seconds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from blockstore.background import in_background
from blockstore.bridge_rows import (
    RENEW_SECONDS,
    BridgeRow,
    LoggedError,
    NodeStanding,
    delete_bridge,
    put_bridge,
)
from blockstore.errors import StoreError
from blockstore.store import Batch, Store
from leader_bridge import metrics
from leader_bridge.bridge import Bridge
from leader_bridge.clock import monotonic
from leader_bridge.nodes.sources import Source

log = logging.getLogger(__name__)


def _standing(source: Source, followed: str) -> NodeStanding:
    if source.refusal:
        word = "refused"
    elif source.is_cordoned:
        word = "cordoned"
    elif source.wrong_objects and source.cooling_until > monotonic():
        word = "sent wrong data"
    elif source.cooling_until > monotonic():
        word = "not answering"
    else:
        word = "followed" if source.name == followed else "usable"
    return NodeStanding(source.name, word, source.failures, source.wrong_objects)


def bridge_row(name: str, bridge: Bridge | None, errors: Sequence[LoggedError]) -> BridgeRow:
    """What a bridge tells now. `bridge` None: the process stands by."""
    if bridge is None:
        return BridgeRow(name, False, errors=tuple(errors))
    usable = bridge.sources.usable()
    ranked = usable + [source for source in bridge.sources.all if source not in usable]
    stopped = [s.labels["reason"] for one in metrics.STOPPED.collect() for s in one.samples if s.value]
    backfill = [s.value for one in metrics.BACKFILL_LEFT.collect() for s in one.samples]
    return BridgeRow(
        name,
        bridge.term > 0,
        term=bridge.term,
        height=bridge.published_height,
        node_height=bridge.node_height,
        policy=bridge.settings.state,
        backfill_left=int(sum(backfill)),
        stopped=", ".join(stopped),
        nodes=tuple(_standing(source, bridge.following) for source in ranked),
        errors=tuple(errors),
        fetched=bridge.mirror.fetched,
    )


@contextlib.asynccontextmanager
async def announced(store: Store, describe: Callable[[], BridgeRow]) -> AsyncIterator[None]:
    """Keep the row that `describe` makes while the block runs; it is removed behind it. A store error is no error."""
    renewing = in_background(_renew(store, describe), "the renewal of this bridge's row")
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        batch = Batch()
        delete_bridge(batch, describe().name)
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(RENEW_SECONDS):
                await store.write(batch)


async def _renew(store: Store, describe: Callable[[], BridgeRow]) -> None:
    renewals = 0
    while True:
        renewals += 1
        batch = Batch()
        put_bridge(batch, replace(describe(), renewals=renewals, written_ms=int(time.time() * 1000)))
        try:
            await store.write(batch)
        except StoreError as error:
            log.debug("the row of this bridge is not renewed: %s", error)
        await asyncio.sleep(RENEW_SECONDS)
