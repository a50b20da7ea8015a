"""Following full nodes: every head change is stored whole, then published, in order.

What a node pushes is taken as it is when it fits the head that was published last. When it does not (a
connection that was cut, a node that restarted, another node, frames that were lost) the way from our head to
the node's is looked for: reverts down to the common ancestor, then applies up, published as one head change.
Nothing is skipped and nothing is told twice: the head log alone says where we are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from blockstore.errors import Fenced, SchemaMismatch, StoreError, WrongNetwork
from blockstore.store import Batch, HeadEntry, Store, TipsetRef
from chain.errors import BadObject, BadRequest, ChainError
from chain.network import load_network
from chain.tipset import Tipset, TipsetKey
from leader_bridge import metrics
from leader_bridge.backfill import Backfill, save_floor
from leader_bridge.follow.network import check_network
from leader_bridge.nodes.sources import NoSource, Source, Sources
from leader_bridge.nodes.subscription import (
    APPLY,
    CURRENT,
    REVERT,
    Change,
    Subscription,
    chain_head,
    key_json,
    merged,
    parse_changes,
    subscribe,
    tipset_hint,
)
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.recorder import Recorder
from leader_bridge.store.tipset_writer import Keeper, NotYet, Wanted
from leader_bridge.store.traces import Traces
from rpc.client.client import NodeClient
from rpc.client.node_info import NodeInfo
from rpc.node_errors import BadAnswer, NodeError, NodeTimeout

log = logging.getLogger(__name__)

_STOP_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """How to follow. Times in seconds.

    `state`: full or lazy. `backfill`: epochs below the first head of an empty store that are fetched too.
    `fetch_concurrency` requests of `fetch_batch` objects are in flight at once. `gap`: the most epochs in
    one head change when a gap is filled. `hold`: how long a lighter head of another node, or one below
    ours, is not followed. `quiet`: after so long without a head change the node is asked for its head.
    `traces`: the node is asked for each tipset's traces, down to `trace_lookback` epochs below the head.
    """

    state: str = "full"
    backfill: int = 2000
    network_file: Path | None = None
    fetch_concurrency: int = 8
    fetch_batch: int = 256
    node_timeout: float = 30.0
    poll_interval: float = 2.0
    actor_code: bool = True
    traces: bool = False
    trace_lookback: int = 2880
    gap: int = 900
    keep_log: int = 100_000
    hold: float = 60.0
    quiet: float = 60.0
    first_backoff: float = 0.1
    longest_backoff: float = 30.0
    lie_rest: float = 30.0
    patience: float = 60.0
    late: tuple[float, ...] = (0.1, 0.3, 1.0)
    owner: str = ""


@dataclass(frozen=True, slots=True)
class _Path:
    """From one head to another: reverts newest first, applies oldest first, and where they part."""

    reverts: tuple[TipsetRef, ...]
    applies: tuple[Tipset, ...]
    common: TipsetRef | None


class _Hold(Exception):
    """The node's head is behind ours: wait for it."""


@runtime_checkable
class PacedStore(Protocol):
    """A store that shows head changes one after another, not all at once."""

    def publish_delay_ms(self) -> int:
        """How long to wait before one more is published."""


