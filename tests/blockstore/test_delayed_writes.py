"""A store that delays and reorders what is written, by up to half a second: no head is served before it can be read.

The real bridge, the real `CassandraStore` and the real `SharedStoreHeads` of two followers, over
`tests.blockstore.delayed_store`; all on a clock that jumps (`tests.support.virtual_time`), so that the half second is
half a second and costs none.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from blockstore.cassandra.store import CassandraStore
from blockstore.cid import Cid, multihash_of
from blockstore.errors import StoreUnavailable
from blockstore.store import COVERAGE, HEIGHTS, MESSAGES, POST, TIPSETS, Batch, HeadEntry, Held
from chain.errors import NotHeld
from chain.index.chain_index import HELD_ALL, ChainIndex, decode_row, height_row
from chain.ipld.objects import Objects
from chain.tipset import Tipset, TipsetKey
from chain.tipset_messages import load_message_cids
from follower.shared_store_heads import SharedStoreHeads
from leader_bridge.bridge import Bridge
from leader_bridge.nodes.subscription import APPLY, CURRENT, REVERT, Change, merge_changes
from leader_bridge.store.indexer import included_messages, message_key
from rpc.client.node_info import parse_node_info
from rpc.errors import Unavailable
from tests.blockstore.delayed_store import DelayedSession, Server, Weather, made, store_over
from tests.support.bridge.chain import SmallChain
from tests.support.bridge.node import TestNode
from tests.support.bridge.running import Walker, header_tipset, quick
from tests.support.virtual_time import run_virtual, virtual_ms

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

    async def head(self, entry: HeadEntry) -> None:
        """Every head change up to this one. Errors: AssertionError."""
        while self.judged < entry.seq:
            for one in await self.store.head_entries(self.judged, entry.seq - self.judged):
                for ref in (*one.applies, one.head):
                    await self.tipset(await header_tipset(self.store, ref.key))
                self.judged = one.seq

    async def tipset(self, tipset: Tipset) -> None:
        self.tipsets += 1
        cid = tipset.key.cid
        value = await self.store.row(TIPSETS, cid, b"")
        assert value is not None, f"no row of {tipset.key}"
        assert decode_row(value).held & HELD_ALL == HELD_ALL
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
    server: Server = field(default_factory=Server)
    seen: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.chain = Chain(self.seed)
        self.judge = Judge(self.server)
        # clocks of three machines, none further than epsilon from another
        self.session = DelayedSession(self.server, self.weather, self.seed, clock_ahead=20)
        self.aheads = (-20, 25)

    async def __aenter__(self) -> World:
        await made(self.server, DELTA, EPSILON)
        tips = self.chain.line(self.chain.genesis, 3)
        self.node = await Node(self.chain.objects, self.chain.genesis.key, tips[-1].key).start()
        store = store_over(self.session, DELTA, EPSILON, self.kind)
        self.bridge = Bridge(
            store,
            parse_node_info(self.node.url),
            quick(node_timeout_seconds=3600.0, missing_object_timeout_seconds=3600.0),
        )
        self.running = asyncio.create_task(self.bridge.run())
        self.heads = [self.follower(number, ahead) for number, ahead in enumerate(self.aheads)]
        self.client = asyncio.create_task(self.ask_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.cancel()
        await asyncio.gather(self.client, return_exceptions=True)
        self.bridge.stop()
        for one in self.heads:
            await one.close()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.session.close()
        await self.node.stop()

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
        assert not self.running.done()

    async def play(self, heads: int) -> None:
        """Until so many heads are published, and served by every follower."""
        while self.bridge.head is None or self.bridge.head.seq < heads:
            assert await self.caught_up(3600)
            await self.move()
        assert await self.caught_up(3600)
        until = asyncio.get_running_loop().time() + 60
        while not self.seen or self.seen[-1] < heads:
            assert asyncio.get_running_loop().time() < until, "what is published is not served"
            await asyncio.sleep(0.2)
            self.alive()


async def whole(heads: int, seed: int, weather: Weather, kind: type[CassandraStore] = CassandraStore) -> World:
    async with World(seed, weather, kind) as world:
        await world.play(heads)
    return world


@pytest.mark.parametrize("heads", [1_000, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_no_head_is_served_before_all_of_it_can_be_read(heads: int) -> None:
    world = run_virtual(whole(heads, 1, Weather(**ROUGH)))
    assert world.judge.judged >= heads
    # and it was served while it was new: most heads were seen by a client that asks five times a second
    assert len(set(world.seen)) > heads * 0.9
    assert world.session.failed > heads / 50, "the weather was not rough"


class Hasty(CassandraStore):
    """Goes on before its writes are acknowledged."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.under_way: set[asyncio.Task[None]] = set()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.under_way.discard(task)
        if not task.cancelled():
            task.exception()  # lost, as Lotus' followers lost it: at most a line in a log


class HastyRows(Hasty):
    """Rows are written behind its back."""

    async def write(self, batch: Batch) -> None:
        self._later(super().write(batch))


