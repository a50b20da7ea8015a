"""Taking over what workers report: the leader says what indices cover and what tipsets hold.

Only rows that are written whole are the workers'. What an index covers and which flags a tipset has is read, changed
and written, so one process does it, under its term. A report counts if its tipset is on the head's chain: the rows of a
fork cover nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from blockstore.errors import Fenced, StoreError
from blockstore.generations import GenerationalStore
from blockstore.store import META, REPORTS, Batch, Store
from chain.errors import ChainError, NotHeld
from chain.index.chain_index import ChainIndex
from chain.index.kept import load_kept
from chain.ipld.objects import Objects
from chain.tipset import Tipset, TipsetKey
from leader_bridge import metrics
from leader_bridge.pool.reports import (
    NULL_ROUND,
    REPORTS_BUCKET,
    Report,
    decode_report,
    digest_of,
    partition_of,
    report_pages,
    touched_buckets,
    untouch,
)
from leader_bridge.store.coverage import merge_ranges
from leader_bridge.store.tipset_writer import TipsetWriter

log = logging.getLogger(__name__)

#: partition of META: by bucket, the stamp up to which its reports are taken over. Fenced, as what is taken over
_TAKEN: Final = b"pool_taken"
_MOST_BUCKETS: Final = 100_000
_LOOK_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 30.0


class Claims:
    """`run` beside a bridge that leads, or `once`."""

    def __init__(self, store: Store, writer: TipsetWriter) -> None:
        self._store = store
        self._writer = writer
        #: by bucket, the stamp that it had when it was looked through last; None before that is read
        self._taken: dict[int, bytes] | None = None
        self._index = ChainIndex(store, Objects(store))

    async def run(self) -> None:
        """Take over until cancelled."""
        while True:
            pause = _LOOK_SECONDS
            try:
                await self.once()
            except Fenced:
                return
            except (StoreError, ChainError) as error:
                log.info("reports of workers are not taken over yet: %s", error)
                pause = _RETRY_SECONDS
            await asyncio.sleep(pause)

    async def once(self) -> int:
        """Take over what has come since; how many reports. Errors: StoreError, ChainError."""
        if self._taken is None:
            rows = await self._store.scan(META, _TAKEN, limit=_MOST_BUCKETS)
            self._taken = {int.from_bytes(key, "big"): stamp for key, stamp in rows}
        touched = await touched_buckets(self._store)
        await self._forget_old(touched)
        changed = sorted(bucket for bucket, stamp in touched.items() if self._taken.get(bucket) != stamp)
        entry = await self._store.head() if changed else None
        if entry is None:
            return 0
        head = await self._index.tipset(TipsetKey(entry.head.key))
        taken = 0
        for bucket in changed:
            low = bucket * REPORTS_BUCKET
            async for page in report_pages(self._store, low, low + REPORTS_BUCKET - 1):
                # successes alone, and of tipsets
                found = [decode_report(key, value) for key, value in page if not key[40] and key[8:40] != NULL_ROUND]
                taken += await self._take(head, [report for report in found if report.claim is not None])
            batch = Batch()
            batch.put(META, _TAKEN, bucket.to_bytes(8, "big"), touched[bucket])
            await self._store.write(batch)
            self._taken[bucket] = touched[bucket]
        return taken

    async def _forget_old(self, touched: dict[int, bytes]) -> None:
        """Remove the reports of epochs whose index rows retention has removed: what they say is true no more."""
        if not isinstance(self._store, GenerationalStore):
            return
        kept = await load_kept(self._store)
        first = -(-(kept.archived + 1) // REPORTS_BUCKET)
        old = [bucket for bucket in touched if first <= bucket < kept.indices // REPORTS_BUCKET]
        if old:
            await self._store.drop_partitions(REPORTS, [partition_of(bucket * REPORTS_BUCKET) for bucket in old])
            batch = Batch()
            for bucket in old:
                untouch(batch, bucket)
                del touched[bucket]
            await self._store.write(batch)

    async def _take(self, head: Tipset, reports: list[Report]) -> int:
        kept = await load_kept(self._store)
        epochs: dict[bytes, list[tuple[int, int]]] = {}
        flags: dict[TipsetKey, int] = {}
        digests: dict[int, bytes | None] = {}
        taken = 0
        for report in reports:
            claim = report.claim
            assert claim is not None
            if report.height not in digests:
                digests[report.height] = await self._digest(head, report.height)
            # what retention has dropped meanwhile is not claimed again
            lowest = max(kept.indices, kept.messages if claim.flagged else 0)
            if digests[report.height] != report.tipset or kept.archived < report.height < lowest:
                continue
            taken += 1
            if claim.index:
                epochs.setdefault(claim.index, []).append((claim.low, claim.high))
            if claim.flagged:
                key = TipsetKey(claim.flagged)
                flags[key] = flags.get(key, 0) | claim.flags
        async with self._writer.rows_lock:
            batch = Batch()
            for index, ranges in epochs.items():
                await self._writer.cover(batch, (index,), merge_ranges(ranges))
            await self._writer.flag(batch, flags)
            if batch:
                await self._store.write(batch)
                metrics.POOL_CLAIMED.inc(taken)
        return taken

    async def _digest(self, head: Tipset, height: int) -> bytes | None:
        if height > head.height:
            return None
        try:
            tipset = await self._index.at_height(head, height)
        except NotHeld:
            return None
        return digest_of(tipset.key) if tipset.height == height else None
