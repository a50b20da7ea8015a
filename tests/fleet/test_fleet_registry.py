"""The registry of the fleet, on every kind of store: who lives, who is gone, and what rows are not believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.cassandra import schema as cassandra_schema
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.store import CassandraStore
from blockstore.errors import StoreUnavailable
from blockstore.lmdb.store import LmdbStore
from blockstore.memory import MemoryStore
from blockstore.store import FLEET, Batch, Store
from loadbalancer import fleet
from loadbalancer.fleet import (
    DRAINING,
    MISSED_RENEWALS,
    MOST_MEMBERS,
    SERVING,
    BadAddress,
    FleetWatch,
    Member,
    Registration,
    decode_member,
    is_recent,
    read_fleet,
    require_reachable_address,
)
from tests.support.cassandra.stores import keyspace_url

ONE = Member("10.0.0.1:1234", renew_seconds=1.0)
TWO = Member("10.0.0.2:1234", renew_seconds=1.0)


@pytest.fixture(params=["memory", "lmdb", "cassandra"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore("fleet")
    elif request.param == "lmdb":
        made = await LmdbStore.open(tmp_path / "store", map_size=1 << 24)
    else:
        url = keyspace_url("follower_fleet")
        await (await CassandraStore.open(url)).close()
        place = CassandraAddress.parse(url)
        await asyncio.to_thread(cassandra_schema.run, place, [f"TRUNCATE {place.keyspace}.fleet"])
        made = await CassandraStore.open(url)
    yield made
    await made.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Failing:
    """A store that refuses reads or writes while it is told to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.refused: set[str] = set()
        self.tried = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in self.refused:
            return found

        async def refuse(*_: Any, **__: Any) -> None:
            self.tried += 1
            raise StoreUnavailable("refused by the test")

        return refuse


async def put(store: Store, member: Member, value: bytes | None = None) -> None:
    batch = Batch()
    batch.put(FLEET, b"members", member.address.encode(), member.encode() if value is None else value)
    await store.write(batch)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(15):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.005)


def names(members: list[Member]) -> list[str]:
    return [member.address for member in members]


# --- members -----------------------------------------------------------------------------------------


async def test_a_member_registers_renews_drains_and_leaves(store: Store) -> None:
    told = replace(ONE, renew_seconds=0.05, agent_port=1235, version="x/1", max_body=7)
    registration = Registration(store, told)
    registration.start()

    async def renewed(times: int) -> bool:
        found = (await read_fleet(store)).get(told.address)
        return found is not None and found[0].renewals >= times

    await until(lambda: renewed(3))
    member = (await read_fleet(store))[told.address][0]
    assert (member.state, member.agent_port, member.version, member.max_body) == (SERVING, 1235, "x/1", 7)
    assert member.written_ms > 1_600_000_000_000
    await registration.drain(5)
    member, value = (await read_fleet(store))[told.address]
    assert member.state == DRAINING
    await asyncio.sleep(0.15)
    assert (await read_fleet(store))[told.address][1] == value, "renewed after it had drained"
    await registration.leave(5)
    assert await read_fleet(store) == {}


async def test_processes_behind_one_address_keep_one_row(store: Store) -> None:
    told = replace(ONE, renew_seconds=0.05)
    workers = [Registration(store, told) for _ in range(2)]
    seen: set[str] = set()

    async def both() -> bool:
        rows = await read_fleet(store)
        seen.update(member.instance for member, _ in rows.values())
        return len(rows) == 1 and len(seen) == 2

    async def first() -> bool:
        return bool(await read_fleet(store))

    workers[0].start()
    await until(first)
    # half way between two renewals of the first, so that both can be seen
    await asyncio.sleep(0.025)
    workers[1].start()
    await until(both)
    # one is killed: the other still renews
    await workers[0]._halt()
    before = (await read_fleet(store))[told.address][1]

    async def renewed() -> bool:
        return (await read_fleet(store))[told.address][1] != before

    await until(renewed)
    await workers[1].leave(5)
    assert await read_fleet(store) == {}


