"""A follower that nobody asks reads the head row less often, and is ready all the same."""

from __future__ import annotations

import asyncio

from follower.shared_store_heads import SharedStoreHeads
from tests.follower.test_shared_store_heads import Clock, Log
from tests.support.made_chain import MadeChain
from tests.support.virtual_time import run_virtual, virtual_ms


async def started(clock_ahead: int = 0) -> tuple[Log, SharedStoreHeads]:
    """A log of one entry, and what has read it for three seconds."""
    chain = MadeChain()
    tipset = await chain.add(None, 0)
    clock = Clock()
    log = Log(clock)
    clock.wall = lambda: 1_000_000 + clock_ahead + virtual_ms()  # type: ignore[method-assign]
    log.add(tipset, -1000)
    heads = SharedStoreHeads(log, chain.services().index, 500, 50, now=virtual_ms, wall=clock.wall)
    heads.start()
    await asyncio.sleep(3)
    return log, heads


def test_an_idle_follower_reads_less_and_has_a_head_to_serve_all_the_time() -> None:
    async def run(asks: bool) -> tuple[int, int]:
        """Reads in ten seconds, and how often there was no head to serve."""
        log, heads = await started()
        before, lacking = log.reads, 0
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if asks:
                await heads.current()
            # a balancer that looks at it does not make it busy
            assert (await heads.check()).ok
            assert await heads.last_head() is not None
            lacking += heads._servable() is None
        await heads.close()
        return log.reads - before, lacking

    assert run_virtual(run(True))[0] in range(75, 85)
    idle, lacking = run_virtual(run(False))
    assert idle in range(20, 32)
    assert not lacking


def test_a_request_to_an_idle_follower_waits_for_one_read() -> None:
    async def run() -> float:
        log, heads = await started()
        # the last reads failed, or took too long
        log.failing = True
        while heads._servable() is not None:
            await asyncio.sleep(0.001)
        log.failing = False
        loop = asyncio.get_running_loop()
        began = loop.time()
        await heads.current()
        await heads.close()
        return loop.time() - began

    assert run_virtual(run()) < 0.05


def test_idle_followers_read_at_the_same_moments() -> None:
    """Whenever they were started, and each as its own clock tells the time."""
    apart = 8

    async def run() -> list[list[int]]:
        times: list[list[int]] = []
        heads = []
        for number in range(3):
            log, one = await started(apart if number == 1 else 0)
            heads.append(one)
            await asyncio.sleep(0.111)
            times.append([])

            async def head_tail(limit: int = 1, *, read=log.head_tail, seen=times[-1]):  # type: ignore[no-untyped-def]
                seen.append(virtual_ms())
                return await read(limit)

            log.head_tail = head_tail  # type: ignore[method-assign]
        for seen in times:
            seen.clear()
        await asyncio.sleep(10)
        for one in heads:
            await one.close()
        return times

    first, second, third = run_virtual(run())
    assert len(first) in range(26, 30)
    for at, other, same in zip(first, second, third, strict=True):
        assert abs(at - other) <= apart + 3
        assert abs(at - same) <= 3
