"""A node, bridges and followers over a delayed store, and a judge who looks at all that a served head needs."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from blockstore.cassandra.head import CassandraHeadLog
from blockstore.cassandra.store import CassandraStore
from blockstore.cid import Cid
from blockstore.errors import Fenced, StoreUnavailable
from blockstore.store import HEIGHTS, MESSAGES, POST, TIPSETS, HeadEntry
from chain.errors import NotHeld
from chain.index.chain_index import HELD_ALL, ChainIndex, decode_row, height_row
from chain.ipld.objects import Objects
from chain.tipset import Tipset
from chain.tipset_messages import load_message_cids
from follower.shared_store_heads import SharedStoreHeads
from leader_bridge.bridge import Bridge
from leader_bridge.store.indexer import included_messages, message_key
from rpc.client.node_info import parse_node_info
from rpc.errors import Unavailable
from tests.blockstore.model.delayed_store import DelayedSession, Weather, made, store_over
from tests.blockstore.model.server import CASSANDRA, Rules, Server
from tests.support.bridge.chain import SmallChain
from tests.support.bridge.node import TestNode
from tests.support.bridge.running import Walker, header_tipset, quick
from tests.support.virtual_time import virtual_ms

DELTA, EPSILON = 500, 50
ROUGH = {"fail": 0.001, "time_out": 0.001, "fail_reads": 0.0002}


class Chain(SmallChain):
    """Without events: its states are not such that their emitters could be looked up."""

    def _receipts(self, count: int) -> Cid:
        return self._amt([[0, b"", 1000 + number, None] for number in range(count)], None)


class Node(TestNode):
    def _F3GetLatestCertificate(self) -> None:
        raise LookupError("F3 is not enabled")


class Judge:
    """Whether all that a served head needs can be read at this very moment. What was found is not looked for again."""

    def __init__(self, server: Server) -> None:
        self.store = store_over(DelayedSession(server, Weather(write_ms=0, slow_reads=0), 0), DELTA, EPSILON)
        self.objects = Objects(self.store, cache_bytes=1 << 20)
        self.walker = Walker()
        self.judged = 0
        self.tipsets = 0
        self.at: bytes | None = None

    async def head(self, entry: HeadEntry) -> None:
        """Every head change up to this one. Errors: AssertionError."""
        while self.judged < entry.seq:
            for one in await self.store.head_entries(self.judged, entry.seq - self.judged):
                assert one.seq == self.judged + 1, "an entry is missing, or comes twice"
                for ref in one.reverts:
                    assert self.at == ref.key, "what is reverted is not the head"
                    self.at = (await header_tipset(self.store, ref.key)).parents
                for ref in one.applies:
                    tipset = await header_tipset(self.store, ref.key)
                    assert self.at in (None, tipset.parents), "what is applied does not go on from the head"
                    self.at = ref.key
                    await self.tipset(tipset)
                assert one.head.key == self.at
                self.judged = one.seq

    async def tipset(self, tipset: Tipset) -> None:
        self.tipsets += 1
        cid = tipset.key.cid
        value = await self.store.row(TIPSETS, cid, b"")
        assert value is not None, f"no row of {tipset.key}"
        assert decode_row(value).held & HELD_ALL == HELD_ALL, f"flags of {tipset.key} are missing"
        partition, prefix = height_row(tipset.height)
        assert await self.store.row(HEIGHTS, partition, prefix + cid) == tipset.key
        assert await self.store.row(POST, tipset.parents.cid, b"") is not None
        for block in tipset.blocks:
            await self.walker.tree(self.store, block.messages)
        await self.walker.tree(self.store, tipset.parent_message_receipts)
        await self.walker.tree(self.store, tipset.parent_state_root)
        listed = [await load_message_cids(self.objects, block.messages) for block in tipset.blocks]
        key = message_key(tipset.height, cid)
        rows = await self.store.rows(MESSAGES, [(bytes(one), key) for one in included_messages(listed)])
        assert None not in rows, f"a message of {tipset.key} is not indexed"


@dataclass
class World:
    """A node, a bridge and two followers over one delayed store."""

    seed: int
    weather: Weather
    kind: type[CassandraStore] = CassandraStore
    rules: Rules = CASSANDRA
    log: type[Any] = CassandraHeadLog
    seen: list[int] = field(default_factory=list)
    #: bridges that led before, and whether each was killed
    former: list[tuple[asyncio.Task[None], bool]] = field(default_factory=list)
    sessions: list[DelayedSession] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.chain = Chain(self.seed)
        self.server = Server(self.rules)
        self.judge = Judge(self.server)
        # clocks of followers, none further than epsilon from a bridge's
        self.aheads = (-20, 25)

    async def __aenter__(self) -> World:
        await made(self.server, DELTA, EPSILON, self.log)
        tips = self.chain.line(self.chain.genesis, 3)
        self.node = await Node(self.chain.objects, self.chain.genesis.key, tips[-1].key).start()
        self.lead()
        self.heads = [self.follower(number, ahead) for number, ahead in enumerate(self.aheads)]
        self.client = asyncio.create_task(self.ask_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.cancel()
        await asyncio.gather(self.client, return_exceptions=True)
        self.bridge.stop()
        for one in self.heads:
            await one.close()
        running = [self.running, *(task for task, _ in self.former)]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for session in self.sessions:
            await session.close()
        await self.node.stop()

    @property
    def session(self) -> DelayedSession:
        """Of the bridge that leads."""
        return self.sessions[-1]

    @property
    def failed(self) -> int:
        """Statements of bridges that failed."""
        return sum(session.failed for session in self.sessions)

    def lead(self) -> None:
        """A bridge on a machine of its own begins a term, after whatever others lead."""
        number = len(self.sessions)
        self.sessions.append(
            DelayedSession(self.server, self.weather, self.seed + number * 1000, clock_ahead=20 - 5 * (number % 8))
        )
        self.bridge = Bridge(
            store_over(self.session, DELTA, EPSILON, self.kind, self.log),
            parse_node_info(self.node.url),
            quick(node_timeout_seconds=3600.0, missing_object_timeout_seconds=3600.0),
        )
        self.running = asyncio.create_task(self.bridge.run())

    def take_over(self) -> None:
        """Another bridge leads; the one before is killed, or goes on until it is fenced."""
        killed = self.rng.random() < 0.5
        if killed:
            self.running.cancel()
        self.former.append((self.running, killed))
        self.lead()

    def follower(self, number: int, ahead: int) -> SharedStoreHeads:
        weather = Weather(fail_reads=self.weather.fail_reads)
        session = DelayedSession(self.server, weather, self.seed * 7 + number, ahead)
        store = store_over(session, DELTA, EPSILON)
        index = ChainIndex(store, Objects(store))
        heads = SharedStoreHeads(store, index, DELTA, EPSILON, now=virtual_ms, wall=session.wall)
        heads.start()
        return heads

    async def ask_on(self) -> None:
        """A client that asks one follower after the other, and looks at all that its answer needs."""
        number = 0
        while True:
            number += 1
            try:
                head = await self.heads[number % len(self.heads)].current()
            except NotHeld:
                assert not self.seen, "what is served is not held"
            except (Unavailable, StoreUnavailable):
                pass  # the writes of a stamp hang, or a read fails
            else:
                assert head.entry is not None
                assert not self.seen or head.seq >= self.seen[-1], "the head goes back"
                self.seen.append(head.seq)
                await self.judge.head(head.entry)
            await asyncio.sleep(0.2)

    async def move(self) -> None:
        """One head change of the node: mostly a tipset more, at times a reorganisation."""
        at = self.chain.tipsets[self.node.head]
        if self.rng.random() < 0.2:
            for _ in range(self.rng.randint(1, 3)):
                if at.height > 3:
                    at = self.chain.tipsets[at.parents]
        made = self.chain.line(at, self.rng.choice([1, 1, 1, 2]))
        await self.node.go_to(made[-1].key)

    async def extend(self) -> None:
        """A tipset more on the node's head."""
        await self.node.go_to(self.chain.extend(self.chain.tipsets[self.node.head]).key)

    async def caught_up(self, seconds: float) -> bool:
        """Whether the bridge comes to the node's head in so many seconds."""
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            self.alive()
            if self.bridge.head is not None and self.bridge.head.head.key == self.node.head:
                return True
            await asyncio.sleep(0.1)
        return False

    def alive(self) -> None:
        """Errors: what the client saw."""
        if self.client.done():
            self.client.result()
        assert not self.running.done(), self.running
        for task, killed in self.former:
            if task.done() and not killed:
                assert isinstance(task.exception(), Fenced), task

    async def play(self, heads: int, take_over_every: int = 0) -> None:
        """Until so many heads are published, and served by every follower. Another bridge takes over now and then."""
        due = take_over_every
        while self.bridge.head is None or self.bridge.head.seq < heads:
            assert await self.caught_up(3600)
            await self.move()
            if due and self.bridge.head is not None and self.bridge.head.seq >= due:
                due += take_over_every
                await asyncio.sleep(self.rng.random() * 2)
                self.take_over()
        assert await self.caught_up(3600)
        until = asyncio.get_running_loop().time() + 60
        while not self.seen or self.seen[-1] < heads:
            assert asyncio.get_running_loop().time() < until, "what is published is not served"
            await asyncio.sleep(0.2)
            self.alive()