async def test_a_store_that_fails_does_not_stop_the_renewals() -> None:
    real = Failing(MemoryStore("failing"))
    real.refused = {"write", "scan"}
    registration = Registration(real, replace(ONE, renew_seconds=0.05))  # type: ignore[arg-type]
    registration.start()
    await until(lambda: real.tried >= 3)
    real.refused = set()

    async def there() -> bool:
        return bool(await read_fleet(real))  # type: ignore[arg-type]

    await until(there)
    real.refused = {"write"}
    # neither raises
    await registration.drain(1)
    await registration.leave(1)


async def test_leaving_a_store_that_hangs_takes_no_longer_than_it_may() -> None:
    class Hanging(MemoryStore):
        async def write(self, batch: Batch) -> None:
            await asyncio.Event().wait()

    registration = Registration(Hanging("hangs"), ONE)
    async with asyncio.timeout(10):
        await registration.drain(0.05)
        await registration.leave(0.05)


async def test_a_server_told_to_drain_says_so_in_its_row() -> None:
    store = MemoryStore("told")
    draining = False
    registration = Registration(store, replace(ONE, renew_seconds=0.05), lambda: draining)
    registration.start()

    async def state(wanted: str) -> bool:
        rows = await read_fleet(store)
        return bool(rows) and rows[ONE.address][0].state == wanted

    await until(lambda: state(SERVING))
    draining = True
    await until(lambda: state(DRAINING))
    await registration.leave(1)


async def test_the_table_has_a_bound() -> None:
    store = MemoryStore("full")
    for number in range(MOST_MEMBERS):
        await put(store, Member(f"10.1.{number >> 8}.{number & 255}:1234"))
    late = Registration(store, replace(ONE, renew_seconds=0.05))
    late.start()
    await asyncio.sleep(0.2)
    assert ONE.address not in await read_fleet(store)
    # who is there already goes on
    known = Registration(store, Member("10.1.0.7:1234", renew_seconds=0.05, version="new"))
    known.start()

    async def renewed() -> bool:
        return (await read_fleet(store))["10.1.0.7:1234"][0].version == "new"

    await until(renewed)
    await known.leave(1)

    async def registered() -> bool:
        return ONE.address in await read_fleet(store)

    await until(registered)
    await late.leave(1)


# --- who lives ---------------------------------------------------------------------------------------


async def test_who_does_not_renew_is_gone_by_the_readers_clock_alone(store: Store) -> None:
    clock = Clock()
    watch = FleetWatch(store, 1.0, clock=clock)
    # clocks that are wrong by years, in both directions
    await put(store, replace(ONE, written_ms=1))
    await put(store, replace(TWO, written_ms=1 << 52))
    for renewal in range(MISSED_RENEWALS + 2):
        assert names(await watch.look()) == [ONE.address, TWO.address][: 2 if renewal < MISSED_RENEWALS else 1]
        clock.now += 1.0
        await put(store, replace(ONE, written_ms=1, renewals=renewal + 1))
    # it comes back with its next renewal
    await put(store, replace(TWO, renewals=99))
    assert names(await watch.look()) == [ONE.address, TWO.address]


async def test_a_store_that_cannot_be_read_makes_nobody_dead() -> None:
    clock = Clock()
    store = Failing(MemoryStore("unread"))
    watch = FleetWatch(store, 1.0, clock=clock)  # type: ignore[arg-type]
    await put(store, ONE)  # type: ignore[arg-type]
    assert names(await watch.look()) == [ONE.address]
    store.refused = {"scan"}
    for _ in range(3 * MISSED_RENEWALS):
        clock.now += 1.0
        with pytest.raises(StoreUnavailable):
            await watch.look()
    store.refused = set()
    assert names(await watch.look()) == [ONE.address]
    # and from here on it counts
    for _ in range(MISSED_RENEWALS):
        clock.now += 1.0
        last = await watch.look()
    assert last == []


