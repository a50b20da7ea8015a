"""A store that delays and reorders what is written, by up to half a second: no head is served before it can be read.

The real bridge, the real `CassandraStore` and the real `SharedStoreHeads` of two followers, over
`tests.blockstore.model.delayed_store`; all on a clock that jumps
(`tests.support.virtual_time`), so that the half second is half a second and costs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

import pytest

from blockstore.cassandra.store import CassandraStore
from blockstore.cid import multihash_of
from blockstore.errors import StoreUnavailable
from blockstore.generations import LASTING
from blockstore.store import COVERAGE, MESSAGES, TIPSETS, Batch, Held
from chain.tipset import TipsetKey
from leader_bridge.nodes.subscription import APPLY, CURRENT, REVERT, Change, merge_changes
from tests.blockstore.model.delayed_store import DelayedSession, Weather, store_over
from tests.blockstore.model.server import Server
from tests.blockstore.model.world import DELTA, EPSILON, Judge, World
from tests.support.virtual_time import run_virtual

ROUGH = {"fail": 0.001, "time_out": 0.001, "fail_reads": 0.0002}


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
    assert world.failed > heads / 50, "the weather was not rough"


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
        for number in (LASTING, 1):
            self._make_hasty(self.place(number))

    def _make_hasty(self, place: Any) -> None:
        buffer: dict[bytes, bytes] = {}
        put, get, held = place.put_many, place.get, place._held_one

        async def put_many(objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
            pairs = list(objects)
            buffer.update(pairs)
            self._later(put(pairs, closed=closed))

        async def get_buffered(multihash: bytes) -> bytes | None:
            return buffer.get(multihash) or await get(multihash)

        async def held_one(multihash: bytes) -> Held:
            return Held.CLOSED if multihash in buffer else await held(multihash)

        place.put_many, place.get, place._held_one = put_many, get_buffered, held_one


@pytest.mark.parametrize("kind", [HastyRows, HastyObjects])
def test_a_store_that_goes_on_before_writes_are_acknowledged_is_caught(kind: type[CassandraStore]) -> None:
    with pytest.raises(AssertionError, match=r"missing|no row|not indexed|is not None"):
        run_virtual(whole(200, 2, Weather(**ROUGH), kind))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO ks.objects_1",
        "UPDATE ks.objects_1",
        "INSERT INTO ks.tipsets_by_term",
        "INSERT INTO ks.heights",
        "INSERT INTO ks.messages",
        "INSERT INTO ks.coverage_by_term",
        "entry = ?, visible_at = ?",
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
            weather.breaks = lambda cql: "last = ?, visible_at = ?" in cql
            await world.extend()
            if dies:
                while not world.failed:
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
            ahead = 0
            for _ in range(200):
                await world.move()
                await asyncio.sleep(0.01)
                ahead = max(ahead, world.bridge.store._log._stamped - world.session.wall())  # type: ignore[attr-defined]
            assert await world.caught_up(60)
            entries = await world.judge.store.head_entries(before)
            # whatever became one, the follower goes on from each to the next
            await world.play(entries[-1].seq + 3)
            assert len(entries) > 10
            assert sum(len(one.applies) for one in entries) > len(entries)
            return ahead <= DELTA + 2 * EPSILON

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
