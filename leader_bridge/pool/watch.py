"""Follows the store's head log: a tipset that enough others stand on becomes a job of class `watch`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import orjson

from blockstore.errors import StoreError
from blockstore.store import REPORTS, Batch, HeadEntry, Store, TipsetRef
from chain.index.chain_index import rows_down
from chain.tipset import TipsetKey
from leader_bridge.pool.engine import Engine, QueueUnavailable
from leader_bridge.pool.job import WATCH, Job
from leader_bridge.pool.reports import digest_of, withdraw
from leader_bridge.pool.ring import AddedBelowHead, ConfidenceRing, RevertedNotHead, RevertedOnEmpty
from leader_bridge.pool.wanted import CHUNK, Wanted, load_wanted, save_wanted

log = logging.getLogger(__name__)

_PARTITION: Final = b"watcher"
_ENTRIES: Final = 100


class Watcher:
    """`step` looks at the head log once; `run` does so until stopped. Tipsets below the ring when it begins are not
    worked on: they are a walk's."""

    def __init__(self, store: Store, engine: Engine, tasks: Sequence[str], *, confidence: int) -> None:
        self._store = store
        self._engine = engine
        self._tasks = tuple(tasks)
        self._confidence = confidence
        self.ring = ConfidenceRing(confidence)
        #: the newest entry that was looked at; None before the first look
        self._seq: int | None = None
        self._range: Wanted | None = None

    async def run(self, stop: asyncio.Event, *, every_seconds: float = 0.5) -> None:
        """Errors: QueueUnavailable, StoreError: the next run goes on."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await self.step()
                await asyncio.wait({stopping}, timeout=every_seconds)
        finally:
            stopping.cancel()

    async def step(self) -> int:
        """Enqueue what has become old enough since; how many tipsets.

        Errors: QueueUnavailable, StoreError: the next step goes on from what was enqueued last.
        """
        try:
            return await self._step()
        except (QueueUnavailable, StoreError):
            self._seq = None
            raise

    async def _step(self) -> int:
        if self._seq is None and not await self._begin():
            return 0
        assert self._seq is not None
        ready: list[TipsetRef] = []
        while entries := await self._store.head_entries(self._seq, limit=_ENTRIES):
            if entries[0].seq > self._seq + 1:
                # the log was trimmed in between: the rest is taken from the chain
                await self._warm(entries[0].head)
            for entry in entries:
                ready += await self._follow(entry)
                self._seq = entry.seq
        if ready:
            # first, for what stands in the store is done whatever becomes of the queue
            await self._want(ready)
            jobs = [Job(WATCH, tipset.height, tipset.height, self._tasks, tipset.key) for tipset in ready]
            for at in range(0, len(jobs), CHUNK):
                await self._engine.put(jobs[at : at + CHUNK])
            await self._note(self.ring.head if len(self.ring) else ready[-1])
        return len(ready)

    async def _begin(self) -> bool:
        """Go on where the watcher before stopped, or begin at the head; whether there is one."""
        head = await self._store.head()
        if head is None:
            return False
        value = await self._store.row(REPORTS, _PARTITION, self._name())
        self._seq = head.seq if value is None else min(head.seq, int(orjson.loads(value)["seq"]))
        at = head.head
        if value is not None:
            raw = orjson.loads(value)
            at = TipsetRef(raw["height"], bytes.fromhex(raw["key"]))
        await self._warm(at)
        if value is None:
            await self._note(at)
        return True

    async def _warm(self, head: TipsetRef) -> None:
        """Fill the ring with the chain below `head`, as far as it is held."""
        found: list[TipsetRef] = []
        async for row in rows_down(self._store, TipsetKey(head.key)):
            if len(found) >= self._confidence:
                break
            found.append(TipsetRef(row.height, bytes(row.key)))
        self.ring.warm(reversed(found))

    async def _follow(self, entry: HeadEntry) -> list[TipsetRef]:
        """Take one head change; the tipsets that leave the ring."""
        left: list[TipsetRef] = []
        for tipset in entry.reverts:
            try:
                self.ring.revert(tipset)
            except RevertedOnEmpty as error:
                log.warning("epoch %d: %s; what was reported of it is withdrawn", tipset.height, error)
            except RevertedNotHead as error:
                log.warning("epoch %d: %s; the ring begins again", tipset.height, error)
                self.ring.warm(())
            else:
                if self._confidence:
                    continue
            # it has left the ring: what was done for it is of a fork now
            await withdraw(self._store, tipset.height, digest_of(TipsetKey(tipset.key)))
        for tipset in entry.applies:
            try:
                ready = self.ring.add(tipset)
            except AddedBelowHead as error:
                log.warning("epoch %d: %s; the ring begins again", tipset.height, error)
                ready = self.ring.set_current(tipset)
            if ready is not None:
                left.append(ready)
        return left

    def _name(self) -> bytes:
        return orjson.dumps(sorted(self._tasks))

    async def _want(self, ready: Sequence[TipsetRef]) -> None:
        """Remember that these epochs are wanted."""
        if self._range is None:
            name = Wanted(0, 0, self._tasks, watched=True).key
            known = [one for one in await load_wanted(self._store) if one.key == name]
            first = Wanted(ready[0].height, ready[0].height, self._tasks, WATCH, watched=True)
            self._range = known[0] if known else first
        low, high = min(self._range.low, ready[0].height), max(self._range.high, ready[-1].height)
        self._range = replace(self._range, low=low, high=high, cursor=high + 1)
        await save_wanted(self._store, self._range)

    async def _note(self, at: TipsetRef) -> None:
        """Remember how far the watcher is: `at` is the newest tipset that it has seen."""
        batch = Batch()
        place = {"seq": self._seq, "height": at.height, "key": at.key.hex()}
        batch.put(REPORTS, _PARTITION, self._name(), orjson.dumps(place))
        await self._store.write(batch)