class Bridge:
    """Follows `nodes` (best first) and keeps `store`. `await run()` until `stop()`.

    `run` returns after `stop`, and raises only what it cannot wait out: WrongNetwork (no node in the list is
    of the store's network), Fenced (another bridge leads), SchemaMismatch, BadRequest (the network file).
    """

    def __init__(
        self,
        store: Store,
        nodes: Sequence[NodeInfo | NodeClient],
        settings: BridgeSettings | None = None,
    ) -> None:
        self.settings = settings or BridgeSettings()
        s = self.settings
        self._working = asyncio.Lock()
        self.store = store
        clients = [
            node
            if isinstance(node, NodeClient)
            else NodeClient(node, timeout=s.node_timeout, max_in_flight=s.fetch_concurrency)
            for node in nodes
        ]
        self.sources = Sources(clients, batch=s.fetch_batch, lie_rest=s.lie_rest)
        self.mirror = Mirror(
            store,
            self.sources,
            in_flight=s.fetch_concurrency,
            batch=s.fetch_batch,
            actor_code=s.actor_code,
            patience=s.patience,
        )
        self.keeper = Keeper(store, self.mirror, late=s.late)
        self.recorder = Recorder(store)
        self.traces = Traces(store, self.keeper, s.trace_lookback, lambda: self.head) if s.traces else None
        self.wanted = Wanted(state=s.state == "full")
        self.backfill = Backfill(
            store, self.keeper, state=s.state == "full", head=lambda: self.head, busy=self._working
        )
        self.head: HeadEntry | None = None
        #: the node that is followed, and its newest known epoch
        self.following = ""
        self.node_height = -1
        self.reconnects = -1
        self._term = 0
        self._stopping = asyncio.Event()
        self._held_since: float | None = None
        self._last_node = ""

    @property
    def lag(self) -> int:
        """Epochs between the node's head and ours."""
        return max(0, self.node_height - (self.head.head.height if self.head else self.node_height))

    @property
    def term(self) -> int:
        """The leader term that this bridge publishes under; 0 before it has one."""
        return self._term

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
                        await self._working.acquire()
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        finally:
            for one in (task, stop):
                one.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)
            self.recorder.stop()
            await self.sources.close()

    # --- connections -------------------------------------------------------------------------------

    async def _run(self, owner: str) -> None:
        self._term = await self._new_term(owner)
        self.head = await self.store.head()
        if self.head is not None:
            metrics.HEAD_HEIGHT.set(self.head.head.height)
        behind: list[asyncio.Task[None]] = []
        failures = 0
        try:
            while True:
                if not behind:
                    behind.append(asyncio.create_task(self.backfill.run()))
                    if self.traces is not None:
                        behind.append(asyncio.create_task(self.traces.run()))
                source = await self._choose()
                before = self.head.seq if self.head else 0
                try:
                    await self._follow(source)
                except (Fenced, SchemaMismatch):
                    raise
                except WrongNetwork as error:
                    source.wrong = str(error)
                    log.error("refused: %s", error)
                    if all(other.wrong for other in self.sources.all):
                        raise
                    continue
                except NodeError as error:
                    source.failed(error)
                    log.info("%s: the subscription ended: %s", source.name, error)
                except (NotYet, NoSource, BadObject, StoreError) as error:
                    log.warning("not published yet, tried again: %s", error)
                    source.rest(self.settings.first_backoff)
                except (BadRequest, asyncio.CancelledError):
                    raise
                except Exception:
                    log.exception("following %s failed; it is tried again", source.name)
                    source.rest(self.settings.first_backoff)
                moved = self.head is not None and self.head.seq > before
                failures = 1 if moved else failures + 1
                wait = min(self.settings.longest_backoff, self.settings.first_backoff * 2 ** min(failures - 1, 16))
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
        finally:
            for one in behind:
                one.cancel()
            await asyncio.gather(*behind, return_exceptions=True)

    async def _new_term(self, owner: str) -> int:
        wait = self.settings.first_backoff
        while True:
            try:
                return await self.store.new_term(owner)
            except (Fenced, SchemaMismatch):
                raise
            except StoreError as error:
                log.warning("the store does not answer (%s)", error)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(self.settings.longest_backoff, wait * 2)

    async def _choose(self) -> Source:
        """The node to follow: the best that does not rest. The one that just failed rests, so the next is
        tried; alone it is tried again when its rest is over."""
        while True:
            usable = self.sources.usable()
            if usable:
                return usable[0]
            await asyncio.sleep(min(self.sources.next_usable_in(), self.settings.longest_backoff))

    async def _follow(self, source: Source) -> None:
        """Follow one node until that ends, by an error."""
        client = source.client
        # an append that seemed to fail may have been done: the log alone says where we are
        self.head = await self.store.head()
        await check_network(self.store, client, self.settings.network_file)
        subscription = await subscribe(client, poll_interval=self.settings.poll_interval)
        self.reconnects += 1
        if self.reconnects:
            metrics.RECONNECTS.inc()
        self.following = source.name
        self.sources.prefer(source)
        self.recorder.begin(client)
        if self.traces is not None:
            self.traces.begin(client)
        log.info("following %s by %s", source.name, subscription.way)
        try:
            while True:
                changes = await self._paced(subscription, await self._next(subscription, source))
                if not changes:
                    continue
                began = time.monotonic()
                async with self._working:
                    before = self.head.seq if self.head else 0
                    await self._take(source, changes)
                    source.well()
                    if self.head is not None and self.head.seq > before:
                        metrics.SECONDS.observe((time.monotonic() - began) / max(1, len(self.head.applies)))
                metrics.LAG.set(self.lag)
        finally:
            self.following = ""
            await subscription.close()

    async def _next(self, subscription: Subscription, source: Source) -> list[Change]:
        """The next head change; a node that is quiet for long is asked whether it missed telling one."""
        while True:
            try:
                held = self._held_since is not None
                changes = await subscription.next(min(self.settings.quiet, 1.0 if held else self.settings.quiet))
            except NodeTimeout:
                now = await chain_head(source.client)
                if self.head is None or now.key != self.head.head.key:
                    return [now]
                continue
            if changes:
                return changes

    async def _paced(self, subscription: Subscription, changes: list[Change]) -> list[Change]:
        """With what the node has told since, as one change, while the store cannot show heads so fast.

        Published one by one they would be stamped ever further into the future. Errors: NodeError.
        """
        if not isinstance(self.store, PacedStore):
            return changes
        while (wait := self.store.publish_delay_ms()) > 0:
            await asyncio.sleep(wait / 1000)
            with contextlib.suppress(NodeTimeout):
                while True:
                    changes = [*changes, *await subscription.next(0.001)]
        return merged(changes)

    # --- head changes ------------------------------------------------------------------------------

    async def _take(self, source: Source, changes: list[Change]) -> None:
        """Store and publish one head change."""
        self.node_height = changes[-1].height
        if self.head is None:
            await self._begin(await self._target(changes))
            self._last_node = source.name
            return
        if changes[-1].key == self.head.head.key and changes[-1].kind != REVERT:
            self._held_since = None
            self._last_node = source.name
            return
        path = None if changes[0].kind == CURRENT else await self._fit(changes)
        if path is None:
            try:
                await self._go_to(source, await self._target(changes))
            except _Hold:
                return
        else:
            await self._publish(path)
        self._held_since = None
        self._last_node = source.name

    async def _target(self, changes: list[Change]) -> Change:
        """The head that a head change leads to. Not the node's head *now*: frames that wait would lead back."""
        last = changes[-1]
        if last.kind != REVERT:
            return last
        (tipset,) = await self.keeper.tipsets([last.key])
        (parent,) = await self.keeper.tipsets([tipset.parents])
        return Change(CURRENT, parent.height, parent.key)

    async def _begin(self, target: Change) -> None:
        """The first head of an empty store."""
        (tipset,) = await self.keeper.tipsets([target.key])
        await self._keep_genesis()
        batch = Batch()
        save_floor(batch, max(0, tipset.height - self.settings.backfill))
        await self.store.write(batch)
        log.info("an empty store: it begins at epoch %d", tipset.height)
        await self._publish(_Path((), (tipset,), None))

    async def _keep_genesis(self) -> None:
        """The genesis' block and row: every chain is asked for it. Its state only where it is given."""
        record = await load_network(self.store)
        if record is None:
            return
        try:
            (genesis,) = await self.keeper.tipsets([TipsetKey.of([record.genesis])])
            await self.keeper.keep_bare(genesis)
        except NotYet as error:
            log.warning("the genesis is not held: %s", error)

    async def _fit(self, changes: list[Change]) -> _Path | None:
        """A pushed head change as reverts and applies, if it goes on from our head; else None."""
        assert self.head is not None
        kinds = [change.kind for change in changes]
        count = kinds.count(REVERT)
        if kinds != [REVERT] * count + [APPLY] * (len(kinds) - count):
            return None
        at = self.head.head
        reverts: list[TipsetRef] = []
        for change in changes[:count]:
            if change.key != at.key:
                return None
            reverts.append(at)
            at = await self._parent(at)
        applies = await self.keeper.tipsets([change.key for change in changes[count:]])
        key = at.key
        for tipset in applies:
            if tipset.parents != key:
                return None
            key = tipset.key
        return _Path(tuple(reverts), tuple(applies), at)

    async def _parent(self, ref: TipsetRef) -> TipsetRef:
        """The parent of a tipset of ours."""
        row = await self.keeper.row(TipsetKey(ref.key))
        if row is not None and row.parent_height >= 0:
            return TipsetRef(row.parent_height, row.parent)
        (tipset,) = await self.keeper.tipsets([TipsetKey(ref.key)])
        if tipset.height == 0:
            raise BadObject("the genesis would be reverted: the node is of another chain")
        (parent,) = await self.keeper.tipsets([tipset.parents])
        return TipsetRef(parent.height, parent.key)

    async def _go_to(self, source: Source, target: Change) -> None:
        """Fill the gap between our head and the node's. Errors: _Hold."""
        assert self.head is not None
        (tipset,) = await self.keeper.tipsets([target.key])
        await self._maybe_hold(source, tipset)
        while tipset.height - self.head.head.height > self.settings.gap:
            middle = await self._on_the_way(source, tipset)
            if middle is None:
                break
            path = await self._path(source, middle)
            if not path.applies:
                break
            await self._publish(path)
        path = await self._path(source, tipset)
        if path.reverts or path.applies:
            log.info("a gap is filled: %d back, %d forward", len(path.reverts), len(path.applies))
            await self._publish(path)

    async def _maybe_hold(self, source: Source, tipset: Tipset) -> None:
        """Do not go back, for a while, for a node that has only not caught up yet.

        A head below ours on our own chain, or a lighter one of another node than the last, is a node behind
        us: going there and back would show every client a head that goes back. Errors: _Hold.
        """
        assert self.head is not None
        (ours,) = await self.keeper.tipsets([TipsetKey(self.head.head.key)])
        behind = tipset.parent_weight < ours.parent_weight
        if behind and source.name == self._last_node:
            behind = await self._is_ours(tipset)
        if not behind:
            return
        now = time.monotonic()
        if self._held_since is None:
            self._held_since = now
            log.info(
                "%s is behind us (epoch %d, ours %d): our head stays until it has caught up",
                source.name,
                tipset.height,
                ours.height,
            )
        if now - self._held_since < self.settings.hold:
            raise _Hold
        log.warning("%s stays behind us: its head is followed all the same", source.name)

    async def _is_ours(self, tipset: Tipset) -> bool:
        """Whether a tipset is an ancestor of our head."""
        assert self.head is not None
        at = self.head.head
        for _ in range(self.settings.gap):
            if at.height <= tipset.height:
                break
            at = await self._parent(at)
        return at.key == tipset.key

    async def _on_the_way(self, source: Source, target: Tipset) -> Tipset | None:
        """A tipset `gap` epochs above our head on the way to `target`; None where the node cannot say."""
        assert self.head is not None
        height = self.head.head.height + self.settings.gap
        try:
            answer = await source.client.call("Filecoin.ChainGetTipSetByHeight", height, key_json(target.key))
            at, key = tipset_hint(answer)
        except (BadAnswer, NodeError):
            return None
        if at <= self.head.head.height:
            return None
        return (await self.keeper.tipsets([key]))[0]

    async def _path(self, source: Source, target: Tipset) -> _Path:
        """Reverts (newest first) and applies (oldest first) from our head to `target`.

        The node's `ChainGetPath` is believed as far as headers confirm it; else both sides are walked down
        by their headers until they meet.
        """
        assert self.head is not None
        ours = self.head.head
        try:
            answer = await source.client.call(
                "Filecoin.ChainGetPath", key_json(TipsetKey(ours.key)), key_json(target.key)
            )
            changes = parse_changes(answer)
            end = changes[-1].key if changes and changes[-1].kind == APPLY else None
            if end == target.key:
                path = await self._fit(changes)
                if path is not None:
                    return path
        except (NodeError, ChainError, NotYet) as error:
            log.info("%s: no path from ChainGetPath (%s): headers are walked", source.name, error)
        reverts: list[TipsetRef] = []
        applies: list[Tipset] = []
        at, theirs = ours, target
        while at.key != theirs.key:
            if theirs.height >= at.height:
                applies.append(theirs)
                if theirs.height == 0:
                    raise BadObject("the node's chain has no tipset in common with ours")
                down = theirs
                (theirs,) = await self.keeper.tipsets([down.parents])
                if down.height > at.height:
                    continue
            reverts.append(at)
            at = await self._parent(at)
        applies.reverse()
        return _Path(tuple(reverts), tuple(applies), at)

    # --- publishing --------------------------------------------------------------------------------

    async def _publish(self, path: _Path) -> None:
        """Store what is applied, then append the head change. Errors: Fenced, NotYet, NoSource, StoreError."""
        self.recorder.ask()
        if self.traces is not None:
            self.traces.ask(path.applies, path.common.height if path.reverts and path.common else None)
        for ref in path.reverts:
            # below the first head of a store: who reads the log wants the header of what is reverted
            if await self.keeper.row(TipsetKey(ref.key)) is None:
                await self.keeper.keep_bare((await self.keeper.tipsets([TipsetKey(ref.key)]))[0])
        if path.common is not None and not path.applies:
            await self.keeper.keep(await self.keeper.tipsets([TipsetKey(path.common.key)]), self.wanted)
        await self.keeper.keep(path.applies, self.wanted)
        refs = tuple(TipsetRef(tipset.height, tipset.key) for tipset in path.applies)
        head = refs[-1] if refs else path.common
        if head is None:
            return
        entry = HeadEntry(
            seq=self.head.seq + 1 if self.head else 1,
            term=self._term,
            reverts=path.reverts,
            applies=refs,
            head=head,
        )
        await self.recorder.keep(TipsetKey(head.key).cid)
        if self.traces is not None:
            await self.traces.settle()
        await self.store.append_head(entry)
        self.head = entry
        metrics.HEAD_HEIGHT.set(head.height)
        metrics.PUBLISHED.inc()
        self.backfill.head_moved()
        if entry.seq % min(1000, self.settings.keep_log) == 0:
            await self.store.trim_head_log(self.settings.keep_log)
