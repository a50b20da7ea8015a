"""Walks share the event loop: one slice a turn, in order, for all of them together."""

from __future__ import annotations

import asyncio
from collections import Counter
from time import perf_counter

import pytest

from rpc.context import Context
from rpc.errors import TimeBudgetExceeded
from rpc.pacer import LoopPacer
from tests.support.wire_node import services


class Turns:
    """Counts the turns of the loop."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._next()

    def _next(self) -> None:
        self.count += 1
        self._handle = self._loop.call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


async def test_one_slice_a_turn_however_many_walk() -> None:
    pacer = LoopPacer(slice_seconds=0.0)
    turns = Turns()
    granted: list[tuple[int, int]] = []

    async def walk(name: int) -> None:
        for _ in range(20):
            await pacer.turn()
            granted.append((turns.count, name))

    await asyncio.gather(*(walk(name) for name in range(8)))
    turns.stop()
    assert max(Counter(turn for turn, _ in granted).values()) == 1
    # first come, first served: nobody gets far ahead (who comes first has two turns before the last has come)
    done: Counter[int] = Counter()
    for _, name in granted:
        done[name] += 1
        assert max(done.values()) - min(done[n] for n in range(8)) <= 2
    assert pacer.waiting == 0


async def test_a_checkpoint_within_the_slice_does_not_suspend() -> None:
    ctx = Context(services())
    await ctx.checkpoint()
    ctx.services.pacer.slice_end = perf_counter() + 60
    turns = Turns()
    before = turns.count
    for _ in range(1000):
        await ctx.checkpoint()
    assert turns.count == before
    ctx.services.pacer.slice_end = 0.0
    await ctx.checkpoint()
    assert turns.count > before
    turns.stop()


async def test_a_cancelled_walk_passes_its_slice_on() -> None:
    pacer = LoopPacer(slice_seconds=0.0)
    first = asyncio.create_task(pacer.turn())
    second = asyncio.create_task(pacer.turn())
    await pacer.turn()
    await asyncio.sleep(0)
    assert pacer.waiting == 1
    # promised to the first, which has not run yet
    first.cancel()
    async with asyncio.timeout(20):
        await second
        await pacer.turn()
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_request_beyond_its_time_ends_at_a_checkpoint() -> None:
    ctx = Context(services())
    ctx.time_budget_seconds = 0.0
    with pytest.raises(TimeBudgetExceeded):
        for _ in range(1_000_000):
            await ctx.checkpoint()
            ctx.services.pacer.slice_end = 0.0


def test_services_may_move_to_another_loop() -> None:
    ctx = Context(services())

    async def walk() -> None:
        for _ in range(10):
            ctx.services.pacer.slice_end = 0.0
            await ctx.checkpoint()

    for _ in range(3):
        asyncio.run(asyncio.wait_for(walk(), 20))
