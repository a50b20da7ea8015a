"""Who leads, on a real Cassandra: standbys take over, a fenced leader publishes no more and stands by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.head import CassandraHeadLog
from blockstore.cassandra.session import AcsyllaSession
from blockstore.cassandra.store import CassandraStore
from blockstore.errors import Fenced
from blockstore.memory import MemoryStore
from blockstore.store import Batch, Table
from blockstore.store_clock import ClockOff, wall_ms
from leader_bridge import metrics
from leader_bridge.follow.lease import LeaseStore, hold_lease, lead
from tests.blockstore.store_contract import entry
from tests.support.cassandra.stores import emptied, keyspace_url

LEASE = 1.2


@pytest.fixture
async def store() -> AsyncIterator[CassandraStore]:
    store = await emptied(keyspace_url("follower_lease"), delta_ms=200, epsilon_ms=50)
    yield store
    await store.close()


class Leader:
    """Publishes an entry now and then, as a bridge does."""

    def __init__(
        self, store: CassandraStore, name: str, led: list[tuple[str, int]], after_term: int | None = None
    ) -> None:
        self.store, self.name, self.led, self.after_term = store, name, led, after_term
        self.term = 0
        self.progress = 0
        self.published_height = -1
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        self.term = await self.store.new_term(self.name, self.after_term)
        self.led.append((self.name, self.term))
        head = await self.store.head()
        seq = head.seq if head else 0
        while not self.stopping.is_set():
            seq += 1
            await self.store.append_head(entry(seq, self.term))
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        self.stopping.set()


class Stuck:
    """A store whose lease is not renewed: a bridge that was suspended, or cut off."""

    def __init__(self, store: CassandraStore) -> None:
        self.store = store
        self.stuck = False

    async def lease(self):  # type: ignore[no-untyped-def]
        return await self.store.lease()

    async def renew_lease(self, term: int, renewals: int) -> None:
        if not self.stuck:
            await self.store.renew_lease(term, renewals)

    async def clock_ms(self) -> int:
        return await self.store.clock_ms()

    def epsilon_ms(self) -> int:
        return self.store.epsilon_ms()

    async def write(self, batch: Batch) -> None:
        await self.store.write(batch)

    async def scan(self, table: Table, partition: bytes, **bounds: Any) -> list[tuple[bytes, bytes]]:
        return await self.store.scan(table, partition, **bounds)


def start(
    store: LeaseStore,
    at: CassandraStore,
    name: str,
    led: list[tuple[str, int]],
    lease: float = LEASE,
    wall: Callable[[], int] = wall_ms,
) -> tuple[asyncio.Task[None], asyncio.Event]:
    stop = asyncio.Event()

    def make(after_term: int) -> Leader:
        return Leader(at, name, led, after_term)

    return asyncio.create_task(lead(store, make, name, lease, stop, wall=wall)), stop


async def until(led: list[tuple[str, int]], count: int) -> None:
    async with asyncio.timeout(15):
        while len(led) < count:
            await asyncio.sleep(0.01)


async def published(store: CassandraStore, term: int) -> None:
    """Wait until the head was published in this term."""
    async with asyncio.timeout(15):
        while (head := await store.head()) is None or head.term != term:
            await asyncio.sleep(0.01)


async def test_a_standby_takes_over_from_one_that_renews_no_more_and_that_one_stands_by(
    store: CassandraStore,
) -> None:
    led: list[tuple[str, int]] = []
    first = Stuck(store)
    one, stop_one = start(first, store, "one", led)
    await until(led, 1)
    two, stop_two = start(store, store, "two", led)
    # while it is renewed nobody takes over
    await asyncio.sleep(LEASE * 3)
    assert led == [("one", 1)]
    first.stuck = True
    await until(led, 2)
    assert led == [("one", 1), ("two", 2)]
    # the fenced one stands by: it leads again when the other is stopped in order, without waiting
    await asyncio.sleep(LEASE * 2)
    assert len(led) == 2
    assert not one.done()
    first.stuck = False
    stop_two.set()
    await two
    await until(led, 3)
    assert led[2] == ("one", 3)
    await published(store, 3)
    stop_one.set()
    await one
    entries = await store.head_entries(0)
    assert [e.seq for e in entries] == list(range(1, len(entries) + 1))
    terms = [e.term for e in entries]
    assert terms == sorted(terms)
    assert set(terms) == {1, 2, 3}


async def test_a_term_given_up_is_taken_at_once(store: CassandraStore) -> None:
    led: list[tuple[str, int]] = []
    one, stop = start(store, store, "one", led)
    await until(led, 1)
    stop.set()
    await one
    assert (await store.lease()).renewals == -1
    # a lease that does not run out within this test
    two, stop = start(store, store, "two", led, 1000)
    await until(led, 2)
    stop.set()
    await two
    with pytest.raises(Fenced):
        await store.append_head(entry(1000, 1))


async def test_a_read_of_the_log_shows_the_lease(store: CassandraStore) -> None:
    """What followers tell by that somebody leads: no read of its own."""
    assert (await store.head_tail()).lease == (0, 0)
    term = await store.new_term("one")
    await store.renew_lease(term, 5)
    assert (await store.head_tail()).lease == (1, 5)
    await store.append_head(entry(1, term))
    await store.renew_lease(term, 6)
    tail = await store.head_tail()
    assert [one.seq for one in tail.entries] == [1]
    assert tail.lease == (1, 6)


async def test_an_import_leads_while_it_runs(store: CassandraStore) -> None:
    led: list[tuple[str, int]] = []
    one, stop = start(store, store, "one", led)
    await until(led, 1)
    other = await CassandraStore.open(keyspace_url("follower_lease"), delta_ms=200, epsilon_ms=50)
    async with hold_lease(other, "import", LEASE) as term:
        assert term == 2
        # longer than a lease: the bridge is fenced, and stands by
        await asyncio.sleep(LEASE * 3)
        assert led == [("one", 1)]
        assert (await store.lease()).owner == "import"
    await until(led, 2)
    assert led[1] == ("one", 3)
    stop.set()
    await one
    await other.close()
    async with hold_lease(MemoryStore("x"), "import", LEASE) as none:
        assert none == 0


async def test_a_standby_that_is_stopped_never_led(store: CassandraStore) -> None:
    await store.new_term("somebody")
    led: list[tuple[str, int]] = []
    one, stop = start(store, store, "one", led)
    await asyncio.sleep(LEASE / 4)
    stop.set()
    await one
    assert led == []


async def test_other_errors_end_it_and_are_told(store: CassandraStore) -> None:
    class Broken(Leader):
        async def run(self) -> None:
            raise RuntimeError("of another network")

    with pytest.raises(RuntimeError, match="another network"):
        await lead(store, lambda after: Broken(store, "one", []), "one", LEASE, asyncio.Event())


async def test_a_bridge_whose_clock_is_off_does_not_lead_and_says_so(
    store: CassandraStore, caplog: pytest.LogCaptureFixture
) -> None:
    led: list[tuple[str, int]] = []
    ahead = [5_000]
    # a lease that does not run out within this test
    one, stop_one = start(store, store, "one", led, 1000, wall=lambda: wall_ms() + ahead[0])
    while metrics.CLOCK_OFF._value.get() != 1:
        await asyncio.sleep(0.01)
    assert led == []
    assert (await store.lease()).term == 0
    assert "does not lead" in caplog.text
    assert "-500" in caplog.text or "-4" in caplog.text
    ahead[0] = 0
    await until(led, 1)
    assert metrics.LEADS._value.get() == 1
    assert metrics.CLOCK_OFF._value.get() == 0
    # it leads, and its clock is set wrong: it stands down at once, for others to take over
    ahead[0] = -5_000
    # it looks each second
    two, stop_two = start(store, store, "two", led, 10)
    await until(led, 2)
    assert led == [("one", 1), ("two", 2)]
    assert not one.done()
    for stop, task in ((stop_one, one), (stop_two, two)):
        stop.set()
        await task


async def test_nothing_is_stamped_by_a_clock_that_is_off(store: CassandraStore) -> None:
    ahead = [0]
    session = await AcsyllaSession.open(CassandraAddress.parse(keyspace_url("follower_lease")))
    head_log = CassandraHeadLog(
        session, "follower_lease", 200, 50, lambda: wall_ms() + ahead[0], store_clock=store.clock_ms
    )
    term = await head_log.new_term("one")
    await head_log.append(entry(1, term))
    ahead[0] = 5_000
    for _ in range(2):
        with pytest.raises(ClockOff, match="clock is off"):
            await head_log.append(entry(2, term))
        assert [one.seq for one in await store.head_entries(0)] == [1]
        assert (await store.head_tail()).prepared
    ahead[0] = 0
    await head_log.append(entry(2, term))
    assert [one.seq for one in await store.head_entries(0)] == [1, 2]
    await session.close()


def test_a_store_of_one_machine_has_no_lease() -> None:
    assert not isinstance(MemoryStore("x"), LeaseStore)
    assert issubclass(CassandraStore, LeaseStore)
