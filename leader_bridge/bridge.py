"""The leader bridge: follows full nodes; every head change is stored whole, then published, in order.

A pushed head change is taken as it is when it fits the head that was published last. When it does not (a cut
connection, a restarted node, another node, lost frames) the path from our head to the node's is published as one
head change. Nothing is skipped and nothing is published twice: the head log alone says where we are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol, runtime_checkable

from blockstore.archive.tier import ArchivedObjects, Archives
from blockstore.errors import Fenced, SchemaMismatch, StoreError, WrongNetwork
from blockstore.generations import GenerationalStore
from blockstore.store import HeadEntry, Store
from chain.errors import BadObject, BadRequest
from chain.network import ScheduleConflict
from chain.tipset import TipsetKey
from leader_bridge import metrics
from leader_bridge.backfill import Backfill
from leader_bridge.clock import monotonic
from leader_bridge.follow.head_path import HeadPath, PathFinder
from leader_bridge.follow.head_rules import HeadRules, NodeBehind, ReorgBelowFinality, ReorgPermit
from leader_bridge.follow.network import check_network
from leader_bridge.follow.publisher import Publisher
from leader_bridge.follow.upgrade_schedule import UpgradeSchedule
from leader_bridge.follow.verifier import OFF, SAMPLE, Verifier
from leader_bridge.nodes.archive_fetcher import ArchiveFetcher
from leader_bridge.nodes.sources import NoSource, Source, Sources, WatchedSubscription
from leader_bridge.nodes.subscription import (
    CURRENT,
    REVERT,
    Change,
    Subscription,
    fetch_chain_head,
    merge_changes,
    subscribe,
)
from leader_bridge.pool.claims import Claims
from leader_bridge.retention.keeper import Keeper
from leader_bridge.retention.policy import Policy
from leader_bridge.settings import BridgeSettings
from leader_bridge.store.executed_receipts import ExecutedReceipts
from leader_bridge.store.execution import ExecutionDiffers, TipsetExecution
from leader_bridge.store.lazy_events import LazyEvents
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.recorder import Recorder
from leader_bridge.store.tipset_writer import MirrorScope, NotAvailableYet, TipsetWriter
from leader_bridge.store.traces import Traces
from leader_bridge.store.wanted_floor import wanted_floor
from rpc.client.client import NodeClient
from rpc.client.node_info import NodeInfo
from rpc.executor import Executor
from rpc.node_errors import NodeError, NodeTimeout

log = logging.getLogger(__name__)

_STOP_SECONDS: Final = 10.0
#: of a gap that a new leader fills: epochs of its first head change, which followers see while it fetches the rest
_FIRST_STEP_EPOCHS: Final = 3


class _NodeStalled(Exception):
    """The node shows no new head; `other` is to be followed instead."""

    def __init__(self, text: str, other: Source) -> None:
        super().__init__(text)
        self.other = other


@runtime_checkable
class PacedStore(Protocol):
    """A store that shows head changes one after another, not all at once."""

    def publish_delay_ms(self) -> int:
        """Milliseconds to wait before one more is published."""


class Bridge:
    """Follows `nodes` (best first) and keeps `store`. `await run()` until `stop()`.

    `permit`: an operator's permission for one reorg below finality. `after_term`: the newest term there may be when
    this bridge begins its own (None: any). `executor`: the virtual machine, for what the settings ask to execute.
    `archives`: asked for objects before the nodes are.

    `run` returns after `stop`, and raises only what it cannot wait out: WrongNetwork (no node in the list is
    of the store's network), Fenced (another bridge leads), SchemaMismatch, BadRequest (the network file).
    """

    def __init__(
        self,
        store: Store,
        nodes: Sequence[NodeInfo | NodeClient],
        settings: BridgeSettings | None = None,
        *,
        permit: ReorgPermit | None = None,
        after_term: int | None = None,
        executor: Executor | None = None,
        archives: Archives | None = None,
    ) -> None:
        self.settings = settings or BridgeSettings()
        s = self.settings
        self._head_change_lock = asyncio.Lock()
        self.store = store
        client_of = partial(NodeClient, timeout=s.node_timeout_seconds, max_in_flight=s.fetch_concurrency)
        clients = [node if isinstance(node, NodeClient) else client_of(node) for node in nodes]
        self.sources = Sources(clients, batch=s.fetch_batch, bad_object_cooldown_seconds=s.bad_object_cooldown_seconds)
        reads = None if archives is None else ArchivedObjects(store, archives, asks_nodes=True)
        self.mirror = Mirror(
            store,
            self.sources if archives is None else ArchiveFetcher(archives, self.sources),
            in_flight=s.fetch_concurrency,
            batch=s.fetch_batch,
            actor_code=s.actor_code,
            missing_object_timeout_seconds=s.missing_object_timeout_seconds,
        )
        policy = Policy(
            s.keep_state_epochs,
            s.keep_message_epochs,
            s.keep_index_epochs,
            s.trace_lookback_epochs if s.traces else None,
        )
        self.writer = TipsetWriter(
            store,
            self.mirror,
            late_block_retry_delays=s.late_block_retry_delays,
            keeps_messages=policy.messages is None,
            reads=reads,
        )
        self.recorder = Recorder(store)
        execution = None if executor is None else TipsetExecution(store, executor, reads)
        past = execution if s.executes_past and s.state == "full" else None
        self.backfill = Backfill(
            store,
            self.writer,
            executed=None if past is None else ExecutedReceipts(store, self.writer, past, percent=s.backfill_percent),
            state=s.state == "full",
            lazy_events=None if s.state == "full" else LazyEvents(store, self.writer, self.mirror),
            wanted=wanted_floor(store, s),
            head=lambda: self.head,
            head_change_lock=self._head_change_lock,
        )
        self.keeper: Keeper | None = None
        if isinstance(store, GenerationalStore):
            self.keeper = Keeper(
                store,
                self.writer,
                policy,
                head=lambda: self.head,
                head_change_lock=self._head_change_lock,
                state=s.state == "full",
                actor_code=s.actor_code,
                rate=s.retention_rate,
                grace_seconds=s.retention_grace_seconds,
            )
        self.publisher = Publisher(
            store,
            self.writer,
            self.recorder,
            MirrorScope(state=s.state == "full"),
            keep_log_entries=s.keep_log_entries,
            on_head=self.backfill.notice_head,
        )
        if s.traces:
            self.publisher.traces = Traces(
                store,
                self.writer,
                s.trace_lookback_epochs,
                lambda: self.head,
                make=None if past is None else past.traces,
            )
        if execution is not None and s.verify != OFF:
            self.publisher.verifier = Verifier(execution, one_in=s.verify_one_in if s.verify == SAMPLE else 1)
        self._paths = PathFinder(store, self.writer, reads)
        self._rules = HeadRules(
            store,
            self.writer,
            self._paths,
            permit or ReorgPermit(),
            lagging_node_grace_seconds=s.lagging_node_grace_seconds,
        )
        self._schedule = UpgradeSchedule(store, s.network_file, self.writer.forget_network)
        #: the node that is followed ("": none), and its newest known epoch
        self.following = ""
        self.node_height = -1
        self.reconnects = -1
        self._after_term = after_term
        self._stopping = asyncio.Event()
        #: the node to follow next, where one was found to be ahead
        self._choose_next: Source | None = None
        #: whether this bridge has published in its term
        self._has_published = False
        #: why nothing is published ("": it is), told once in the log
        self._stopped_because = ""

    @property
    def head(self) -> HeadEntry | None:
        """The head that was published last."""
        return self.publisher.head

    @property
    def traces(self) -> Traces | None:
        """The recorder of traces, where they are recorded."""
        return self.publisher.traces

    @property
    def lag(self) -> int:
        """Epochs between the node's head and ours."""
        return max(0, self.node_height - (self.head.head.height if self.head else self.node_height))

    @property
    def term(self) -> int:
        """The leader term that this bridge publishes under; 0 before it has one."""
        return self.publisher.term

    @property
    def progress(self) -> int:
        """A number that grows with everything published or fetched."""
        return self.mirror.fetched + (self.head.seq if self.head else 0)

    @property
    def published_height(self) -> int:
        """Epoch of the published head; -1 without one."""
        return self.head.head.height if self.head else -1

    def stop(self) -> None:
        """Ask `run` to end after the head change in hand."""
        self._stopping.set()

    async def run(self) -> None:
        """Follow until stopped; see the class for what is raised."""
        owner = self.settings.owner or f"{socket.gethostname()}:{os.getpid()}"
        task = asyncio.create_task(self._run(owner))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_STOP_SECONDS):
                        await self._head_change_lock.acquire()
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        finally:
            # a task whose cancellation was swallowed ends at its next turn
            self._stopping.set()
            for one in (task, stop):
                one.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)
            self.recorder.stop()
            if self.publisher.verifier is not None:
                await self.publisher.verifier.close()
            await self.sources.close()

    # --- connections -------------------------------------------------------------------------------

    async def _run(self, owner: str) -> None:
        self.publisher.term = await self._new_term(owner)
        await self.publisher.load_head()
        metrics.STOPPED.clear()
        parts = (self.backfill, Claims(self.store, self.writer), self.traces, self.keeper)
        background = [asyncio.create_task(part.run()) for part in parts if part is not None]
        try:
            await self._follow_nodes()
        finally:
            for one in background:
                one.cancel()
            await asyncio.gather(*background, return_exceptions=True)

    async def _new_term(self, owner: str) -> int:
        wait = self.settings.first_backoff_seconds
        while True:
            try:
                return await self.store.new_term(owner, self._after_term)
            except (Fenced, SchemaMismatch):
                raise
            except StoreError as error:
                log.warning("the store does not answer (%s)", error)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(self.settings.longest_backoff_seconds, wait * 2)

    async def _follow_nodes(self) -> None:
        """Follow one node after another, until `stop` or an error that cannot be waited out."""
        settings = self.settings
        failures = 0
        while not self._stopping.is_set():
            source = await self._choose()
            before = self.head.seq if self.head else 0
            try:
                await self._follow(source)
            except (Fenced, SchemaMismatch):
                raise
            except WrongNetwork as error:
                source.refusal = str(error)
                log.error("refused: %s", error)
                if all(other.refusal for other in self.sources.all):
                    raise
                continue
            except NodeError as error:
                source.record_failure(error)
                log.info("%s: the subscription ended: %s", source.name, error)
                continue
            except _NodeStalled as error:
                log.warning("%s: %s is followed instead", error, error.other.name)
                self._choose_next = error.other
                continue
            except ReorgBelowFinality as error:
                self._report_stop("reorg_below_finality", f"{error}; --accept-reorg-below-finality permits it, once")
                source.cool_down(seconds=settings.refused_head_cooldown_seconds)
                continue
            except ScheduleConflict as error:
                self._report_stop("network_version", str(error))
                source.cool_down(seconds=settings.refused_head_cooldown_seconds)
                continue
            except ExecutionDiffers as error:
                self._report_stop("execution_differs", f"{error}; see docs/operating.md")
                source.cool_down(seconds=settings.refused_head_cooldown_seconds)
                continue
            except (NotAvailableYet, NoSource, BadObject, StoreError) as error:
                log.warning("not published yet, tried again: %s", error)
                source.cool_down(seconds=settings.first_backoff_seconds)
            except (BadRequest, asyncio.CancelledError):
                raise
            except Exception:
                log.exception("following %s failed; it is tried again", source.name)
                source.cool_down(seconds=settings.first_backoff_seconds)
            moved = self.head is not None and self.head.seq > before
            failures = 1 if moved else failures + 1
            wait = min(settings.longest_backoff_seconds, settings.first_backoff_seconds * 2 ** min(failures - 1, 16))
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))

    async def _choose(self) -> Source:
        """The node to follow: the best that may be asked now. The one that just failed cools down, so the next is
        tried. While all cool down, those that failed are asked every few seconds whether they are there again."""
        while True:
            usable = self.sources.usable()
            chosen, self._choose_next = self._choose_next, None
            if chosen in usable:
                return chosen
            if usable:
                return usable[0]
            if not await self.sources.probe():
                await asyncio.sleep(min(self.sources.next_usable_in(), self.settings.probe_interval_seconds))

    def _report_stop(self, reason: str, text: str) -> None:
        """Say once that nothing is published for this reason, until something is."""
        metrics.STOPPED.labels(reason).set(1)
        if text != self._stopped_because:
            log.error("not published: %s", text)
        self._stopped_because = text

    def _report_published(self) -> None:
        if self._stopped_because:
            log.warning("head changes are published again")
            self._stopped_because = ""
            metrics.STOPPED.clear()

    async def _follow(self, source: Source) -> None:
        """Follow one node until that ends, by an error."""
        client = source.client
        await self.publisher.load_head()
        await self._rules.load(self.head.head if self.head else None)
        await check_network(self.store, client, self.settings.network_file)
        await self._schedule.merge(client, self.head.head.height if self.head else -1)
        if self.head is not None:
            await self._schedule.check_head(client, TipsetKey(self.head.head.key), self.head.head.height)
        pushed = await subscribe(client, poll_interval=self.settings.poll_interval_seconds)
        subscription = WatchedSubscription(source, pushed)
        self.reconnects += 1
        if self.reconnects:
            metrics.RECONNECTS.inc()
        self.following = source.name
        self.sources.prefer(source)
        self.recorder.begin(client)
        if self.traces is not None:
            self.traces.begin(client)
        log.info("following %s by %s", source.name, subscription.transport)
        try:
            while True:
                changes = await self._merge_while_paced(subscription, await self._next(subscription, source))
                if not changes:
                    continue
                began = monotonic()
                async with self._head_change_lock:
                    before = self.head.seq if self.head else 0
                    await self._apply(source, changes)
                    source.mark_healthy()
                    if self.head is not None and self.head.seq > before:
                        seconds = (monotonic() - began) / max(1, len(self.head.applies))
                        metrics.TIPSET_SECONDS.observe(seconds)
                metrics.LAG.set(self.lag)
        finally:
            self.following = ""
            await subscription.close()

    async def _next(self, subscription: Subscription, source: Source) -> list[Change]:
        """The next head change. A node that pushes nothing for long is asked for its head: it may have missed one."""
        while True:
            longest = self.settings.idle_probe_seconds
            try:
                changes = await subscription.next(min(longest, 1.0) if self._rules.waits_for_node else longest)
            except NodeTimeout:
                now = await fetch_chain_head(source.client)
                if self.head is None or now.key != self.head.head.key:
                    return [now]
                other = await self.sources.another_ahead(source, now.height)
                if other is not None:
                    raise _NodeStalled(f"{source.name} stands still at epoch {now.height}", other) from None
                continue
            if changes:
                return changes

    async def _merge_while_paced(self, subscription: Subscription, changes: list[Change]) -> list[Change]:
        """Merge into `changes` what the node pushes while the store cannot show another head yet.

        Published one by one they would be stamped ever further into the future. Errors: NodeError.
        """
        if not isinstance(self.store, PacedStore):
            return changes
        while (wait := self.store.publish_delay_ms()) > 0:
            await asyncio.sleep(wait / 1000)
            with contextlib.suppress(NodeTimeout):
                while True:
                    changes = [*changes, *await subscription.next(0.001)]
        return merge_changes(changes)

    # --- head changes ------------------------------------------------------------------------------

    async def _apply(self, source: Source, changes: list[Change]) -> None:
        """Store and publish one head change. Errors: ReorgBelowFinality, _NodeStalled; and as `Publisher.publish`."""
        self.node_height = changes[-1].height
        if self.head is None:
            target = await self._paths.target_of(changes)
            (tipset,) = await self.writer.tipsets([target.key])
            await self._publish(source, await self.publisher.first_path(tipset, self.settings.backfill_epochs))
        elif changes[-1].key == self.head.head.key and changes[-1].kind != REVERT:
            await self._rules.follow_head(source.name, self.head.head, None)
            self._report_published()
        else:
            path = None if changes[0].kind == CURRENT else await self._paths.fit(self.head.head, changes)
            if path is not None and path.applies:
                await self._publish(source, path)
                return
            try:
                await self._go_to(source, await self._paths.target_of(changes))
            except NodeBehind as error:
                if error.seconds >= self.settings.lagging_node_grace_seconds:
                    other = await self.sources.another_ahead(source, self.head.head.height - 1)
                    if other is not None:
                        raise _NodeStalled(f"{source.name} stays behind our head", other) from None

    async def _go_to(self, source: Source, target: Change) -> None:
        """Fill the gap between our head and the node's. Errors: NodeBehind; and as `_apply`."""
        assert self.head is not None
        (tipset,) = await self.writer.tipsets([target.key])
        await self._rules.check_target(source.name, tipset)
        gap = self.settings.max_gap_epochs
        if not self._has_published:
            gap = min(gap, _FIRST_STEP_EPOCHS)
        while tipset.height - self.head.head.height > gap:
            middle = await self._paths.waypoint(source, self.head.head, tipset, gap)
            if middle is None:
                break
            path = await self._paths.find(source, self.head.head, middle, self._rules.lowest_revert())
            if not path.applies:
                break
            await self._publish(source, path)
            gap = self.settings.max_gap_epochs
        path = await self._paths.find(source, self.head.head, tipset, self._rules.lowest_revert())
        if path.reverts or path.applies:
            log.info("filling a gap: %d reverts, %d applies", len(path.reverts), len(path.applies))
            await self._publish(source, path)

    async def _publish(self, source: Source, path: HeadPath) -> None:
        """Publish a path that the rules and the upgrade schedule allow.

        Errors: ReorgBelowFinality, ScheduleConflict; and as `Publisher.publish`.
        """
        self._rules.check_path(source.name, path)
        before = self.head.head.height if self.head is not None else -1
        check = asyncio.create_task(self._schedule.check(source.client, path.applies, before))
        try:
            await self.publisher.publish(path, check)
        finally:
            check.cancel()
            await asyncio.gather(check, return_exceptions=True)
        assert self.head is not None
        self._has_published = True
        await self._rules.follow_head(source.name, self.head.head, path)
        self._report_published()
