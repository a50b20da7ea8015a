"""A source that is slow, or says nothing, is not waited for. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from blockstore.cid import cid_of
from leader_bridge.sync.gather_most import ALL_SECONDS, gather_most
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.sources.response_times import ResponseTimes
from leader_bridge.sync.sources.source import Answer, NotHeldThere, ObjectWork, Work
from rpc.server.ranges.wire import Offer
from tests.support.virtual_time import run_virtual

DATA = {cid_of(data): data for data in (bytes([0x19, number >> 8, number & 255]) for number in range(400))}
CIDS = list(DATA)


class TimedSource:
    """Answers after so many seconds; None: never. `lacks`: it says that it holds nothing."""

    votes = True
    most_objects = 256

    def __init__(
        self, name: str, seconds: float | None, *, lacks: bool = False, requests_per_second: int = 1000
    ) -> None:
        self.name = name
        self.seconds = seconds
        self.lacks = lacks
        self.requests_per_second = requests_per_second
        self.asked: list[float] = []
        self.most_at_once = self._at_once = 0

    async def offer(self) -> Offer:
        return Offer({}, ())

    async def close(self) -> None:
        return

    async def ask(self, work: Work) -> Answer:
        self.asked.append(asyncio.get_running_loop().time())
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if self.seconds is None:
                await asyncio.Event().wait()
            await asyncio.sleep(self.seconds or 0)
        finally:
            self._at_once -= 1
        if self.lacks:
            raise NotHeldThere(self.name)
        assert isinstance(work, ObjectWork)
        return Answer({cid: DATA[cid] for cid in work.cids}, size=3 * len(work.cids))


async def ask_all(sources: list[TimedSource], requests: int) -> float:
    """Seconds for so many requests, two a source at once."""
    loop = asyncio.get_running_loop()
    pool = Pool(sources, in_all=10_000, per_source=1000)
    numbers = iter(range(requests))

    async def work() -> None:
        for number in numbers:
            found = await pool.objects([CIDS[number]])
            assert list(found.found) == [CIDS[number]]

    async with pool.running():
        began = loop.time()
        await asyncio.gather(*(work() for _ in range(2 * len(sources))))
        return loop.time() - began


@pytest.mark.parametrize(("bad", "most"), [(1, 2.5), (2, 3.5), (3, 9.0)])
def test_sources_that_say_nothing_cost_little_time_and_get_one_request_each(bad: int, most: float) -> None:
    sources = [TimedSource(f"bad {n}", None) for n in range(bad)]
    sources += [TimedSource(f"good {n}", 0.1) for n in range(4 - bad)]
    took = run_virtual(ask_all(sources, 60))
    assert 0.99 * 60 * 0.1 / (4 - bad) <= took < most + 60 * 0.1 / (4 - bad)
    assert [len(one.asked) for one in sources[:bad]] == [1] * bad
    assert max(one.most_at_once for one in sources) == 1


def test_where_all_are_slow_nothing_is_asked_twice_but_at_the_beginning() -> None:
    sources = [TimedSource(f"slow {n}", 4.0) for n in range(4)]
    run_virtual(ask_all(sources, 80))
    assert sum(len(one.asked) for one in sources) <= 80 + 8


def test_one_that_holds_nothing_is_asked_once_for_a_slow_request() -> None:
    sources = [TimedSource("slow", 60.0), TimedSource("empty", 0.1, lacks=True)]
    took = run_virtual(ask_all(sources, 1))
    assert 60 <= took < 61
    assert len(sources[1].asked) <= 2


def test_no_second_holds_more_requests_to_a_source_than_it_allows_while_one_says_nothing() -> None:
    sources = [TimedSource("bad", None, requests_per_second=4)]
    sources += [TimedSource(f"good {n}", 0.05, requests_per_second=4) for n in range(3)]
    took = run_virtual(ask_all(sources, 120))
    # three good ones need 9 s for it at least
    assert took < 1.15 * 120 / 12 + 1
    for one in sources:
        for at, first in enumerate(one.asked):
            assert sum(first <= other < first + 1 for other in one.asked[at:]) <= 4


def test_a_request_is_slow_after_three_times_what_nine_of_ten_need() -> None:
    times = ResponseTimes()
    assert times.slow_seconds("objects") == 1.0
    for number in range(64):
        times.add("objects", 30.0 if number % 20 == 0 else 1.0)
    # a few very slow ones say nothing of the others
    assert times.slow_seconds("objects") == 3.0
    assert times.slow_seconds("headers") == 1.0
    for _ in range(64):
        times.add("objects", 0.01)
    assert times.slow_seconds("objects") == 0.5


async def _told(seconds: float, value: int | None) -> int | None:
    await asyncio.sleep(seconds)
    return value


@pytest.mark.parametrize(
    ("works", "found", "seconds"),
    [
        # the fourth has as long again as the three needed
        ([(1.0, 1), (1.0, 2), (1.0, 3), (99.0, 4)], {1, 2, 3}, 2.0),
        ([(1.0, 1), (1.0, 2), (1.0, 3), (1.9, 4)], {1, 2, 3, 4}, 1.9),
        ([(0.1, 1), (0.1, 2), (0.1, 3), (0.5, 4)], {1, 2, 3, 4}, 0.5),
        # two of four are no majority: the others have their time
        ([(0.1, 1), (0.1, 2), (9.0, 3), (99.0, 4)], {1, 2, 3}, 18.0),
        ([(0.1, 1), (0.1, 2), (99.0, 3), (99.0, 4)], {1, 2}, ALL_SECONDS),
        # one that failed tells nothing, and is no reason to leave others out
        ([(0.1, 1), (0.1, None), (3.0, 3)], {1, 3}, 3.0),
        ([(0.1, 1), (3.0, 2)], {1, 2}, 3.0),
        ([], set(), 0.0),
    ],
)
def test_most_are_waited_for_and_a_few_are_not(
    works: list[tuple[float, int | None]], found: set[int], seconds: float
) -> None:
    async def gather() -> tuple[dict[str, int], float, int]:
        asked: dict[str, Coroutine[Any, Any, int | None]] = {f"{n}": _told(*one) for n, one in enumerate(works)}
        began = asyncio.get_running_loop().time()
        told = await gather_most(asked)
        return told, asyncio.get_running_loop().time() - began, len(asyncio.all_tasks())

    told, took, tasks = run_virtual(gather())
    assert set(told.values()) == found
    assert took == pytest.approx(seconds, abs=0.01)
    assert tasks == 1


def test_a_fault_of_the_pool_ends_what_waits_and_is_told() -> None:
    async def run() -> None:
        pool = Pool([TimedSource("one", 0.1)], in_all=10, per_source=10)

        def fails() -> None:
            raise ZeroDivisionError("a fault of the program")

        with pytest.raises(ZeroDivisionError, match="a fault of the program"):
            async with pool.running(), asyncio.timeout(60):
                await pool.objects([CIDS[0]])
                pool._find_sources = fails  # type: ignore[method-assign]
                await pool.objects([CIDS[1]])

    run_virtual(run())
