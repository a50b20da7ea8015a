"""Three full nodes of which some fail: reads stay right and are answered, writes are never sent twice.

`python -m tests.forwarding.test_faulty_nodes` prints response times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from devnode.replay import ReplayNode
from follower.forwarding.route import Times
from tests.forwarding.nodes import Fleet, chance, fleet, in_parallel, percentile

SLOW_SECONDS = 0.2


async def _dead(one: Fleet) -> None:
    await one.nodes[0].stop()


async def _slow(one: Fleet) -> None:
    one.nodes[1].faults.delay_seconds = SLOW_SECONDS


async def _none(one: Fleet) -> None:
    return None


async def _dead_and_slow(one: Fleet) -> None:
    await _dead(one)
    await _slow(one)


Case = tuple[str, tuple[int, ...], Callable[[Fleet], Awaitable[None]]]

#: name, how far each node is behind, what goes wrong
CASES: tuple[Case, ...] = (
    ("healthy", (0, 0, 0), _none),
    ("one dead", (0, 0, 0), _dead),
    ("one slow", (0, 0, 0), _slow),
    ("one behind", (0, 0, 5), _none),
    ("one dead, one slow", (0, 0, 0), _dead_and_slow),
    ("one dead, one slow, one behind", (0, 0, 5), _dead_and_slow),
)


SHORT = [pytest.param(*case, id=case[0]) for case in CASES[-1:]]
LONG = [pytest.param(*case, id=case[0], marks=pytest.mark.long) for case in CASES if case not in CASES[-1:]]


async def _read_all(one: Fleet, count: int) -> list[float]:
    watching = asyncio.create_task(one.route.watch(0.2))
    try:
        # what a process learns in its first second
        await in_parallel(lambda number: one.read(10_000 + number), 16, 4)
        return await in_parallel(one.read, count, 4)
    finally:
        watching.cancel()


@pytest.mark.parametrize(("name", "lag", "break_nodes"), SHORT + LONG)
async def test_no_read_fails_and_none_is_of_another_head(
    name: str, lag: tuple[int, ...], break_nodes: Callable[[Fleet], Awaitable[None]]
) -> None:
    async with fleet(lag=lag) as one:
        await break_nodes(one)
        await _read_all(one, 40)
        assert (one.failed, one.wrong) == ([], [])
        asked = [sum(behind.asked.values()) for behind in one.behind]
        if lag[2]:
            assert asked[2] == 0, "a node behind was asked about the head"
            # what it holds it answers
            older = await one.nodes[0].index.at_height(one.head, one.nodes[2].head.height)
            watching = asyncio.create_task(one.route.watch(0.2))
            await in_parallel(lambda number: one.read(2 * number + 1, older), 40, 4)
            watching.cancel()
            assert (one.failed, one.wrong) == ([], [])
            if break_nodes is _dead_and_slow:
                assert one.behind[2].asked["Filecoin.StateCall"] > 20
        if break_nodes is _slow:
            # how many a slow node gets is no question of this machine's speed: it is ranked behind the others
            assert asked[1] < sum(asked) / 4, asked


async def test_reads_wait_for_a_node_that_catches_up() -> None:
    async with fleet(count=1, lag=(3,)) as one:
        reading = asyncio.create_task(one.read(1))
        await asyncio.sleep(0.3)
        assert not reading.done()
        one.nodes[0].advance(3)
        await reading
        assert (one.failed, one.wrong) == ([], [])


async def _push(one: Fleet, number: int) -> str:
    """taken, or the error's text."""
    signed = {"Message": {"Nonce": number}, "Signature": {}}
    try:
        await one.route.call("Filecoin.MpoolPush", [signed])
    except Exception as error:
        return str(error)
    return "taken"


async def _push_during_failures(count: int) -> None:
    async with fleet(times=Times(quick=2.0)) as one:
        luck = chance(18)

        def cut(node: ReplayNode) -> None:
            # just after it has taken one: its answer is lost
            if luck.random() < 0.03:
                node.drop_connections()

        for behind, node in zip(one.behind, one.nodes, strict=True):
            behind.on_write = partial(cut, node)

        async def break_nodes() -> None:
            while True:
                node = luck.choice(one.nodes)
                fault = luck.randrange(4)
                if fault == 0:
                    await node.restart(0.05)
                elif fault == 1:
                    node.drop_connections()
                elif fault == 2:
                    node.faults.status, node.faults.status_every = luck.choice((500, 502, 503)), 2
                    await asyncio.sleep(0.05)
                    node.faults.status = 0
                else:
                    node.half_open()
                    await asyncio.sleep(0.05)
                    node.recover()
                await asyncio.sleep(0.05)

        breaking = asyncio.create_task(break_nodes())
        try:
            outcomes = dict(await in_parallel(lambda number: _with_number(number, _push(one, number)), count, 16))
        finally:
            breaking.cancel()
            await asyncio.gather(breaking, return_exceptions=True)
        taken = sum((behind.taken for behind in one.behind), start=type(one.behind[0].taken)())
        assert [number for number, times in taken.items() if times > 1] == []
        for number, outcome in outcomes.items():
            if outcome == "taken":
                assert taken[str(number)] == 1
            elif taken[str(number)]:
                assert "may have taken it" in outcome, outcome
        by_outcome = {"taken": 0, "unknown": 0, "refused": 0}
        for outcome in outcomes.values():
            by_outcome["taken" if outcome == "taken" else "unknown" if "may have" in outcome else "refused"] += 1
        print(f"{count} pushes: {by_outcome}; taken by a node: {sum(taken.values())}, by two: 0")
        # the faults did happen, and writes got through all the same
        assert by_outcome["unknown"] > 0
        assert by_outcome["taken"] > count / 10


async def _with_number(number: int, pushing: Awaitable[str]) -> tuple[int, str]:
    return number, await pushing


async def test_no_write_is_sent_twice() -> None:
    await _push_during_failures(120)


@pytest.mark.long
async def test_no_write_of_a_thousand_is_sent_twice() -> None:
    await _push_during_failures(1000)


async def _print_times() -> None:
    healthy = 0.0
    for name, lag, break_nodes in CASES:
        async with fleet(lag=lag) as one:
            await break_nodes(one)
            took = await _read_all(one, 1000)
            p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
            healthy = healthy or p99
            print(
                f"{name}: p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms ({p99 / healthy:.2f} of healthy), "
                f"failed {len(one.failed)}, wrong {len(one.wrong)}, hedged {one.route.hedges}"
            )
    await _push_during_failures(1000)


if __name__ == "__main__":
    asyncio.run(_print_times())
