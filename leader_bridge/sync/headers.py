"""The stage of headers: ranges of ten epochs from the head down, from many sources, released in order.

A header names its parents, so what is released is the chain of the chosen head whoever sent it. A source that sends
another chain is found out at the release: its results are withdrawn and asked for elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from blockstore.cid import Cid
from blockstore.generations import put_lasting
from blockstore.store import Batch, Store
from chain.block import BlockHeader, decode_header
from chain.errors import BadObject
from chain.tipset import Tipset, TipsetKey
from leader_bridge.imports.progress import Reporter
from leader_bridge.sync.checkpoint import Checkpoint
from leader_bridge.sync.downloads import Downloads
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.requests import NotHeldAnywhere
from leader_bridge.sync.results import Result, Results
from leader_bridge.sync.run_together import run_together
from leader_bridge.sync.sources.source import Answer, BadSource, RangeWork
from leader_bridge.sync.waiting_ranges import WaitingRanges
from rpc.server.ranges.wire import HEADERS, RANGE_EPOCHS

log = logging.getLogger(__name__)

#: ranges that are released in one go
_RELEASED: Final = 16
#: bytes of results that wait
_MOST_BYTES: Final = 64 << 20
#: blocks of a tipset
_MOST_BLOCKS: Final = 64


class ChainEnds(Exception):
    """No source that can be asked holds the chain further down."""


async def held_tipset(store: Store, key: TipsetKey) -> Tipset | None:
    """A tipset whose headers are in the store; None where one is not. Errors: StoreError, BadObject."""
    raws = await store.get_many([cid.multihash for cid in key.cids])
    blocks = [decode_header(cid, raw) for cid, raw in zip(key.cids, raws, strict=True) if raw is not None]
    return Tipset.of(blocks) if len(blocks) == len(raws) else None


def chain_of(found: Mapping[Cid, bytes], low: int, high: int) -> list[tuple[Tipset, Mapping[Cid, bytes]]]:
    """The tipsets of an answer of headers, from the top down, each with its bytes; the last one is below `low`.

    Errors: BadObject (no chain, or not of this range, or cut short).
    """
    by_height: dict[int, list[BlockHeader]] = defaultdict(list)
    for cid, raw in found.items():
        header = decode_header(cid, raw)
        if header.height > high or len(by_height[header.height]) == _MOST_BLOCKS:
            raise BadObject(f"a header of epoch {header.height}, which is not below {high}, or of too many blocks")
        by_height[header.height].append(header)
    tipsets = [Tipset.of(by_height[height]) for height in sorted(by_height, reverse=True)]
    for above, below in pairwise(tipsets):
        if above.parents != below.key or above.height < low:
            raise BadObject(f"the headers of epochs {low} to {high} are no chain")
    if not tipsets or (tipsets[-1].height >= low and tipsets[-1].height > 0):
        raise BadObject(f"the headers of epochs {low} to {high} end early")
    return [(tipset, {cid: found[cid] for cid in tipset.key.cids}) for tipset in tipsets]


_Chain = Sequence[tuple[Tipset, Mapping[Cid, bytes]]]


class HeaderStage:
    """Gets the headers from the chosen head down to `checkpoint.floor`, or to where they are held already."""

    def __init__(
        self,
        store: Store,
        pool: Pool,
        checkpoint: Checkpoint,
        progress: Reporter,
        offered: Mapping[str, int] | None = None,
    ) -> None:
        """`offered`: by source, the lowest epoch from which on it says that it holds headers."""
        self._offered = offered or {}
        self._store = store
        self._pool = pool
        self._checkpoint = checkpoint
        self._progress = progress
        self._head = TipsetKey(bytes.fromhex(checkpoint.head))
        self._moved = asyncio.Event()
        self._results: Results[_Chain] = Results()
        self._downloads = Downloads(0)
        #: sources that gave something else for a number
        self._never: dict[int, frozenset[str]] = {}
        self._releasing = asyncio.Lock()
        self._waiting = WaitingRanges(store)

    async def run(self) -> None:
        """Errors: ChainEnds, StoreError, BadObject."""
        point = self._checkpoint
        if not point.next_key:
            point.next_key, point.above = point.head, point.height + 1
        self._progress.phase("headers", point.height - point.floor, "epochs")
        while not await self._walk_held():
            self._top = point.above - 1
            count = self._top // RANGE_EPOCHS - point.floor // RANGE_EPOCHS + 1
            self._downloads = Downloads(0, count)
            self._results, self._never = Results(), {}
            await self._take_over()
            await self._release()
            self._pool.on_bad.append(self._withdraw)
            try:
                await run_together(self._work() for _ in range(self._pool.most_at_once + 1))
            finally:
                self._pool.on_bad.remove(self._withdraw)
        await self._waiting.clear()
        await point.save(self._store)

    async def _take_over(self) -> None:
        """Take what an earlier run has got and not released."""
        for at, found in (await self._waiting.load()).items():
            number = self._top // RANGE_EPOCHS - at + 1
            low = max(self._checkpoint.floor, at * RANGE_EPOCHS)
            try:
                chain = chain_of(found, low, at * RANGE_EPOCHS + RANGE_EPOCHS - 1)
            except BadObject:
                # of a filling that went down to another epoch
                continue
            if self._downloads.take_over(number):
                self._results.add(Result(number, "", chain, sum(map(len, found.values()))))

    def _is_at_floor(self) -> bool:
        return self._checkpoint.above <= self._checkpoint.floor

    async def _walk_held(self) -> bool:
        """Go down through what is held; whether that is everything."""
        point = self._checkpoint
        count = 0
        while not self._is_at_floor():
            tipset = await held_tipset(self._store, TipsetKey(bytes.fromhex(point.next_key)))
            if tipset is None:
                return False
            self._step(tipset)
            count += 1
            if count % 1000 == 0:
                await asyncio.sleep(0)
        return True

    def _step(self, tipset: Tipset) -> None:
        point = self._checkpoint
        point.next_key, point.above = tipset.parents.hex(), tipset.height
        self._progress.at(point.height - max(point.floor, point.above))

    async def _work(self) -> None:
        """Ask for one range after another."""
        while not self._downloads.is_complete:
            self._moved.clear()
            batch = self._downloads.next_batch(1) if self._results.size < _MOST_BYTES else self._urgent()
            if not batch:
                await self._moved.wait()
                continue
            try:
                await self._get(batch[0])
            finally:
                self._downloads.failed(batch)
                self._moved.set()

    def _at(self, number: int) -> int:
        """Where a range is: its lowest epoch by `RANGE_EPOCHS`, whatever the head. Numbers rise downwards."""
        return self._top // RANGE_EPOCHS - (number - 1)

    def _urgent(self) -> list[int]:
        """What the results that wait are waiting for, if it is not under way."""
        return self._downloads.next_batch(1) if self._downloads.retries else []

    async def _get(self, number: int) -> None:
        at = self._at(number)
        high = min(self._top, at * RANGE_EPOCHS + RANGE_EPOCHS - 1)
        low = max(self._checkpoint.floor, at * RANGE_EPOCHS)
        work = RangeWork(self._head, low, high, frozenset((HEADERS,)))
        try:
            async with self._pool.answered(work, never=self._never.get(number, frozenset())) as (name, answer):
                await self._take(number, name, answer, low, high)
                await self._release()
        except NotHeldAnywhere as error:
            if self._never.pop(number, None) is not None:
                return
            text = f"no source holds the headers of epochs {low} to {high}"
            offering = {name for name, lowest in self._offered.items() if lowest <= low}
            if high >= self._checkpoint.height or not offering <= error.sources:
                raise ChainEnds(f"{text} that can be asked now") from None
            # whoever has offered them says now that it does not hold them
            if high + 1 > self._checkpoint.floor:
                log.warning("%s, though they were offered: the chain is filled down to epoch %d", text, high + 1)
                self._checkpoint.floor = high + 1
            self._downloads.end_at(number - 1)

    async def _take(self, number: int, name: str, answer: Answer, low: int, high: int) -> None:
        """Put a range in line; it outlives a kill, also while it waits for those above it."""
        try:
            chain = chain_of(answer.found, low, high)
        except BadObject as error:
            self._never[number] = self._never.get(number, frozenset()) | {name}
            self._pool.blame(name, BadSource(f"{name}: {error}"))
            return
        if number > self._downloads.done + 1:
            await self._waiting.add(self._at(number), answer.found)
        if self._downloads.deliver({number: answer.size}):
            self._results.add(Result(number, name, chain, answer.size))

    def _withdraw(self, name: str) -> None:
        self._downloads.withdraw(self._results.withdraw(name))
        self._moved.set()

    async def _release(self) -> None:
        """Store what follows what is stored. The row that says so is written behind it."""
        async with self._releasing:
            while True:
                released, _ = self._results.release(self._downloads.done + 1, _RELEASED)
                if not released:
                    return
                batch = Batch()
                for at, result in enumerate(released):
                    self._waiting.remove(batch, self._at(result.number))
                    if not await self._store_chain(result):
                        for later in released[at + 1 :]:
                            self._results.add(later)
                        self._never[result.number] = self._never.get(result.number, frozenset()) | {result.source}
                        self._downloads.withdraw([result.number])
                        if result.source:
                            self._pool.blame(result.source, BadSource(f"{result.source} follows another chain"))
                        break
                    self._downloads.release(result.number)
                    self._never.pop(result.number, None)
                self._checkpoint.put(batch)
                await self._store.write(batch)
                await self._end_where_held()
                self._moved.set()

    async def _end_where_held(self) -> None:
        """Ask for no more where the chain goes on with what the store holds already."""
        if await held_tipset(self._store, TipsetKey(bytes.fromhex(self._checkpoint.next_key))) is not None:
            self._downloads.end_at(self._downloads.done)

    async def _store_chain(self, result: Result[_Chain]) -> bool:
        """Store the headers of a range; False where they do not follow what is stored."""
        point = self._checkpoint
        chain = result.value
        if self._is_at_floor():
            return True
        objects: dict[bytes, bytes] = {}
        for tipset, raws in chain:
            if tipset.height >= point.above:
                # ranges overlap by the tipset below them
                continue
            if tipset.key.hex() != point.next_key:
                return False
            objects.update({cid.multihash: raw for cid, raw in raws.items()})
            self._step(tipset)
            if self._is_at_floor():
                break
        await put_lasting(self._store, objects)
        return True
