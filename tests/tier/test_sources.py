"""Ranked sources on a clock that jumps: who is asked, who is passed over, and what a second request gains."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from blockstore.errors import StoreError, StoreUnavailable
from blockstore.tier.sources import PROBE_SECONDS, Outcome, RankedSources
from tests.support.virtual_time import run_virtual


class Made:
    """A source that takes `seconds()` and holds what `held` says."""

    def __init__(self, name: str, seconds: Callable[[], float], held: Callable[[int], bool] = lambda key: True) -> None:
        self.name = name
        self.seconds = seconds
        self.held = held
        self.asked = 0
        self.probes = 0
        self.at_once = self.most_at_once = 0
        self.fails = False

    async def read(self, keys: Sequence[int]) -> Sequence[Outcome]:
        self.asked += 1
        await asyncio.sleep(self.seconds())
        if self.fails:
            raise StoreUnavailable(f"{self.name} is gone")
        return [self.name.encode() if self.held(key) else None for key in keys]

    async def probe(self) -> None:
        self.probes += 1
        await asyncio.sleep(self.seconds())
        if self.fails:
            raise StoreUnavailable(f"{self.name} is gone")


async def ask(sources: RankedSources[int], key: int = 0) -> tuple[Outcome, float]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    (found,) = await sources.read([key])
    return found, loop.time() - began


def test_the_fastest_is_asked_and_one_60_times_slower_gets_next_to_nothing() -> None:
    async def work() -> None:
        rng = random.Random(1)
        fast, slow = Made("fast", lambda: rng.uniform(0.005, 0.02)), Made("slow", lambda: 0.75)
        sources = RankedSources[int]([slow, fast])
        await sources.probe_all()
        for _ in range(2000):
            assert (await ask(sources))[0] == b"fast"
        assert slow.asked <= 0.02 * 2000
        assert slow.asked == 0

    run_virtual(work())


def test_unknown_sources_come_behind_known_ones_until_they_are_probed() -> None:
    async def work() -> None:
        known, unknown = Made("known", lambda: 0.2), Made("unknown", lambda: 0.01)
        sources = RankedSources[int]([known, unknown])
        assert (await ask(sources))[0] == b"known"
        assert (await ask(sources))[0] == b"known"
        await sources.probe_all()
        assert (await ask(sources))[0] == b"unknown"

    run_virtual(work())


def test_a_failure_demotes_at_once_for_a_while() -> None:
    async def work() -> None:
        best, other = Made("best", lambda: 0.01), Made("other", lambda: 0.03)
        sources = RankedSources[int]([best, other])
        await sources.probe_all()
        assert (await ask(sources))[0] == b"best"
        best.fails = True
        # the request itself does not fail
        assert (await ask(sources))[0] == b"other"
        asked = best.asked
        for _ in range(20):
            assert (await ask(sources))[0] == b"other"
        assert best.asked == asked
        best.fails = False
        await asyncio.sleep(6)
        assert (await ask(sources))[0] == b"best"

    run_virtual(work())


def test_a_failed_probe_counts() -> None:
    async def work() -> None:
        best, other = Made("best", lambda: 0.01), Made("other", lambda: 0.03)
        sources = RankedSources[int]([best, other])
        await sources.probe_all()
        best.fails = True
        await sources.probe_all()
        assert sources.ranked()[0].source is other
        assert (await ask(sources))[0] == b"other"
        assert best.asked == 0

    run_virtual(work())


def test_cool_downs_grow_and_sources_that_all_failed_are_asked_all_the_same() -> None:
    async def work() -> None:
        only = Made("only", lambda: 0.01)
        sources = RankedSources[int]([only])
        only.fails = True
        for _ in range(3):
            assert isinstance((await ask(sources))[0], StoreError)
        until = sources.standings[0].cooling_until - asyncio.get_running_loop().time()
        assert 15 < until <= 20
        only.fails = False
        assert (await ask(sources))[0] == b"only"

    run_virtual(work())


def test_what_one_lacks_another_gives_and_that_is_no_failure() -> None:
    async def work() -> None:
        first = Made("first", lambda: 0.01, lambda key: key % 2 == 0)
        second = Made("second", lambda: 0.02, lambda key: key % 3 == 0)
        sources = RankedSources[int]([first, second])
        await sources.probe_all()
        assert await sources.read(list(range(6))) == [b"first", None, b"first", b"second", b"first", None]
        assert sources.standings[0].failures == 0
        assert sources.ranked()[0].source is first
        second.fails = True
        # nobody can say that it is absent while a source cannot be asked
        assert isinstance((await sources.read([1]))[0], StoreError)

    run_virtual(work())


def percentile(times: list[float], share: float) -> float:
    return sorted(times)[int(len(times) * share)]


def test_second_requests_halve_the_99th_percentile_of_a_source_with_5_percent_slow_answers() -> None:
    async def measured(count: int, hedged: bool) -> tuple[float, int]:
        rng = random.Random(7)

        def seconds() -> float:
            return rng.uniform(0.008, 0.012) * (10 if rng.random() < 0.05 else 1)

        source = Made("source", seconds)
        sources = RankedSources[int]([source], repeats=True)
        if not hedged:
            sources.standings[0].hedge_delay = lambda: None  # type: ignore[method-assign]
        return percentile([(await ask(sources))[1] for _ in range(count)], 0.99), source.asked

    plain, _ = run_virtual(measured(4000, False))
    hedged, asked = run_virtual(measured(4000, True))
    assert plain > 0.08
    assert hedged < plain / 2
    # one in ten at most
    assert asked < 4000 * 1.1 + 10


def test_a_second_request_goes_to_another_source_that_is_about_as_fast() -> None:
    async def measured(others: Callable[[], float]) -> tuple[float, int, int]:
        rng = random.Random(9)
        slow = Made("now and then slow", lambda: 0.2 if rng.random() < 0.05 else 0.01)
        other = Made("other", others)
        sources = RankedSources[int]([slow, other])
        await sources.probe_all()
        times = [(await ask(sources))[1] for _ in range(2000)]
        return percentile(times, 0.99), slow.asked + other.asked, other.asked

    p99, asked, other = run_virtual(measured(lambda: 0.015))
    assert p99 < 0.1
    assert asked < 2000 * 1.1 + 10
    assert other > 0
    # nobody is asked twice where the other one is far slower
    p99, asked, other = run_virtual(measured(lambda: 5.0))
    assert p99 > 0.19
    assert (asked, other) == (2000, 0)


def test_second_requests_stay_few_where_everything_is_slow_now_and_then() -> None:
    async def work() -> None:
        rng = random.Random(5)
        source = Made("source", lambda: 0.01 if rng.random() < 0.5 else 0.5)
        sources = RankedSources[int]([source], repeats=True)
        for _ in range(1000):
            await ask(sources)
        assert source.asked <= 1000 * 1.1 + 10

    run_virtual(work())


def test_probes_come_each_minute_ten_at_once() -> None:
    async def work() -> None:
        running = most = 0

        class Counted(Made):
            async def probe(self) -> None:
                nonlocal running, most
                running += 1
                most = max(most, running)
                await super().probe()
                running -= 1

        made = [Counted(str(number), lambda: 1.0) for number in range(35)]
        probing = asyncio.create_task(RankedSources[int](made).run())
        await asyncio.sleep(PROBE_SECONDS * 2.9)
        probing.cancel()
        assert most == 10
        assert {one.probes for one in made} == {3}

    run_virtual(work())
