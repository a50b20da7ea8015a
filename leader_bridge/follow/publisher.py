"""Storing and publishing head changes: everything that a head needs is durable before its head-log entry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from blockstore.store import Batch, HeadEntry, Store, TipsetRef
from chain.network import load_network
from chain.tipset import Tipset, TipsetKey
from leader_bridge import metrics
from leader_bridge.follow.head_path import HeadPath
from leader_bridge.follow.verifier import Verifier
from leader_bridge.store.backfill_floor import save_floor
from leader_bridge.store.recorder import Recorder
from leader_bridge.store.tipset_writer import MirrorScope, NotAvailableYet, TipsetWriter
from leader_bridge.store.traces import Traces

log = logging.getLogger(__name__)


class Publisher:
    """Knows the head that was published last, and appends the next. `on_head` is called after each entry,
    as are those added to the list of that name.

    `keep_log_entries` is how many entries the head log keeps.
    """

    def __init__(
        self,
        store: Store,
        writer: TipsetWriter,
        recorder: Recorder,
        scope: MirrorScope,
        *,
        keep_log_entries: int,
        on_head: Callable[[], None],
    ) -> None:
        self._store = store
        self._writer = writer
        self._recorder = recorder
        self._scope = scope
        self._keep_log_entries = keep_log_entries
        #: called after each entry
        self.on_head = [on_head]
        self.traces: Traces | None = None
        self.verifier: Verifier | None = None
        self.head: HeadEntry | None = None
        #: the leader term to publish under; 0 before there is one
        self.term = 0

    async def load_head(self) -> None:
        """Read the head from the log: an append that seemed to fail may have been done. Errors: StoreError."""
        self.head = await self._store.head()
        if self.head is not None:
            metrics.HEAD_HEIGHT.set(self.head.head.height)

    async def first_path(self, tipset: Tipset, backfill_epochs: int) -> HeadPath:
        """Prepare an empty store; the path to its first head. `backfill_epochs` below it are to be fetched later.

        Errors: NoSource, StoreError.
        """
        await self._write_genesis()
        batch = Batch()
        save_floor(batch, max(0, tipset.height - backfill_epochs))
        await self._store.write(batch)
        log.info("the store is empty: it begins at epoch %d", tipset.height)
        return HeadPath((), (tipset,), None)

    async def _write_genesis(self) -> None:
        """Write the genesis' block and row, which every chain is asked for; its state only where a node holds it."""
        record = await load_network(self._store)
        if record is None:
            return
        try:
            (genesis,) = await self._writer.tipsets([TipsetKey.of([record.genesis])])
            await self._writer.write_partial(genesis)
        except NotAvailableYet as error:
            log.warning("the genesis is not held: %s", error)

    async def publish(self, path: HeadPath, check: asyncio.Task[None]) -> None:
        """Store what is applied, then append the head change. The path applies something. No row is written, and
        nothing published, unless `check` ends well.

        Errors: those of `check`, ExecutionDiffers, Fenced, NotAvailableYet, NoSource, StoreError.
        """
        self._recorder.ask()
        if self.traces is not None:
            self.traces.ask(path.applies, path.common.height if path.reverts and path.common else None)
        for ref in path.reverts:
            # below the first head of a store: who reads the log wants the header of what is reverted
            if await self._writer.row(TipsetKey(ref.key)) is None:
                await self._writer.write_partial((await self._writer.tipsets([TipsetKey(ref.key)]))[0])
        await self._write(path.applies, check)
        refs = tuple(TipsetRef(tipset.height, tipset.key) for tipset in path.applies)
        head = refs[-1]
        entry = HeadEntry(
            seq=self.head.seq + 1 if self.head else 1,
            term=self.term,
            reverts=path.reverts,
            applies=refs,
            head=head,
        )
        before = None if self.head is None else TipsetKey(self.head.head.key).cid
        await self._recorder.keep(TipsetKey(head.key).cid, before)
        if self.traces is not None:
            await self.traces.settle()
        await self._store.append_head(entry)
        self.head = entry
        metrics.HEAD_HEIGHT.set(head.height)
        metrics.PUBLISHED.inc()
        for notice in self.on_head:
            notice()
        if self.verifier is not None:
            self.verifier.begin(path.applies[-1])
        if entry.seq % min(1000, self._keep_log_entries) == 0:
            await self._store.trim_head_log(self._keep_log_entries)

    async def _write(self, applies: Sequence[Tipset], check: asyncio.Task[None]) -> None:
        """Store tipsets. Before the rows of one that is to be verified are written, its parent is executed."""
        if self.verifier is None:
            await self._writer.write(applies, self._scope, check=check)
            return
        for part in self.verifier.split(applies):
            checks = asyncio.create_task(self._check(self.verifier, part[0], check))
            try:
                await self._writer.write(part, self._scope, check=checks)
            finally:
                checks.cancel()
                await asyncio.gather(checks, return_exceptions=True)

    @staticmethod
    async def _check(verifier: Verifier, tipset: Tipset, check: asyncio.Task[None]) -> None:
        await verifier.check(tipset)
        await asyncio.shield(check)
