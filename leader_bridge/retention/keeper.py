"""The pass that keeps a store at its size, beside a bridge that leads.

When the current generation holds as many epochs of state as the policy keeps, the next one is begun:

1. *Copy.* The head's state is copied to it, children first, and again as the head moves on, until little is left; the
   messages and receipts that are kept too. The bridge goes on writing to the current generation.
2. *Switch.* Between two head changes the rest is copied, and the layout's row makes the next generation the current
   one. From then on the bridge writes to it; what it finds only in the previous one it copies.
3. *Wait* until no state that is kept is older than the switch.
4. *Say* from which epoch on things are held: followers refuse what is older. Wait a while for requests under way.
5. *Remove* the rows and flags of what is older, and drop the previous generation whole.

Each step is a row or may be done again, so that a crash at any moment leaves a valid store, and the next run goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Final

from blockstore.errors import Missing, StoreError
from blockstore.generations import GenerationalStore, Layout, put_layout
from blockstore.store import META, Batch, HeadEntry, Store
from chain.errors import ChainError
from chain.index.chain_index import HELD_EVENTS, HELD_MESSAGES, HELD_RECEIPTS, HELD_STATE
from chain.index.coverage import covered
from chain.index.event_rows import POSTINGS_BUCKET
from chain.index.kept import INDICES, MESSAGES, STATE, load_kept, save_kept
from chain.network import load_network
from chain.tipset import TipsetKey
from leader_bridge import metrics
from leader_bridge.nodes.sources import NoSource
from leader_bridge.retention.aged_rows import AGING_INDICES, AgedRows
from leader_bridge.retention.copy_rate import CopyRate
from leader_bridge.retention.copying import Copier
from leader_bridge.retention.policy import Policy
from leader_bridge.store.coverage import save_coverage, without
from leader_bridge.store.tipset_writer import NotAvailableYet, TipsetWriter

log = logging.getLogger(__name__)

_EVENTS: Final = "events"
#: META row: the key of the tipset whose messages, and those of its ancestors, are in the lasting place
_LASTING_MESSAGES: Final = b"lasting_messages"
_STEPS: Final = ("idle", "copying", "waiting", "removing")
#: a copy of the head's state that took no more objects than this is the last one before the switch
_LITTLE: Final = 20_000
#: seconds between two looks whether something is to be done, and before a pass that failed goes on
_LOOK_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 30.0


class Keeper:
    """Keeps `store` to `policy`: `run` beside the bridge, or `once`.

    `head_change_lock` is held while a head change is in hand, and by the switch. `state`: whether states are mirrored.
    `rate`: objects copied a second, at most. `grace_seconds`: from saying that something is no longer held until it is
    removed; more than readers trust what they have read (`chain.index.kept`). `look_seconds`: between two looks whether
    something is to be done.
    """

    def __init__(
        self,
        store: Store,
        writer: TipsetWriter,
        policy: Policy,
        *,
        head: Callable[[], HeadEntry | None],
        head_change_lock: asyncio.Lock,
        state: bool = True,
        actor_code: bool = True,
        rate: float = 20_000.0,
        grace_seconds: float = 60.0,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        assert isinstance(store, GenerationalStore)
        self._store = store
        self._generations: GenerationalStore = store
        self._writer = writer
        self._policy = policy
        self._head = head
        self._head_change_lock = head_change_lock
        self._state = state
        self._actor_code = actor_code
        self._grace_seconds = grace_seconds
        self._look_seconds = look_seconds
        self.rate = CopyRate(rate)
        self._aged = AgedRows(store, writer, self.rate)

    async def run(self) -> None:
        """Look every few seconds for what is to be done, until cancelled; what fails is tried again."""
        while True:
            wait = self._look_seconds
            try:
                await self.once()
            except (StoreError, ChainError, NoSource, NotAvailableYet) as error:
                metrics.RETENTION_FAILURES.inc()
                log.warning("the store's size: %s; the pass goes on in a while", error)
                wait = _RETRY_SECONDS
            self._tell("idle")
            await asyncio.sleep(wait)

    async def once(self) -> None:
        """Do all that is due now. Errors: StoreError, ChainError, NotAvailableYet."""
        head = self._head()
        if head is None:
            return
        await self._say_policy()
        await self._finish_removing()
        layout = await self._generations.layout()
        await self._clean(layout)
        if self._policy.state is not None:
            if layout.current not in layout.begins:
                layout = await self._save(layout.with_begin(head.head.height))
            if layout.previous is not None and self._is_aged(layout, head.head.height):
                layout = await self._drop_previous(layout)
            if layout.previous is None and self._is_full(layout, head.head.height):
                layout = await self._next_generation(layout)
        await self._age_indices(head.head.height)
        metrics.GENERATIONS.set(len(await self._generations.generations()))

    def _is_aged(self, layout: Layout, head: int) -> bool:
        return self._policy.lowest_state(head) >= layout.begins[layout.current][0]

    def _is_full(self, layout: Layout, head: int) -> bool:
        assert self._policy.state is not None
        return layout.next is not None or head - layout.begins[layout.current][0] >= self._policy.state

    async def _clean(self, layout: Layout) -> None:
        """Remove generations that no layout names any more: a crash came between the row and their removal."""
        for number in await self._generations.generations():
            # not the newer ones: another leader may be about to use them
            if number < min(layout.held):
                await self._generations.drop_generation(number)

    async def _save(self, layout: Layout, batch: Batch | None = None) -> Layout:
        batch = batch or Batch()
        put_layout(batch, layout)
        await self._store.write(batch)
        return await self._generations.layout()

    # --- a new generation --------------------------------------------------------------------------

    async def _next_generation(self, layout: Layout) -> Layout:
        self._tell("copying")
        if layout.next is None:
            layout = await self._save(layout.with_next())
            log.info("generation %s of objects is begun", layout.next)
        assert layout.next is not None
        await self._generations.make_generation(layout.next)
        copier = Copier(self._store, self._writer, layout.next, self.rate, actor_code=self._actor_code)
        await self._keep_genesis(copier)
        copied: TipsetKey | None = None
        while True:
            key = self._head_key()
            objects = await self._copy_state(copier, key)
            if copied is None:
                await self._copy_messages(copier, key, await self._lasting_below(key))
                copied = key
            if objects <= _LITTLE:
                break
        async with self._head_change_lock:
            # the head stands still: what came meanwhile is little
            head = self._head()
            assert head is not None
            key = TipsetKey(head.head.key)
            await self._copy_state(copier, key)
            await self._copy_messages(copier, key, await self._common(copied, key))
            height = head.head.height
            batch = Batch()
            if self._policy.messages is None:
                batch.put(META, b"", _LASTING_MESSAGES, bytes(key))
            layout = await self._save(layout.switched(height + 1, self._policy.lowest_messages(height)), batch)
        log.info("generation %d of objects is the current one from epoch %d on", layout.current, height + 1)
        return layout

    async def _copy_state(self, copier: Copier, key: TipsetKey) -> int:
        if not self._state:
            return 0
        (tipset,) = await self._writer.tipsets([key])
        try:
            return await copier.state(tipset.parent_state_root)
        except Missing as error:
            raise StoreError(
                f"nothing is dropped, for the state of epoch {tipset.height} is not whole: {error}"
            ) from None

    async def _copy_messages(self, copier: Copier, key: TipsetKey, until: TipsetKey | None) -> None:
        head = self._head()
        assert head is not None
        lowest = self._policy.lowest_messages(head.head.height)
        await copier.messages(key, lowest, until, lasting=self._policy.messages is None)

    async def _lasting_below(self, key: TipsetKey) -> TipsetKey | None:
        """Where all messages are kept: the tipset below which an earlier pass has put them where nothing is dropped."""
        value = None if self._policy.messages is not None else await self._store.row(META, b"", _LASTING_MESSAGES)
        return None if value is None else await self._common(TipsetKey(value), key)

    async def _common(self, copied: TipsetKey, key: TipsetKey) -> TipsetKey | None:
        """Where copying below `key` ends: at `copied`, or after a reorg at an ancestor of both; None: there is none."""
        older: set[TipsetKey] = set()
        row = await self._writer.row(copied)
        while row is not None and len(older) < 2 * 900:
            older.add(row.key)
            row = await self._writer.row(row.parent) if row.height else None
        found = await self._writer.row(key)
        while found is not None:
            if found.key in older:
                return found.key
            found = await self._writer.row(found.parent) if found.height else None
        return None

    async def _keep_genesis(self, copier: Copier) -> None:
        """Keep the genesis, whose accounts and their vesting every supply is computed from."""
        network = await load_network(self._store)
        if network is None:
            return
        key = TipsetKey.of([network.genesis])
        row = await self._writer.row(key)
        if row is not None:
            (genesis,) = await self._writer.tipsets([key])
            await copier.genesis(genesis, row.held)

    def _head_key(self) -> TipsetKey:
        head = self._head()
        assert head is not None
        return TipsetKey(head.head.key)

    # --- dropping ----------------------------------------------------------------------------------

    async def _drop_previous(self, layout: Layout) -> Layout:
        assert layout.previous is not None
        state, messages = layout.begins[layout.current]
        lowest = {STATE: state}
        if self._policy.messages is not None:
            # a backfill may have stored some in the older generation after they were copied
            self._tell("copying")
            copier = Copier(self._store, self._writer, layout.current, self.rate, actor_code=self._actor_code)
            await copier.messages(self._head_key(), messages, None, lasting=False)
            lowest[MESSAGES] = messages
            lowest[INDICES] = messages
        await self._raise(lowest)
        await self._finish_removing()
        dropped = layout.previous
        layout = await self._save(layout.without_previous())
        # readers notice that before it is gone
        await asyncio.sleep(self._grace_seconds)
        await self._generations.drop_generation(dropped)
        log.info("generation %d of objects is dropped: states are held from epoch %d", dropped, state)
        return layout

    async def _age_indices(self, head: int) -> None:
        """Let index rows age that are older than the policy says, some at a time."""
        if self._policy.indices is None:
            return
        lowest = self._policy.lowest_indices(head)
        kept = await load_kept(self._store)
        if lowest - kept.indices >= max(1, min(POSTINGS_BUCKET, self._policy.indices // 8)):
            await self._raise({INDICES: lowest})
            await self._finish_removing()

    async def _say_policy(self) -> None:
        """Let followers and status pages know the policy."""
        async with self._writer.rows_lock:
            kept = await load_kept(self._store)
            if kept.policy != asdict(self._policy):
                batch = Batch()
                save_kept(batch, replace(kept, policy=asdict(self._policy)))
                await self._store.write(batch)

    async def _raise(self, lowest: dict[str, int]) -> None:
        """Say that what is below these epochs is not held."""
        async with self._writer.rows_lock:
            kept = await load_kept(self._store)
            after = kept.raised(lowest)
            batch = Batch()
            save_kept(batch, after)
            for index in AGING_INDICES:
                before = await covered(self._store, index)
                aged = (after.archived + 1, after.indices - 1)
                if aged[0] <= aged[1] and (ranges := without(before, [aged])) != before:
                    save_coverage(batch, index, ranges)
            await self._store.write(batch)
        for kind, epoch in after.lowest.items():
            metrics.LOWEST_KEPT.labels(kind).set(epoch)

    async def _finish_removing(self) -> None:
        """Remove the rows of all that was said to be not held. A pass before may have been broken off."""
        kept = await load_kept(self._store)
        if all(kept.removed.get(kind, 0) >= epoch for kind, epoch in kept.lowest.items()):
            return
        self._tell("waiting")
        await asyncio.sleep(self._grace_seconds)
        self._tell("removing")
        # what leads to archives does not age: they hold it
        spared = kept.archived + 1
        # rows of messages are found by the messages, so they go first
        low, high = max(spared, kept.removed.get(INDICES, 0)), kept.indices
        await self._aged.remove_messages(low, high)
        day = max(
            kept.removed.get(_EVENTS, low // POSTINGS_BUCKET * POSTINGS_BUCKET),
            -(-spared // POSTINGS_BUCKET) * POSTINGS_BUCKET,
        )
        last = high // POSTINGS_BUCKET * POSTINGS_BUCKET
        await self._aged.remove_events(day, last)
        await self._aged.clear_flags(max(spared, kept.removed.get(STATE, 0)), kept.state, HELD_STATE, STATE)
        flags = HELD_MESSAGES | HELD_RECEIPTS | HELD_EVENTS
        await self._aged.clear_flags(max(spared, kept.removed.get(MESSAGES, 0)), kept.messages, flags, MESSAGES)
        batch = Batch()
        save_kept(batch, replace(kept, removed={**kept.lowest, _EVENTS: max(day, last)}))
        await self._store.write(batch)

    def _tell(self, step: str) -> None:
        for one in _STEPS:
            metrics.RETENTION_STEP.labels(one).set(one == step)
        metrics.RETENTION_RATE.set(self.rate.rate)
