"""Heads of a shared store: which may be served, when they are pushed, and what a clock that is off does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from blockstore.cassandra.head import Tail
from blockstore.cassandra.store import CassandraStore
from blockstore.errors import StoreUnavailable
from blockstore.store import HeadEntry, TipsetRef
from blockstore.store_clock import MAX_AGE_MS, StoreClock
from chain.errors import NotHeld
from chain.tipset import Tipset
from follower.readiness import FollowedNode, Freshness, build_checks
from follower.shared_store_heads import SharedStoreHeads
from rpc.errors import Unavailable
from rpc.server.health import run_checks
from tests.support.cassandra.stores import emptied, keyspace_url
from tests.support.made_chain import MadeChain

DELTA, EPSILON = 100, 10
FRESH = Freshness(lag_epochs=5, head_age_epochs=10, block_delay_seconds=30)


class Clock:
    """Both clocks of a follower, in milliseconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 1_000

        #: how far the wall clock was set
        self.stepped = 0

    def wall(self) -> int:
        return self.now + 1_000_000 + self.stepped

    def boot(self) -> int:
        return self.now


class Log:
    """A shared store's log as a follower reads it; it can be made to hang or to fail."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.entries: list[HeadEntry] = []
        self.prepared = False
        self.failing = False
        self.hanging = False
        self.reads = 0
        self.store_ahead = 0
        self.round_trip = 0
        self.lease = (1, 1)

    def add(self, tipset: Tipset, visible_in: int) -> HeadEntry:
        ref = TipsetRef(tipset.height, tipset.key)
        made = HeadEntry(len(self.entries) + 1, 1, (), (ref,), ref, None, self.clock.wall() + visible_in)
        self.entries.append(made)
        return made

    async def head_tail(self, limit: int = 2) -> Tail:
        self.reads += 1
        if self.hanging:
            await asyncio.Event().wait()
        if self.failing:
            raise StoreUnavailable("no")
        return Tail(tuple(self.entries[-limit:]), self.prepared, self.lease)

    async def head_entries(self, after: int, limit: int = 1000) -> list[HeadEntry]:
        return self.entries[after : after + limit]

    async def clock_ms(self) -> int:
        self.clock.now += self.round_trip // 2
        read = self.clock.wall() - self.clock.stepped + self.store_ahead
        self.clock.now += self.round_trip - self.round_trip // 2
        return read


class Made:
    def __init__(self, tipsets: list[Tipset], chain: MadeChain, wait: float) -> None:
        self.tipsets = tipsets
        self.clock = Clock()
        self.log = Log(self.clock)
        index = chain.services().index
        self.heads = SharedStoreHeads(
            self.log, index, DELTA, EPSILON, wait_seconds=wait, now=self.clock.boot, wall=self.clock.wall
        )

    async def read(self) -> None:
        await self.heads._read()

    async def served(self) -> int:
        return (await self.heads.current()).seq


@pytest.fixture
async def made() -> AsyncIterator[Made]:
    chain = MadeChain()
    tipsets: list[Tipset] = []
    for height in range(12):
        tipsets.append(await chain.add(tipsets[-1] if tipsets else None, height))
    one = Made(tipsets, chain, 0.05)
    await one.heads.measure()
    yield one
    await one.heads.close()


async def test_a_head_is_served_from_its_moment_and_as_long_as_reads_prove_it(made: Made) -> None:
    with pytest.raises(Unavailable):
        await made.served()
    made.log.add(made.tipsets[0], -1000)
    await made.read()
    assert await made.served() == 1
    made.log.add(made.tipsets[1], DELTA)
    made.clock.now += DELTA - EPSILON - 2
    assert await made.served() == 1
    made.clock.now += 2
    with pytest.raises(Unavailable):  # nothing was read for too long: entry 2 may be visible
        await made.served()
    await made.read()
    with pytest.raises(Unavailable):  # about to change over: other followers may be before it or behind it
        await made.served()
    made.clock.now += 2 * EPSILON + 1
    await made.read()
    assert await made.served() == 2


async def test_a_stall_takes_nobody_out_of_service_before_requests_fail(made: Made) -> None:
    assert not (await made.heads.check()).ok  # none was ever served
    made.log.add(made.tipsets[0], -1000)
    await made.read()
    assert (await made.heads.check()).ok
    made.clock.now += DELTA
    # as long as requests would wait: 0.05 s here
    made.heads._wait_seconds = 60
    followed = FollowedNode(client=None)  # type: ignore[arg-type]
    fresh = build_checks(made.heads, followed, FRESH).fresh
    for height, near in ((made.tipsets[0].height + 5, True), (made.tipsets[0].height + 6, False)):
        followed.height = height
        # against the head that was served last: to wait for another one would itself be a stall
        async with asyncio.timeout(20):
            assert (await fresh["node"]()).ok is near
    result = await made.heads.check()
    assert result.ok
    assert "no head may be served" in result.text
    made.heads._wait_seconds = 0.05
    async with asyncio.timeout(5):
        while (await made.heads.check()).ok:
            await asyncio.sleep(0.002)
    await made.read()
    assert (await made.heads.check()).ok


async def test_a_prepared_entry_proves_nothing(made: Made) -> None:
    made.log.add(made.tipsets[0], -1000)
    await made.read()
    made.log.prepared = True
    made.clock.now += DELTA - EPSILON
    await made.read()
    with pytest.raises(Unavailable):
        await made.served()
    made.log.prepared = False
    await made.read()
    assert await made.served() == 1


async def test_who_waits_is_answered_when_the_moment_has_come(made: Made) -> None:
    made.heads._wait_seconds = 10
    made.log.add(made.tipsets[0], 0)
    await made.read()
    waiting = [asyncio.create_task(made.served()) for _ in range(5)]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting)
    made.clock.now += EPSILON + 1
    assert await asyncio.gather(*waiting) == [1] * 5


async def test_entries_between_the_tail_and_what_is_known_are_not_passed_over(made: Made) -> None:
    made.log.add(made.tipsets[0], -1000)
    await made.read()
    for at in range(1, 10):  # published fast: their moments run ahead
        made.log.add(made.tipsets[at], DELTA + 4 * EPSILON * at)
    await made.read()
    made.clock.now += DELTA + 5 * EPSILON + 1  # entry 2 is visible, entry 3 not yet
    await made.read()
    assert await made.served() == 2
    made.clock.now += 1000
    await made.read()
    assert await made.served() == 10
    assert list(made.heads.window.entries) == [10]


async def test_reads_start_while_others_hang(made: Made) -> None:
    made.log.hanging = True
    made.heads.start()
    async with asyncio.timeout(10):
        while made.log.reads < 40:  # more than may hang: the oldest are given up
            await asyncio.sleep(0.005)
    assert len(made.heads._reads) <= 33
    made.log.add(made.tipsets[0], -1000)
    made.log.hanging = False
    made.heads._wait_seconds = 10
    assert await made.served() == 1


async def test_nothing_published_and_nothing_read_are_told_apart(made: Made) -> None:
    made.log.failing = True
    await made.read()
    with pytest.raises(Unavailable, match="cannot be read"):
        await made.served()
    assert not (await made.heads.live_check()).ok
    made.log.failing = False
    await made.read()
    with pytest.raises(NotHeld, match="nothing has been published"):
        await made.served()
    assert (await made.heads.live_check()).ok


async def test_pushes_leave_when_every_clock_shows_the_entry(made: Made) -> None:
    made.log.add(made.tipsets[0], -1000)
    await made.read()
    made.heads._was_read.set()
    pushed: list[int] = []

    async def take() -> None:
        async for one in made.heads.subscribe(1):
            pushed.append(one.seq)

    taking = asyncio.create_task(take())
    made.log.add(made.tipsets[1], DELTA)
    made.log.add(made.tipsets[2], DELTA + 2 * EPSILON)
    await made.read()
    made.clock.now += DELTA + EPSILON
    await asyncio.sleep(0.05)
    assert pushed == []
    made.clock.now += 1
    async with asyncio.timeout(5):
        while not pushed:
            await asyncio.sleep(0.002)
    assert pushed == [2]
    made.clock.now += 1000
    async with asyncio.timeout(5):
        while len(pushed) < 2:
            await asyncio.sleep(0.002)
    assert pushed == [2, 3]
    taking.cancel()


async def test_a_clock_that_is_off_takes_the_follower_out_of_service(made: Made) -> None:
    made.log.add(made.tipsets[0], -1000)
    await made.read()
    assert (await made.heads.clock_check()).ok
    assert await made.served() == 1
    made.log.store_ahead = EPSILON + 2
    await made.heads.measure()
    result = (await run_checks(build_checks(made.heads, None, FRESH).ready))["clock"]
    assert not result.ok
    assert "+12 ms" in result.text
    with pytest.raises(Unavailable, match="out of service"):
        await made.served()
    # within epsilon for certain: each reading is good to a millisecond
    made.log.store_ahead = -EPSILON + 1
    await made.heads.measure()
    assert await made.served() == 1
    made.log.store_ahead = -EPSILON - 2
    await made.heads.measure()
    with pytest.raises(Unavailable, match="out of service"):
        await made.served()


async def test_a_clock_that_may_be_off_counts_as_off(made: Made) -> None:
    made.log.add(made.tipsets[0], -1000)
    # the store has answered for too long: what is known of its clock is too old
    made.clock.now += MAX_AGE_MS + 1
    await made.read()
    result = await made.heads.clock_check()
    assert not result.ok
    assert "was not read for 15 s" in result.text
    with pytest.raises(Unavailable, match="out of service"):
        await made.served()
    # a round trip so slow that the offset may be more than epsilon
    made.log.round_trip = 2 * EPSILON + 2
    await made.heads.measure()
    result = await made.heads.clock_check()
    assert not result.ok
    assert "give or take 12 ms" in result.text
    made.log.round_trip = 2
    await made.heads.measure()
    assert (await made.heads.clock_check()).ok
    await made.read()
    assert await made.served() == 1
    # a slow one takes nothing back
    made.log.round_trip = 500
    await made.heads.measure()
    assert (await made.heads.clock_check()).ok


async def test_a_follower_that_has_not_measured_its_clock_serves_no_head(made: Made) -> None:
    made.heads.clock = StoreClock(made.log.clock_ms, EPSILON, made.clock.wall, made.clock.boot)
    made.log.add(made.tipsets[0], -1000)
    await made.read()
    with pytest.raises(Unavailable, match="not measured yet"):
        await made.served()


async def test_a_step_of_our_clock_shows_without_a_measurement(made: Made) -> None:
    made.log.add(made.tipsets[0], -1000)
    await made.read()
    assert await made.served() == 1
    made.clock.stepped = 1000
    with pytest.raises(Unavailable, match="-1000 ms"):
        await made.served()


async def test_a_log_that_was_restored_resets_the_follower_with_an_alarm(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    for at in range(6):
        made.log.add(made.tipsets[at], -1000 + 2 * EPSILON * at)
    await made.read()
    assert await made.served() == 6
    pushed: list[int] = []

    async def take() -> None:
        async for one in made.heads.subscribe(4):
            pushed.append(one.seq)

    taking = asyncio.create_task(take())
    async with asyncio.timeout(5):
        while pushed != [5, 6]:
            await asyncio.sleep(0.002)
    # the store is restored: entries 4 to 6 are no more, and entry 4 is another one by now
    del made.log.entries[3:]
    made.log.add(made.tipsets[8], -500)
    made.clock.now += DELTA - EPSILON - 2
    await made.read()
    assert await made.served() == 6
    # it extends no horizon
    made.clock.now += 2
    with pytest.raises(Unavailable):
        await made.served()
    assert not caplog.records
    for _ in range(2):
        made.clock.now += 5
        await made.read()
    assert "went back" in caplog.text
    assert made.heads.window.resets == 1
    made.clock.now += 5
    await made.read()
    assert await made.served() == 4
    assert (await made.heads.current()).tipset.key == made.tipsets[8].key
    async with asyncio.timeout(5):
        await taking  # its subscription has ended: it begins anew


async def test_a_restored_log_that_has_gone_on_further_is_noticed(made: Made) -> None:
    for at in range(3):
        made.log.add(made.tipsets[at], -1000 + 2 * EPSILON * at)
    await made.read()
    assert await made.served() == 3
    del made.log.entries[1:]
    for at in range(3, 9):
        made.log.add(made.tipsets[at], -800 + 2 * EPSILON * at)
    for _ in range(4):
        made.clock.now += 5
        await made.read()
    assert made.heads.window.resets == 1
    assert (await made.heads.current()).tipset.key == made.tipsets[8].key


async def test_reads_that_overlap_are_no_restored_log(made: Made) -> None:
    made.log.add(made.tipsets[0], -1000)
    window = made.heads.window
    before = await made.log.head_tail()
    made.log.add(made.tipsets[1], -500)
    after = await made.log.head_tail()
    window.observe(100, 110, after)
    for began in range(90, 111):
        assert not window.observe(began, began + 500, before)
    assert window.resets == 0
    # begun later, one after the other
    assert not window.observe(111, 120, before)
    assert not window.observe(115, 130, before)  # overlaps with the one before: no second witness
    assert not window.observe(121, 131, before)
    assert window.observe(132, 140, before)


async def test_one_contradiction_is_no_reset(made: Made) -> None:
    made.log.add(made.tipsets[0], -1000)
    before = await made.log.head_tail()
    made.log.add(made.tipsets[1], -500)
    after = await made.log.head_tail()
    window = made.heads.window
    began = 0
    for tail in (after, before, before, after, before, before, after):
        began += 20
        assert not window.observe(began, began + 10, tail)
    assert window.resets == 0
    assert sorted(window.entries) == [1, 2]


async def test_a_lease_that_stands_still_is_no_reason_to_be_down_but_to_be_the_last(made: Made) -> None:
    made.log.add(made.tipsets[0], -1000)
    await made.read()
    checks = build_checks(made.heads, None, FRESH, lambda: made.tipsets[0].min_timestamp + 5)
    for seconds, renewed, is_fresh in ((20, True, True), (25, False, True), (10, False, False), (1, True, True)):
        made.clock.now += seconds * 1000
        made.log.lease = (1, made.log.lease[1] + renewed)
        await made.heads.measure()
        await made.read()
        result = await checks.fresh["lease"]()
        assert result.ok is is_fresh, result.text
        assert all(one.ok for one in (await run_checks(checks.ready)).values())
    # a new term is a renewal
    made.clock.now += 60_000
    made.log.lease = (2, 0)
    await made.read()
    assert (await checks.fresh["lease"]()).ok
    # time in which the store does not answer counts against nobody
    made.log.failing = True
    made.clock.now += 600_000
    await made.read()
    assert (await checks.fresh["lease"]()).ok
    # an archive has no bridge
    assert "lease" not in build_checks(made.heads, None, Freshness(5, 0, 30)).fresh


@pytest.fixture
async def cassandra() -> AsyncIterator[CassandraStore]:
    store = await emptied(keyspace_url("follower_lease"), delta_ms=200, epsilon_ms=50)
    yield store
    await store.close()


async def test_followers_over_one_log_never_go_back(cassandra: CassandraStore) -> None:
    """A client that asks two followers in turn, while head changes are published, on the real thing."""
    chain = MadeChain()
    tipsets: list[Tipset] = []
    for height in range(30):
        tipsets.append(await chain.add(tipsets[-1] if tipsets else None, height))
    index = chain.services().index
    heads = [SharedStoreHeads(cassandra, index, 200, 50, wait_seconds=20) for _ in range(2)]
    for one in heads:
        one.start()
    term = await cassandra.new_term("test")

    async def publish() -> None:
        for seq, tipset in enumerate(tipsets, 1):
            ref = TipsetRef(tipset.height, tipset.key)
            await cassandra.append_head(HeadEntry(seq, term, (), (ref,), ref))
            await asyncio.sleep(0.15)  # nothing is served within epsilon of a change

    pushed: list[int] = []

    async def take() -> None:
        async for one in heads[0].subscribe(0):
            pushed.append(one.seq)
            if one.seq == len(tipsets):
                return

    publishing = asyncio.create_task(publish())
    try:
        while not heads[0].window.entries:
            await asyncio.sleep(0.005)
        taking = asyncio.create_task(take())
        seen: list[int] = []
        async with asyncio.timeout(40):
            while not seen or seen[-1] < len(tipsets):
                seen.append((await heads[len(seen) % 2].current()).seq)
                await asyncio.sleep(0.001)
            await taking
        await publishing
        assert seen == sorted(seen)
        assert len(set(seen)) > 10
        assert pushed == list(range(1, len(tipsets) + 1))
        await heads[0].measure()
        assert (await heads[0].clock_check()).ok
    finally:
        for one in heads:
            await one.close()
