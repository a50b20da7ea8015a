"""A recorded chain whose head is moved at will, forward, back, and onto forks made of parts of its tipsets."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from blockstore.store import HeadEntry, TipsetRef
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.tipset import Tipset, TipsetKey
from devnode.faults import Faults, FaultyStore
from devnode.played_node import RowWriter
from devnode.recorded_chain import RecordedChain
from follower.head import StoreHeads
from rpc.services import CacheSizes, Services
from tests.support.recorded import recorded


class Yielding:
    """A store whose reads of objects and rows let others go on, now and then."""

    def __init__(self, store: FaultyStore, rng: random.Random) -> None:
        self._store = store
        self._rng = rng

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in ("get", "get_many", "row", "rows", "scan"):
            return found

        async def read(*args: Any, **named: Any) -> Any:
            for _ in range(self._rng.choice((0, 0, 1, 3))):
                await asyncio.sleep(0)
            return await found(*args, **named)

        return read


@dataclass
class MovingChain:
    """The main line of a recording by position, and the store whose head log tells each move."""

    chain: RecordedChain
    line: list[Tipset]
    forks: dict[int, Tipset]
    by_key: dict[bytes, Tipset]
    head: Tipset | None = None
    seq: int = 0
    term: int = 0
    services: list[Services] = field(default_factory=list)

    @classmethod
    async def load(cls, folder: str) -> MovingChain:
        chain = await RecordedChain.load(recorded(f"{folder}/chain.car.zst").parent, Faults())
        by_key: dict[bytes, Tipset] = {}
        for change in chain.changes:
            for tipset in change.applies:
                by_key[tipset.key] = tipset
        index = ChainIndex(chain.store, Objects(chain.store), chain.network)
        line = [chain.changes[-1].head]
        while line[-1].height:
            line.append(by_key.get(line[-1].parents) or await index.tipset(line[-1].parents))
        line.reverse()
        by_key |= {tipset.key: tipset for tipset in line}
        writer = RowWriter(chain.store, chain.network)
        forks: dict[int, Tipset] = {}
        for at, tipset in enumerate(line):
            await writer.write(tipset)
            if len(tipset.blocks) > 1:
                # some of a tipset's blocks are a tipset too: another head at the same epoch
                forks[at] = fork = Tipset.of(tipset.blocks[:1])
                await writer.write(fork)
                by_key[fork.key] = fork
        made = cls(chain, line, forks, by_key)
        made.term = await chain.store.new_term("test")
        return made

    @property
    def store(self) -> FaultyStore:
        return self.chain.store

    def serve(self, *, cold: bool, yielding: random.Random | None = None) -> Services:
        """Services over the chain; `cold`: nothing that was decoded or read stays in memory."""
        store: Any = self.store if yielding is None else Yielding(self.store, yielding)
        objects = Objects(store, cache_bytes=1 if cold else 64 << 20)
        sizes = {"cached_rows": 1, "cached_tipsets": 1} if cold else {}
        index = ChainIndex(store, objects, self.chain.network, **sizes)
        made = Services(
            store=store,
            index=index,
            objects=objects,
            network=self.chain.network,
            head_source=StoreHeads(store, index),
            cache_sizes=CacheSizes(json=1, decoded=1) if cold else CacheSizes(),
        )
        self.services.append(made)
        return made

    async def move(self, target: Tipset) -> None:
        """Publish `target` as the head: the reverts and applies that lead there."""
        reverts: list[Tipset] = []
        applies: list[Tipset] = []
        old, new = self.head, target
        while old is not None and old.key != new.key:
            if old.height >= new.height:
                reverts.append(old)
                old = self.by_key[old.parents]
            else:
                applies.append(new)
                new = self.by_key[new.parents]
        if self.head is None:
            applies = [target]
        applies.reverse()
        self.seq += 1
        refs = [tuple(TipsetRef(one.height, TipsetKey(one.key)) for one in some) for some in (reverts, applies)]
        entry = HeadEntry(self.seq, self.term, refs[0], refs[1], TipsetRef(target.height, TipsetKey(target.key)))
        await self.store.append_head(entry)
        self.head = target

    def next_head(self, rng: random.Random, at: int) -> tuple[int, Tipset]:
        """Somewhere to go from a position: mostly on, sometimes back, sometimes onto a fork."""
        kind = rng.random()
        if kind < 0.6:
            at = min(len(self.line) - 1, at + rng.randint(1, 3))
        elif kind < 0.8:
            at = max(1, at - rng.randint(1, 12))
        else:
            near = [place for place in self.forks if abs(place - at) <= 12]
            if near:
                at = rng.choice(near)
                return at, self.forks[at]
        return at, self.line[at]
