"""Fetching what the past lacks, newest first, behind the head: receipts and events that a snapshot does not
carry, and the epochs below the first head of a store that began empty.

Progress is in the rows themselves (their HELD_ flags), so a bridge that is killed goes on where it was, and
a pass over what is complete already costs one row read a tipset.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from blockstore.errors import StoreError
from blockstore.store import TIPSETS, Batch, HeadEntry, Store
from chain.errors import ChainError
from chain.index.chain_index import HELD_EVENTS, HELD_MESSAGES, HELD_RECEIPTS, HELD_STATE, TipsetRow, row_of, rows_down
from chain.index.coverage import MESSAGES_INDEX
from chain.index.kept import Kept, load_kept
from chain.tipset import Tipset, TipsetKey
from leader_bridge import metrics
from leader_bridge.clock import monotonic
from leader_bridge.nodes.sources import NoSource
from leader_bridge.store.backfill_floor import load_floor
from leader_bridge.store.coverage import TIPSETS_INDEX
from leader_bridge.store.executed_receipts import ExecutedReceipts
from leader_bridge.store.execution import ExecutionDiffers
from leader_bridge.store.indexer import can_index_events
from leader_bridge.store.lazy_events import LazyEvents
from leader_bridge.store.mirror import FETCHES_PAST
from leader_bridge.store.tipset_writer import GROUP, MirrorScope, NotAvailableYet, TipsetWriter
from leader_bridge.store.wanted_floor import WantedFloor
from rpc.errors import RpcError

log = logging.getLogger(__name__)

#: the most tipsets one pass has in hand
_SCAN: Final = 100_000
#: so many tipsets in a row of which no node gave anything: the older ones are not asked for in this pass
_EMPTY_LIMIT: Final = 64
_LOG_INTERVAL_SECONDS: Final = 10.0
_PASS_INTERVAL_SECONDS: Final = 600.0
_RETRY_SECONDS: Final = 5.0


class _Progress:
    """Says how far a piece of work is, every few seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._began = self._reported = monotonic()
        metrics.BACKFILL_LEFT.set(total)

    def step(self, count: int, epoch: int) -> None:
        now = monotonic()
        if not self._done:
            # the first one may have waited for a node, or for an executor that starts
            self._began = self._reported = now
        self._done += count
        metrics.BACKFILL_LEFT.set(max(0, self._total - self._done))
        if now - self._reported >= _LOG_INTERVAL_SECONDS:
            self._reported = now
            rate = self._done / (now - self._began)
            log.info(
                "backfill of %s: %d of %d, down to epoch %d, %.0f/s, %.0f s left",
                self._what,
                self._done,
                self._total,
                epoch,
                rate,
                max(0, self._total - self._done) / max(rate, 1e-9),
            )

    def end(self, got: int, lacking: int, epoch: int, why: str = "no node holds all") -> None:
        metrics.BACKFILL_LEFT.set(0)
        if got or lacking:
            log.info("backfill of %s: %d tipsets down to epoch %d; of %d %s", self._what, got, epoch, lacking, why)