class HastyObjects(Hasty):
    """Objects too, and it reads those itself before others can."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.buffer: dict[bytes, bytes] = {}

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        pairs = list(objects)
        self.buffer.update(pairs)
        self._later(super().put_many(pairs, closed=closed))

    async def get(self, multihash: bytes) -> bytes | None:
        return self.buffer.get(multihash) or await super().get(multihash)

    async def _held_one(self, multihash: bytes) -> Held:
        return Held.CLOSED if multihash in self.buffer else await super()._held_one(multihash)


@pytest.mark.parametrize("kind", [HastyRows, HastyObjects])
def test_a_store_that_goes_on_before_writes_are_acknowledged_is_caught(kind: type[CassandraStore]) -> None:
    with pytest.raises(AssertionError, match=r"missing|no row|not indexed|is not None"):
        run_virtual(whole(200, 2, Weather(**ROUGH), kind))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO ks.objects",
        "UPDATE ks.objects",
        "INSERT INTO ks.tipsets",
        "INSERT INTO ks.heights",
        "INSERT INTO ks.messages",
        "INSERT INTO ks.coverage",
        "SET entry",
    ],
)
def test_a_head_whose_write_fails_is_not_published(statement: str) -> None:
    async def run() -> None:
        weather = Weather()
        async with World(3, weather) as world:
            await world.play(5)
            before = world.bridge.head.seq  # type: ignore[union-attr]
            weather.breaks = lambda cql: statement in cql
            await world.extend()
            assert not await world.caught_up(30)
            assert world.session.failed > 1
            assert world.bridge.head.seq == before  # type: ignore[union-attr]
            published = await world.judge.store.head()
            assert published is not None
            assert published.seq == before == world.seen[-1]
            weather.breaks = lambda _: False
            assert await world.caught_up(60)
            await world.play(10)

    run_virtual(run())


@pytest.mark.parametrize("dies", [True, False])
def test_a_head_that_is_never_stamped_is_served_all_the_same(dies: bool) -> None:
    """The leader dies between the two steps, or its stamps fail: followers wait for some seconds, not for a leader."""

    async def run() -> None:
        weather = Weather()
        async with World(5, weather) as world:
            await world.play(5)
            before = world.bridge.head.seq  # type: ignore[union-attr]
            weather.breaks = lambda cql: "SET visible_at" in cql
            await world.extend()
            if dies:
                while not world.session.failed:
                    await asyncio.sleep(0.01)
                world.running.cancel()
            for heads in world.heads:
                async with asyncio.timeout(5):
                    while (await heads.current()).seq <= before:
                        await asyncio.sleep(0.1)
            # and it stays so
            await asyncio.sleep(60)
            for heads in world.heads:
                assert (await heads.check()).ok
                assert (await heads.current()).seq == before + 1
            if not dies:
                weather.breaks = lambda _: False
                await world.play(10)

    run_virtual(run())


def test_a_part_of_a_call_never_promises_the_rest() -> None:
    """What is lost of one call to the store, at random: no object is closed, no row tells, before all else is there."""

    async def run() -> int:
        lost = 0
        for seed in range(300):
            server = Server()
            store = store_over(DelayedSession(server, Weather(fail=0.05, time_out=0.05), seed), DELTA, EPSILON)
            after = Judge(server).store
            pairs = [(multihash_of(b"%d" % number), b"%d" % number) for number in range(10)]
            batch = Batch()
            batch.put(TIPSETS, b"t", b"", b"row")
            for multihash, data in pairs:
                batch.put(MESSAGES, multihash, b"", data)
            batch.put(COVERAGE, b"", b"messages", b"[]")
            for work in (store.put_many(pairs, closed=True), store.write(batch)):
                try:
                    await work
                except StoreUnavailable:
                    lost += 1
            keys = [multihash for multihash, _ in pairs]
            held = await after.held_many(keys)
            assert Held.CLOSED not in held or Held.ABSENT not in held
            rows = await after.rows(MESSAGES, [(key, b"") for key in keys])
            row, coverage = await after.row(TIPSETS, b"t", b""), await after.row(COVERAGE, b"", b"messages")
            assert row is None or None not in rows
            assert coverage is None or row is not None
        return lost

    assert run_virtual(run()) > 100


class Unpaced(CassandraStore):
    """Lets each head change be published as it comes."""

    def publish_delay_ms(self) -> int:
        return 0


@pytest.mark.parametrize("kind", [CassandraStore, Unpaced])
def test_many_head_changes_at_once_are_not_stamped_ever_further_ahead(kind: type[CassandraStore]) -> None:
    async def run() -> bool:
        async with World(4, Weather(write_ms=1, read_ms=1), kind) as world:
            await world.play(5)
            before = world.bridge.head.seq  # type: ignore[union-attr]
            for _ in range(200):
                await world.move()
                await asyncio.sleep(0.01)
            assert await world.caught_up(60)
            now = world.session.wall()
            entries = await world.judge.store.head_entries(before)
            # whatever became one, the follower goes on from each to the next
            await world.play(entries[-1].seq + 3)
            assert len(entries) > 10
            assert sum(len(one.applies) for one in entries) > len(entries)
            return entries[-1].visible_at <= now + DELTA + 2 * EPSILON

    assert run_virtual(run()) == (kind is CassandraStore)


def test_head_changes_as_one() -> None:
    def changes(text: str) -> list[Change]:
        kinds = {"+": APPLY, "-": REVERT, "=": CURRENT}
        return [Change(kinds[word[0]], 1, TipsetKey(word[1:].encode())) for word in text.split()]

    for told, one in (
        ("+a +b", "+a +b"),
        ("-b -a +c +d", "-b -a +c +d"),
        ("+a -a", ""),
        ("-z +a +b -b -a -y +c", "-z -y +c"),
        ("+a +b -b +c", "+a +c"),
        ("+a -b", "+a -b"),
        ("=a +b", "=a +b"),
    ):
        assert merge_changes(changes(told)) == changes(one)