async def test_a_reader_that_was_suspended_makes_nobody_dead() -> None:
    clock = Clock()
    store = MemoryStore("suspended")
    watch = FleetWatch(store, 1.0, clock=clock)
    await put(store, ONE)
    await watch.look()
    clock.now += 3600
    assert names(await watch.look()) == [ONE.address]


async def test_rows_of_the_long_dead_are_removed_and_no_others(store: Store) -> None:
    clock = Clock()
    watch = FleetWatch(store, 10.0, clock=clock)
    await put(store, ONE)
    await put(store, TWO)
    for renewal in range(2 * fleet._FORGET):
        await watch.look()
        clock.now += 1.0
        await put(store, replace(TWO, renewals=renewal))
        if ONE.address not in await read_fleet(store):
            break
    assert renewal == fleet._FORGET
    assert list(await read_fleet(store)) == [TWO.address]


async def test_a_row_renewed_at_the_last_moment_is_not_removed() -> None:
    clock = Clock()
    store = MemoryStore("last moment")
    watch = FleetWatch(store, 10.0, clock=clock)
    await put(store, ONE)
    await watch._forget(ONE.address, b"what was read before")
    assert list(await read_fleet(store)) == [ONE.address]
    await watch._forget(ONE.address, ONE.encode())
    assert await read_fleet(store) == {}


def test_a_reader_that_looks_once_is_generous() -> None:
    now = 1_800_000_000_000
    for seconds, kept in ((0, True), (100, True), (-100, True), (121, False), (-121, False)):
        assert is_recent(replace(ONE, written_ms=now - seconds * 1000), now) is kept
    # one that renews seldom may be older
    assert is_recent(replace(ONE, renew_seconds=60.0, written_ms=now - 1000_000), now)


# --- what is not believed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "", ":1234", "1234", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:-1", "10.0.0.1:12 34",
        "0.0.0.0:1234", "[::]:1234", "::1:1234", "[::1]x:1234", "[fe80::1%eth0]:1234", "a b:1", "a\n:1", "a:1\n",
        "a;b:1", "{a}:1", "-a:1", "a..b:1", "ä:1", "a:١", "a" * 64 + ":1", "#:1",
    ],
)  # fmt: skip
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(BadAddress):
        require_reachable_address(address)


@pytest.mark.parametrize("address", ["10.0.0.1:1234", "[::1]:80", "node-1.example.org:65535", "web_1:1"])
def test_addresses_that_can_be_used(address: str) -> None:
    assert require_reachable_address(address) == address
    member = Member(address)
    assert decode_member(address.encode(), member.encode()) == member


@pytest.mark.parametrize(
    "change",
    [
        {"address": "10.0.0.1:1\n    server evil 6.6.6.6:80"},
        {"address": "10.0.0.9:1234"},
        {"state": "superb"},
        {"agent_port": "1; drop"},
        {"agent_port": 70000},
        {"max_body": -1},
        {"max_body": True},
        {"renew_seconds": "soon"},
        {"renew_seconds": float("nan")},
        {"renew_seconds": []},
        {"written_ms": 1.5},
        {"renewals": None},
        {"version": "x" * 5000},
    ],
)
async def test_rows_that_make_no_sense_are_left_out(change: dict[str, Any]) -> None:
    store = MemoryStore("nonsense")
    await put(store, ONE, json.dumps(json.loads(ONE.encode()) | change).encode())
    await put(store, TWO)
    assert names(await FleetWatch(store, 1.0).look()) == [TWO.address]


def test_a_version_cannot_end_a_comment() -> None:
    told = replace(ONE, version="v1\nserver evil 6.6.6.6:80 {")
    read = decode_member(ONE.address.encode(), told.encode())
    assert read is not None
    assert read.version == "v1?server evil 6.6.6.6?80 ?"


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(json.loads(ONE.encode()))), inner),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_no_row_can_raise(value: bytes) -> None:
    assert decode_member(ONE.address.encode(), value) is None


def test_a_deep_row_cannot_raise() -> None:
    assert decode_member(ONE.address.encode(), b"[" * 4000) is None
