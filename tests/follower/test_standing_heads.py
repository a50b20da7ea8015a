"""A head of a shared store that stands: the short look says what the whole rule says, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.cassandra.bounded_staleness import HeadWindow
from blockstore.cassandra.head import Tail
from blockstore.errors import StoreUnavailable
from blockstore.store import HeadEntry, TipsetRef
from blockstore.store_clock import MAX_AGE_MS
from chain.index.chain_index import ChainIndex
from chain.tipset import TipsetKey
from follower.shared_store_heads import SharedStoreHeads
from rpc.services import Head

DELTA, EPSILON = 100, 10


@dataclass(frozen=True)
class Named:
    """Of a tipset, what heads look at."""

    key: bytes


class Index:
    async def tipset(self, key: TipsetKey) -> Named:
        return Named(bytes(key))


class World:
    """A log, its store's clock and both clocks of a machine. All times are milliseconds."""

    def __init__(self) -> None:
        self.now = 1_000
        self.stepped = 0
        self.store_ahead = 0
        self.round_trip = 0
        self.entries: list[HeadEntry] = []
        self.unstamped: HeadEntry | None = None
        self.prepared = False
        self.read_takes = 0
        self.failing = False
        #: so that an entry after a restored backup is another one
        self.written = 0

    def boot(self) -> int:
        return self.now

    def wall(self) -> int:
        return self.now + 1_000_000 + self.stepped

    def entry(self, visible_in: int) -> HeadEntry:
        self.written += 1
        ref = TipsetRef(self.written, b"%d" % self.written)
        return HeadEntry(len(self.entries) + 1, 1, (), (ref,), ref, None, self.wall() + visible_in)

    async def head_tail(self, limit: int = 1) -> Tail:
        if self.failing:
            raise StoreUnavailable("no")
        return Tail(tuple(self.entries[-limit:]), self.prepared, (1, 1), self.unstamped)

    async def head_entries(self, after: int, limit: int = 1000) -> list[HeadEntry]:
        return self.entries[after : after + limit]

    async def clock_ms(self) -> int:
        if self.failing:
            raise StoreUnavailable("no")
        self.now += self.round_trip // 2
        read = self.now + 1_000_000 + self.store_ahead
        self.now += self.round_trip - self.round_trip // 2
        return read

    def heads(self) -> SharedStoreHeads:
        """A follower's heads over this log; nothing reads unless it is told to."""
        index = cast("ChainIndex", Index())
        return SharedStoreHeads(self, index, DELTA, EPSILON, now=self.boot, wall=self.wall)


async def measure(world: World, every: list[SharedStoreHeads]) -> None:
    """All at the same moment."""
    began = world.now
    for heads in every:
        world.now = began
        try:
            await heads.measure()
        except StoreUnavailable:
            assert world.failing


async def happen(step: tuple[str, int], world: World, every: list[SharedStoreHeads]) -> None:
    """One step, to the world and to every follower."""
    name, value = step
    if name == "later":
        world.now += value
    elif name == "our clock steps":
        world.stepped += value
    elif name == "the store's clock steps":
        world.store_ahead += value
    elif name == "a new entry":
        world.entries.append(world.entry(value))
        world.unstamped, world.prepared = None, False
    elif name == "an entry is prepared":
        world.unstamped, world.prepared = world.entry(value), True
    elif name == "a backup is restored":
        del world.entries[max(1, len(world.entries) - 1 - value) :]
        world.unstamped, world.prepared = None, False
    elif name == "the store fails":
        world.failing = value > 0
    elif name == "measure":
        world.round_trip = value
        await measure(world, every)
    else:
        for heads in every:
            await heads._read()


#: what ends all service is rare, or nothing else would be seen
STEPS = st.one_of(
    *[st.tuples(st.just("read"), st.just(0))] * 4,
    *[st.tuples(st.just("later"), st.integers(1, 3 * EPSILON))] * 4,
    *[st.tuples(st.just("measure"), st.integers(0, 2))] * 2,
    *[st.tuples(st.just("a new entry"), st.integers(-5 * EPSILON, DELTA))] * 2,
    *[st.tuples(st.just("an entry is prepared"), st.integers(-5 * EPSILON, DELTA))] * 2,
    *[st.tuples(st.just("our clock steps"), st.integers(-EPSILON, EPSILON))] * 2,
    st.tuples(st.just("later"), st.sampled_from([DELTA, MAX_AGE_MS - DELTA, MAX_AGE_MS - 1, MAX_AGE_MS])),
    st.tuples(st.sampled_from(["our clock steps", "the store's clock steps"]), st.integers(-25, 25)),
    st.tuples(st.just("a backup is restored"), st.integers(0, 3)),
    st.tuples(st.just("the store fails"), st.integers(0, 1)),
    st.tuples(st.just("measure"), st.integers(2, 2 * EPSILON + 2)),
)


async def asked(heads: SharedStoreHeads) -> Head | None:
    """As a request asks, but without waiting."""
    found = heads.peek()
    if found is None and (entry := heads._servable()) is not None:
        found = await heads.newest.of(entry)
    return found


async def compare(steps: list[tuple[str, int]]) -> None:
    world = World()
    short, whole = world.heads(), world.heads()
    world.entries.append(world.entry(-DELTA))
    await measure(world, [short, whole])
    for step in [("read", 0), *steps]:
        await happen(step, world, [short, whole])
        for _ in range(2):
            whole._standing = None
            told, rule = await asked(short), await asked(whole)
            assert (told and (told.seq, told.tipset.key)) == (rule and (rule.seq, rule.tipset.key)), step
    await short.close()
    await whole.close()


@settings(max_examples=300)
@given(st.lists(STEPS, min_size=10, max_size=50))
def test_a_short_look_tells_what_the_rule_tells(steps: list[tuple[str, int]]) -> None:
    asyncio.run(compare(steps))


async def test_a_head_stands_until_another_may_be_served() -> None:
    for moment in range(1, DELTA - EPSILON):
        read = ("read", 0)
        await compare(
            [("a new entry", moment), read, *[("later", 1)] * (DELTA + EPSILON), read, *[("later", 1)] * DELTA]
        )


async def test_a_head_stands_no_more_when_our_clock_goes_back_to_its_moment() -> None:
    for later, back in product(range(2 * EPSILON), range(2 * EPSILON)):
        passed = ("later", EPSILON + later)
        await compare([("a new entry", 0), passed, ("read", 0), ("our clock steps", -back), ("later", 1)])


async def test_the_rule_is_asked_once_between_two_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    heads = world.heads()
    world.entries.append(world.entry(-DELTA))
    await measure(world, [heads])
    await heads._read()
    first = await asked(heads)
    rule, calls = HeadWindow.head, 0

    def counted(window: HeadWindow, now: int, wall: int) -> Any:
        nonlocal calls
        calls += 1
        return rule(window, now, wall)

    monkeypatch.setattr(HeadWindow, "head", counted)
    for _ in range(DELTA - EPSILON - 3):
        world.now += 1
        assert heads.peek() is first
        assert await heads.current() is first
    assert calls == 1
    await heads._read()
    assert heads.peek() is first
    assert calls == 2
    await heads.close()