class Backfill:
    """Runs beside the bridge, giving way to it: `head_change_lock` is held while a head change is in hand.

    `epochs` below the first head are fetched; `state` whether their state is too; `head` tells the head.
    `lazy_events`, where state is not mirrored, indexes the events of each new head, and of older ones. `executed` makes
    receipts and events before nodes are asked for them; not `asks_nodes`: they are not asked. `wanted`: down to where
    followers were asked of what the store lacks.
    """

    def __init__(
        self,
        store: Store,
        writer: TipsetWriter,
        *,
        state: bool,
        lazy_events: LazyEvents | None = None,
        executed: ExecutedReceipts | None = None,
        asks_nodes: bool = True,
        wanted: WantedFloor | None = None,
        head: Callable[[], HeadEntry | None],
        head_change_lock: asyncio.Lock,
    ) -> None:
        self._store = store
        self._writer = writer
        self._state = state
        self._lazy_events = lazy_events
        self._executed = executed
        self._asks_nodes = asks_nodes
        self._wanted = wanted
        self._head = head
        self._head_change_lock = head_change_lock
        self._moved = asyncio.Event()
        #: set when a pass has ended with nothing left that a node may have
        self.idle = asyncio.Event()

    def notice_head(self) -> None:
        """There is a (new) head."""
        if self._lazy_events is not None:
            self.idle.clear()
        self._moved.set()

    async def run(self) -> None:
        """Work until cancelled; what fails is tried again later."""
        FETCHES_PAST.set(True)
        while True:
            if self._head() is None:
                self._moved.clear()
                await self._moved.wait()
                continue
            self._writer.unlinked_row.clear()
            is_complete = False
            try:
                await self.one_pass()
                is_complete = True
                wait = _PASS_INTERVAL_SECONDS
                if not self._writer.unlinked_row.is_set() and self._lazy_events is None:
                    self.idle.set()
            except (NoSource, NotAvailableYet, StoreError, ChainError) as error:
                log.info("backfill: %s; it goes on in a while", error)
                wait = _RETRY_SECONDS
            # a fork whose parent lay below the store's bottom when it came: what it lacks is there by now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._until_more_is_wanted(is_complete)
                self.idle.clear()

    async def _until_more_is_wanted(self, is_complete: bool) -> None:
        """Until a row lacks its parent's, or followers want older epochs."""
        if self._wanted is None:
            await self._serve_heads(is_complete)
            return
        waits = [asyncio.create_task(self._serve_heads(is_complete)), asyncio.create_task(self._wanted.changed())]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _serve_heads(self, is_complete: bool) -> None:
        """Until a row lacks its parent's: index the events of each new head, where state is lazy.

        `is_complete`: the pass before left nothing that a node may have.
        """
        if self._lazy_events is None:
            await self._writer.unlinked_row.wait()
            return
        while not self._writer.unlinked_row.is_set():
            self._moved.clear()
            head = self._head()
            if head is not None:
                try:
                    lacking = await self._lazy_events.find_lacking(TipsetKey(head.head.key), GROUP)
                    await self._lazy_events.index(lacking[::-1])
                    if is_complete and not self._moved.is_set():
                        self.idle.set()
                except (NoSource, NotAvailableYet, StoreError, ChainError) as error:
                    log.info("the events of epoch %d are not indexed yet: %s", head.head.height, error)
            await _first_set(self._moved, self._writer.unlinked_row)

    async def one_pass(self) -> None:
        """Fetch all that can be had now. Errors: NoSource, NotAvailableYet, StoreError, ChainError."""
        head = self._head()
        if head is None:
            return
        kept = await load_kept(self._store)
        lacking, bottom, unlinked = await self._scan(TipsetKey(head.head.key), kept.state)
        for key in reversed(unlinked):
            await self._relink([key])
        await self._complete_receipts([row for row in lacking if not _whole(row)])
        floor = await load_floor(self._store)
        new: list[TipsetRow] = []
        if floor is not None:
            # what the store has dropped is not fetched again
            new = await self._extend(bottom, max(floor, kept.messages))
            if self._state:
                floor = max(floor, kept.state)
                rows = [row for row in (*lacking, *new) if not row.held & HELD_STATE and row.height >= floor]
                await self._complete(rows, MirrorScope(messages=False, receipts=False), HELD_STATE, "state")
        await self._index_events([row.key for row in (*lacking, *new)])
        await self._fill_wanted(new[-1] if new else bottom, head, kept)

    async def _fill_wanted(self, bottom: TipsetRow | None, head: HeadEntry, kept: Kept) -> None:
        """Fetch what followers were asked of, below all that is held: not their states."""
        while self._wanted is not None and bottom is not None:
            floor = await self._wanted.find(bottom.height, head.head.height, kept)
            if floor is None:
                return
            new = await self._extend(bottom, floor) or await self._extend_over_null_rounds(bottom, floor, kept)
            if not new:
                await self._wanted.give_up(floor)
                return
            await self._index_events([row.key for row in new])
            metrics.READ_THROUGH.inc(len(new))
            bottom = new[-1]

    async def _extend_over_null_rounds(self, bottom: TipsetRow, floor: int, kept: Kept) -> list[TipsetRow]:
        """Fetch the tipset below the lowest one where it lies below `floor`: it answers for null rounds above it."""
        try:
            (below,) = await self._writer.tipsets([bottom.parent])
        except NotAvailableYet:
            return []
        return await self._extend(bottom, below.height) if kept.messages <= below.height < floor else []

    async def count_lacking(self) -> int:
        """How many tipsets of the published chain, down to where messages are held, lack receipts or events."""
        head = self._head()
        lacking = [] if head is None else (await self._scan(TipsetKey(head.head.key), 0))[0]
        return sum(not _whole(row) for row in lacking)

    async def _complete_receipts(self, rows: Sequence[TipsetRow]) -> None:
        """Make receipts and events by execution, and ask the nodes for what cannot be made."""
        if self._executed is not None and rows:
            progress = _Progress("receipts and events by execution", len(rows))
            count = len(rows)
            lowest = rows[-1].height
            try:
                rows = await self._executed.complete(rows, self._give_way, progress.step)
            except RpcError as error:
                log.warning("receipts and events are not made by execution now: %s", error)
                if not self._asks_nodes:
                    raise
            except ExecutionDiffers as error:
                # until this process is started again: an operator has to look
                log.error("%s: nothing more is executed here; see docs/operating.md", error)
                self._executed = None
                if not self._asks_nodes:
                    raise
            else:
                progress.end(count - len(rows), len(rows), lowest, "cannot be executed")
        if self._asks_nodes:
            scope = MirrorScope(messages=False, state=False)
            await self._complete(rows, scope, HELD_RECEIPTS | HELD_EVENTS, "receipts and events")

    async def _index_events(self, keys: Sequence[TipsetKey]) -> None:
        """Write the rows of events that could not be written when their tipsets were stored."""
        for at in range(0, len(keys), GROUP):
            await self._give_way()
            part = keys[at : at + GROUP]
            if self._lazy_events is None:
                await self._writer.index_events(part)
            elif not await self._lazy_events.index(part):
                break  # no node holds the states of such old epochs

    async def _give_way(self) -> None:
        async with self._head_change_lock:
            return

    async def _scan(
        self, key: TipsetKey, lowest_state: int
    ) -> tuple[list[TipsetRow], TipsetRow | None, list[TipsetKey]]:
        """(rows of the chain below `key` that lack something, newest first; the lowest row there is; tipsets
        whose rows were written before their parents' and, a bridge having been killed, not again since).

        It ends where messages are not held: below, an import holds headers alone. States below `lowest_state` were
        dropped, and nobody lacks them.
        """
        found: list[TipsetRow] = []
        bottom: TipsetRow | None = None
        unlinked: list[TipsetKey] = []
        async for row in rows_down(self._store, key):
            if len(found) >= _SCAN or not row.held & HELD_MESSAGES:
                break
            if bottom is not None and bottom.parent_height < 0:
                unlinked.append(bottom.key)
            bottom = row
            if (
                not _whole(row)
                or (self._state and not row.held & HELD_STATE and row.height >= lowest_state)
                or can_index_events(row.held, needs_state=self._lazy_events is None)
            ):
                found.append(row)
        return found, bottom, unlinked

    async def _complete(self, rows: Sequence[TipsetRow], scope: MirrorScope, flags: int, what: str) -> None:
        """Fetch for existing rows, newest first, what `scope` says; `flags` are what is to be gained."""
        progress = _Progress(what, len(rows))
        got = lacking = in_a_row = 0
        epoch = rows[0].height if rows else 0
        for at in range(0, len(rows), GROUP):
            await self._give_way()
            part = rows[at : at + GROUP]
            tipsets = await self._writer.tipsets([row.key for row in part])
            held = await self._writer.mirror(tipsets, scope, retries_missing=False)
            for row, now in zip(part, held, strict=True):
                await self._writer.add_flags(row.key, now)
                complete = (row.held | now) & flags == flags
                got += complete
                lacking += not complete
                in_a_row = 0 if now & flags & ~row.held else in_a_row + 1
                epoch = row.height
            progress.step(len(part), epoch)
            if in_a_row >= _EMPTY_LIMIT:
                log.info("backfill of %s: the nodes hold none below epoch %d", what, epoch)
                break
        progress.end(got, lacking, epoch)

    async def _extend(self, bottom: TipsetRow | None, floor: int) -> list[TipsetRow]:
        """Fetch the tipsets below the lowest one, down to `floor`; their rows, newest first."""
        new: list[TipsetRow] = []
        if bottom is None or bottom.height <= floor:
            return new
        progress = _Progress("older epochs", bottom.height - floor)
        key, height = bottom.parent, bottom.height
        try:
            while height > floor and len(new) < _SCAN:
                await self._give_way()
                group: list[Tipset] = []
                while len(group) < GROUP and height > floor:
                    (tipset,) = await self._writer.tipsets([key])
                    if tipset.height < floor:
                        height = floor
                        break
                    group.append(tipset)
                    progress.step(height - tipset.height, tipset.height)
                    key, height = tipset.parents, tipset.height
                group.reverse()
                if group:
                    rows = await self._writer.write(
                        group, MirrorScope(state=False), retries_missing=False, reports_missing=False
                    )
                    new.extend(reversed(rows))
        except NotAvailableYet as error:
            log.info("backfill ends above epoch %d: %s", height, error)
        finally:
            if new:
                await self._relink([*(row.key for row in reversed(new)), bottom.key])
                progress.end(len(new), 0, new[-1].height)
        return new

    async def _relink(self, keys: Sequence[TipsetKey]) -> None:
        """Write rows again, oldest first, now that their parents' rows are there: with skip pointers."""
        parent: TipsetRow | None = None
        for at in range(0, len(keys), 256):
            tipsets = await self._writer.tipsets(keys[at : at + 256])
            async with self._writer.rows_lock:
                batch = Batch()
                epochs: list[tuple[int, int]] = []
                for tipset in tipsets:
                    old = await self._writer.row(tipset.key)
                    if parent is None:
                        parent = await self._writer.row(tipset.parents)
                    if parent is not None:  # the null rounds between two groups
                        epochs.append((parent.height + 1, tipset.height))
                    parent = row_of(tipset, parent, 0 if old is None else old.held)
                    batch.put(TIPSETS, tipset.key.cid, b"", parent.encode())
                await self._writer.cover(batch, (TIPSETS_INDEX, MESSAGES_INDEX), epochs)
                await self._store.write(batch)


def _whole(row: TipsetRow) -> bool:
    return row.held & (HELD_RECEIPTS | HELD_EVENTS) == HELD_RECEIPTS | HELD_EVENTS


async def _first_set(*events: asyncio.Event) -> None:
    """Wait until one of these events is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
