"""The offset to the store's clock: known only as well as it was measured."""

from __future__ import annotations

import random

import pytest

from blockstore.errors import StoreUnavailable
from blockstore.store_clock import MAX_AGE_MS, ClockOff, Offset, StoreClock

EPSILON = 50


class World:
    """Our two clocks and the store's, in milliseconds, and the time that requests take on their way."""

    def __init__(self) -> None:
        self.now = 5_000
        self.ahead = 0
        self.store_ahead = 0
        self.out = self.back = 1
        self.is_failing = False
        self.reads = 0
        self.clock = StoreClock(self.read, EPSILON, lambda: self.now + 10**12 + self.ahead, lambda: self.now)

    async def read(self) -> int:
        self.reads += 1
        self.now += self.out
        store = self.now + 10**12 + self.store_ahead
        self.now += self.back
        if self.is_failing:
            raise StoreUnavailable("no")
        return store


@pytest.fixture
def world() -> World:
    return World()


def test_offsets() -> None:
    for offset, within, beyond in (
        (Offset(-10, 50), True, False),
        (Offset(-10, 51), False, False),
        (Offset(-51, 10), False, False),
        (Offset(51, 500), False, True),
        (Offset(-500, -51), False, True),
    ):
        assert (offset.is_within(EPSILON), offset.is_beyond(EPSILON)) == (within, beyond)


async def test_bounds_hold_whatever_the_network_does(world: World) -> None:
    rng = random.Random(3)
    for _ in range(300):
        world.store_ahead = rng.choice([world.store_ahead] * 5 + [rng.randint(-100, 100)])
        world.out, world.back = rng.choice([0, 1, 20, 200]), rng.choice([0, 1, 20, 200])
        world.now += rng.randint(0, 3_000)
        await world.clock.measure()
        offset = world.clock.offset
        assert offset is not None
        # after a step of the store's clock older readings may still seem to agree, within the newest one's round trip
        wrong_ms = max(offset.low - world.store_ahead, world.store_ahead - offset.high)
        assert wrong_ms <= world.out + world.back + 2
        assert world.clock.is_accurate == offset.is_within(EPSILON)


async def test_one_fast_reading_serves_for_a_while_and_not_for_ever(world: World) -> None:
    await world.clock.measure()
    world.out = world.back = 200
    for _ in range(20):
        world.now += 300
        await world.clock.measure()
        assert world.clock.is_accurate
    for _ in range(20):
        world.now += 300
        await world.clock.measure()
    assert world.now > 5_000 + MAX_AGE_MS
    assert not world.clock.is_accurate


async def test_readings_that_fail_leave_the_last_one_to_grow_old(world: World) -> None:
    await world.clock.measure()
    world.is_failing = True
    for _ in range(MAX_AGE_MS // 1000):
        assert world.clock.is_accurate
        world.now += 1_000
        with pytest.raises(StoreUnavailable):
            await world.clock.measure()
    assert not world.clock.is_accurate
    assert "was not read for 15 s" in world.clock.text


async def test_who_must_be_right_measures_again_where_it_cannot_be_told(world: World) -> None:
    world.out = world.back = 200
    with pytest.raises(ClockOff, match="give or take 20"):
        await world.clock.require_accurate()
    assert world.reads == 5
    world.out = world.back = 1
    await world.clock.require_accurate()
    assert world.reads == 6
    # what is certainly off is not asked again
    world.store_ahead = 500
    with pytest.raises(ClockOff, match=r"\+500 ms"):
        await world.clock.require_accurate()
    assert world.reads == 7
