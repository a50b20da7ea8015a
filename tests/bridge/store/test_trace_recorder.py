"""The recorder of traces: what it asks of the node, and when."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from blockstore.store import HeadEntry, TipsetRef
from chain.index.coverage import covered
from chain.index.recorded_answers import TRACES_INDEX
from leader_bridge.store.traces import Moved, traces_of
from rpc.node_errors import CallFailed, NodeTimeout
from tests.support.bridge.trace_bench import Bench, made_trace, until_idle


async def test_a_heads_parent_is_recorded_before_the_head_is_published() -> None:
    bench = Bench()
    await bench.grow(3)
    async with bench.work() as traces:
        await until_idle(traces)
        assert await bench.recorded() == [1]
        new = await bench.grow(1)
        traces.ask(new, None)
        await traces.settle()
        assert await bench.recorded() == [1, 2]
    assert await covered(bench.chain.store, TRACES_INDEX) == [(0, 2)]


async def test_a_slow_node_holds_no_head_up_and_is_not_forgotten() -> None:
    bench = Bench(publish_wait_seconds=0.01)
    await bench.grow(3)
    async with bench.work() as traces:
        await until_idle(traces)
        bench.node.wait = 3600
        traces.ask(await bench.grow(1), None)
        async with asyncio.timeout(10):
            await traces.settle()
        assert await bench.recorded() == [1]
    # the next connection finds what is missing
    bench.node.wait = 0
    async with bench.work() as traces:
        await until_idle(traces)
        assert await bench.recorded() == [1, 2]


async def test_what_failed_is_asked_for_again() -> None:
    bench = Bench()
    await bench.grow(3)
    async with bench.work() as traces:
        await until_idle(traces)
        bench.node.error = NodeTimeout("no answer")
        before = len(bench.node.asked)
        traces.ask(await bench.grow(1), None)
        await traces.settle()
        await bench.node.until_asked(before + 2)
        bench.node.error = None
        await until_idle(traces)
        assert await bench.recorded() == [1, 2]


async def test_a_node_that_refuses_is_left_alone() -> None:
    bench = Bench()
    await bench.grow(40)
    bench.node.error = CallFailed(1, "module disabled, enable with Fevm.EnableEthRPC")
    async with bench.work() as traces:
        await bench.node.until_asked(8)
        traces.ask(await bench.grow(1), None)
        await traces.settle()
        await traces.settle()
    assert len(bench.node.asked) == 8
    assert await bench.recorded() == []


async def test_the_past_is_walked_and_what_is_older_removed() -> None:
    bench = Bench(lookback=10)
    await bench.grow(40)
    async with bench.work() as traces:
        await until_idle(traces)
        top = bench.tipsets[-1].height
        assert await bench.recorded() == [t.height for t in bench.tipsets if top - 10 <= t.height < top]
        assert sorted(bench.node.asked) == await bench.recorded()
        new = await bench.grow(30)
        traces.ask(new, None)
        await until_idle(traces)
        top = new[-1].height
        assert await bench.recorded() == [t.height for t in bench.tipsets if top - 10 <= t.height < top]
        ((low, high),) = await covered(bench.chain.store, TRACES_INDEX)
        assert (top - 10, bench.tipsets[-2].height) == (low, high)
    # a longer look-back fills what was removed, a shorter one removes it again
    for lookback in (25, 5):
        bench.lookback = lookback
        async with bench.work() as traces:
            await until_idle(traces)
            assert await bench.recorded() == [t.height for t in bench.tipsets if top - lookback <= t.height < top]


async def test_reverted_epochs_are_covered_no_more() -> None:
    bench = Bench()
    await bench.grow(9)
    async with bench.work() as traces:
        await until_idle(traces)
        high = bench.tipsets[-2].height
        assert await covered(bench.chain.store, TRACES_INDEX) == [(0, high)]
        common = bench.tipsets[-5]
        bench.tipsets = bench.tipsets[:-4]
        fork = [await bench.chain.add(common, common.height + 1, salt=7)]
        bench.tipsets.append(fork[0])
        bench.node.tipsets[fork[0].height] = fork[0]
        bench.head = HeadEntry(2, 1, (), (), TipsetRef(fork[0].height, fork[0].key))
        traces.ask([*fork], common.height)
        await traces.settle()
        await until_idle(traces)
        assert await covered(bench.chain.store, TRACES_INDEX) == [(0, common.height)]


async def test_traces_of_another_tipset_are_not_ours() -> None:
    bench = Bench()
    await bench.grow(3)
    ours, node = bench.tipsets[1], bench.node
    client: Any = node
    assert await traces_of(client, ours) == [made_trace(ours)]
    node.empty.add(1)
    assert await traces_of(client, ours) == []
    node.tipsets[1] = await bench.chain.add(bench.tipsets[0], 1, salt=9)
    with pytest.raises(Moved, match="the node has 0x"):
        await traces_of(client, ours)
    node.empty.clear()
    with pytest.raises(Moved, match="traced another tipset"):
        await traces_of(client, ours)
