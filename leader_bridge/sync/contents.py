"""The stage of messages, receipts and events: ranges of ten tipsets from the lowest on, from many sources.

What comes is stored at once, children before parents, by a walk from what the headers name. So nothing that no header
names is stored, and a hole in an answer is noticed: what the walk lacks is asked for by its CID. The checkpoint moves
in order; what is held above it is not asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from blockstore.cid import Cid
from blockstore.generations import ObjectPlace, lasting_objects, objects_of
from blockstore.store import Held, Store
from chain.tipset import Tipset, TipsetKey
from leader_bridge.imports.index import load_tipset
from leader_bridge.imports.progress import Reporter
from leader_bridge.imports.spill_file import KeySpillFile
from leader_bridge.nodes.sources import Fetched
from leader_bridge.store.mirror import Fetcher, is_walked
from leader_bridge.sync.checkpoint import Checkpoint
from leader_bridge.sync.downloads import Downloads
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.requests import NotHeldAnywhere, Priority
from leader_bridge.sync.results import Result, Results
from leader_bridge.sync.run_together import run_together
from leader_bridge.sync.sources.source import Answer, BadSource, RangeWork
from leader_bridge.sync.storing import StoringFetcher, prompt_mirror
from rpc.server.ranges.wire import MESSAGES, MOST_EPOCHS, RECEIPTS

#: tipsets of one request
_GROUP: Final = 10
_RELEASED: Final = 100
#: a range of which so many sources gave nothing is asked for by CIDs
_MOST_SHORT: Final = 2


class Overlay:
    """A `Fetcher` over what an answer holds."""

    def __init__(self, found: Mapping[Cid, bytes]) -> None:
        self._found = {cid.multihash: data for cid, data in found.items()}
        #: objects that were lacking
        self.lacking = 0

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        """What the answer lacks is missing."""
        found = {cid: self._found[cid.multihash] for cid in cids if cid.multihash in self._found}
        rest = [cid for cid in cids if cid not in found]
        self.lacking += len(rest)
        return Fetched(found, rest)


class ContentStage:
    """Gets the contents of the tipsets of `spool`, which holds the keys from the head down.

    `low_messages`, `low_receipts`: epochs below which no source holds them.
    """

    def __init__(
        self,
        store: Store,
        pool: Pool,
        checkpoint: Checkpoint,
        progress: Reporter,
        spool: KeySpillFile,
        *,
        low_messages: int,
        low_receipts: int,
        keeps_messages: bool,
    ) -> None:
        self._store = store
        self._pool = pool
        self._checkpoint = checkpoint
        self._progress = progress
        self._spool = spool
        self._low_messages = low_messages
        self._low_receipts = low_receipts
        self._place: ObjectPlace = lasting_objects(store) if keeps_messages else objects_of(store)
        self._head = TipsetKey(bytes.fromhex(checkpoint.head))
        self._moved = asyncio.Event()
        self._keys: Iterator[TipsetKey] = iter(())
        self._groups: dict[int, list[TipsetKey]] = {}
        self._results: Results[int] = Results()
        self._downloads = Downloads(0)
        self._releasing = asyncio.Lock()
        self._done = 0

    async def run(self) -> None:
        """Errors: StoreError, BadObject, Missing."""
        self._keys = self._spool.backwards()
        self._downloads = Downloads(0, -(-self._spool.count // _GROUP))
        self._progress.phase("messages, receipts and events", self._spool.count, "tipsets")
        await run_together(self._work() for _ in range(2 * self._pool.most_at_once))
        await self._checkpoint.save(self._store)

    async def _work(self) -> None:
        while not self._downloads.is_complete:
            self._moved.clear()
            batch = self._downloads.next_batch(1)
            if not batch:
                await self._moved.wait()
                continue
            number = batch[0]
            if number not in self._groups:
                # new numbers rise by one
                self._groups[number] = list(islice(self._keys, _GROUP))
            try:
                await self._get(number, self._groups[number])
            finally:
                self._downloads.failed(batch)
                self._moved.set()

    def _roots(self, tipset: Tipset) -> list[Cid]:
        roots: list[Cid] = []
        if tipset.height >= self._low_messages:
            roots += [block.messages for block in tipset.blocks]
        if tipset.height >= self._low_receipts:
            roots.append(tipset.parent_message_receipts)
        return roots

    async def _get(self, number: int, keys: Sequence[TipsetKey]) -> None:
        tipsets = [await load_tipset(self._store, key) for key in keys]
        size = 2
        after = -1
        short: frozenset[str] = frozenset()
        await self._close_loose(tipsets)
        while lacking := await self._not_held([tipset for tipset in tipsets if tipset.height > after]):
            # one range holds them with the null rounds between
            part = [tipset for tipset in lacking if tipset.height < lacking[0].height + MOST_EPOCHS]
            parts = {MESSAGES} if part[-1].height >= self._low_messages else set()
            parts |= {RECEIPTS} if part[-1].height >= self._low_receipts else set()
            work = RangeWork(self._head, part[0].height, part[-1].height, frozenset(parts))
            try:
                if len(short) >= _MOST_SHORT:
                    raise NotHeldAnywhere
                async with self._pool.answered(work, never=short) as (name, answer):
                    size += answer.size
                    given = await self._given(answer, part)
                    lacking_objects = await self._store_found(given, answer.found)
            except NotHeldAnywhere:
                await self._close(part)
                after = part[-1].height
                continue
            if not given:
                short |= {name}
                continue
            after = given[-1].height
            if lacking_objects:
                await self._close(given)
                if not answer.absent_epochs:
                    # its answer said that it was whole
                    error = BadSource(f"{name} left out {lacking_objects} objects of a range")
                    self._pool.blame(name, error)
        self._deliver(number, tipsets[-1].height, size)
        await self._release()

    async def _close_loose(self, tipsets: Sequence[Tipset]) -> None:
        """Close what a file has brought: what is absent below the roots is asked for by its CID."""
        roots = {tipset: [root for root in self._roots(tipset) if is_walked(root)] for tipset in tipsets}
        asked = [root.multihash for some in roots.values() for root in some]
        held = dict(zip(asked, await self._place.held_many(asked), strict=True)) if asked else {}
        loose = [
            tipset
            for tipset, some in roots.items()
            if some and Held.LOOSE in (found := [held[root.multihash] for root in some]) and Held.ABSENT not in found
        ]
        if loose:
            await self._close(loose)

    async def _not_held(self, tipsets: Sequence[Tipset]) -> list[Tipset]:
        """Those of which something is not closed."""
        left: list[Tipset] = []
        for tipset in tipsets:
            roots = [root for root in self._roots(tipset) if is_walked(root)]
            held = await self._place.held_many([root.multihash for root in roots]) if roots else []
            if any(how != Held.CLOSED for how in held):
                left.append(tipset)
        return left

    async def _given(self, answer: Answer, tipsets: Sequence[Tipset]) -> list[Tipset]:
        """The tipsets that an answer answers for: it was cut off behind them."""
        given: list[Tipset] = []
        for tipset in tipsets:
            roots = [root for root in self._roots(tipset) if is_walked(root)]
            is_there = all(root in answer.found for root in roots)
            if not is_there and tipset.height not in answer.absent_epochs:
                held = await self._place.held_many([r.multihash for r in roots if r not in answer.found])
                if any(how != Held.CLOSED for how in held):
                    break
            given.append(tipset)
        return given

    async def _store_found(self, tipsets: Sequence[Tipset], found: Mapping[Cid, bytes]) -> int:
        """Store what an answer has below the roots; how many objects it lacks, as far as the walk has come."""
        overlay = Overlay(found)
        await self._walk(tipsets, overlay)
        return overlay.lacking

    async def _close(self, tipsets: Sequence[Tipset]) -> None:
        """Ask by CID for everything below the roots that is not held."""
        await self._walk(tipsets, StoringFetcher(self._pool, self._place, Priority.HIGH))

    async def _walk(self, tipsets: Sequence[Tipset], fetcher: Fetcher) -> None:
        roots = [root for tipset in tipsets for root in self._roots(tipset)]
        if roots:
            await prompt_mirror(self._store, fetcher).close(roots, self._place)

    def _deliver(self, number: int, height: int, size: int) -> None:
        if self._downloads.deliver({number: size}):
            self._results.add(Result(number, "", height, size))

    async def _release(self) -> None:
        """Move the checkpoint over everything that is held without a gap."""
        async with self._releasing:
            released, _ = self._results.release(self._downloads.done + 1, _RELEASED)
            for result in released:
                self._done += len(self._groups.pop(result.number))
                self._downloads.release(result.number)
                self._checkpoint.contents_done = result.value
            if released:
                await self._checkpoint.save(self._store)
                self._progress.at(self._done, f"epoch {self._checkpoint.contents_done}")
            self._moved.set()
