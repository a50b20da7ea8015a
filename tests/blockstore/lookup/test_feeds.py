"""The eleven cases of LongEarth's own tests, on a virtual clock: seconds to one tick of 50 ms, and no more reads."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest

from blockstore.lookup import MOST_IN_FLIGHT, long_earth, one_by_one
from blockstore.probes import LATER
from tests.blockstore.lookup.feed import Epoch, FeedStep, FeedStore, Find, look_up, next_level
from tests.support.virtual_time import run_virtual

DAY = 24 * 3600
YEAR = 365 * DAY
MONTH = 30 * DAY
NOW = 1533903729
TICK = 0.05

parallel = partial(long_earth, head_start=0.25)
uncapped = partial(long_earth, head_start=0.25, most_in_flight=1000)
endless = partial(long_earth, head_start=math.inf)


class Question(NamedTuple):
    """What is asked: the store, the time, the hint, and the time of the update that is the answer."""

    store: FeedStore
    now: int
    hint: Epoch | None
    answer: int | None


def empty() -> Question:
    return Question(FeedStore(), NOW, None, None)


def monthly(back: int = 0, *, with_hint: bool = False) -> Question:
    """Twelve updates, one a month, three years ago. `back`: seconds after the first one; 0: now."""
    store, last, now = FeedStore(), None, 1533799046
    for month in range(12):
        last = store.update(last, now - 3 * YEAR + month * MONTH)
    at = now - 3 * YEAR + back if back else now
    return Question(store, at, last if with_hint else None, at if back else now - 3 * YEAR + 11 * MONTH)


def one_at_0() -> Question:
    store = FeedStore()
    store.update(None, 0)
    return Question(store, NOW, None, 0)


def bad_hint() -> Question:
    store = FeedStore()
    store.update(None, 1200, 79)
    return Question(store, NOW, Epoch(1200000000, 18), 79)


def bad_hint_beside_updates() -> Question:
    store, last = FeedStore(), None
    for second in range(5):
        last = store.update(last, 1200000000 + second, second)
    return Question(store, NOW, Epoch(1200000005, 20), 4)


def each_second(*, with_hint: bool = False) -> Question:
    store, last = FeedStore(), None
    for second in range(995):
        last = store.update(last, NOW - 1000 + second)
    newest = NOW - 1000 + 994
    return Question(store, NOW if with_hint else newest, last if with_hint else None, newest)


def sparse(*, with_hint: bool = False) -> Question:
    store, last = FeedStore(), None
    for burst in range(3):
        for second in range(10):
            last = store.update(last, 5 * YEAR * burst + second)
    return Question(store, 633799046, last if with_hint else None, 10 * YEAR + 9)


class Case(NamedTuple):
    """Seconds and reads: of the serial search, and of the original where it asks ahead without a cap."""

    name: str
    made: Callable[[], Question]
    serial: tuple[float, int] | None
    original: tuple[float, int, int]


CASES = [
    Case("empty", empty, (1.0, 1), (1.05, 10, 10)),
    Case("monthly", monthly, (10.25, 15), (4.55, 69, 19)),
    Case("monthly, hint", partial(monthly, with_hint=True), (4.75, 5), (2.35, 45, 23)),
    Case("monthly, intermediate", partial(monthly, 6 * MONTH), None, (2.30, 19, 6)),
    Case("one update at 0", one_at_0, (2.65, 3), (1.55, 21, 15)),
    Case("bad hint", bad_hint, (12.1, 12), (5.40, 113, 26)),
    Case("bad hint beside updates", bad_hint_beside_updates, None, (6.15, 114, 26)),
    Case("an update each second", each_second, (17.6, 32), (8.30, 67, 6)),
    Case("an update each second, hint", partial(each_second, with_hint=True), (2.65, 3), (1.30, 13, 12)),
    Case("sparse", sparse, (15.6, 21), (6.05, 113, 19)),
    Case("sparse, hint", partial(sparse, with_hint=True), (9.0, 9), (3.35, 91, 26)),
]


def measured(find: Find, question: Question) -> tuple[float, FeedStore]:
    """Seconds that a look-up takes; the store with its counts. The answer is checked."""

    async def run() -> float:
        found = await look_up(find, question.store, question.now, question.hint)
        assert found == question.answer
        return asyncio.get_running_loop().time()

    return run_virtual(run()), question.store


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_eleven_cases(case: Case) -> None:
    seconds, reads, most = case.original
    took, store = measured(parallel, case.made())
    assert took <= seconds + TICK + 1e-9
    assert store.reads <= reads
    assert store.most_in_flight <= MOST_IN_FLIGHT
    # without the cap it does what the original does, read for read
    took, store = measured(uncapped, case.made())
    assert took == pytest.approx(seconds)
    assert (store.reads, store.most_in_flight) == (reads, most)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_endless_head_start_is_the_serial_search(case: Case) -> None:
    took, store = measured(one_by_one, case.made())
    if case.serial is not None:
        assert took == pytest.approx(case.serial[0], abs=TICK + 1e-9)
        assert store.reads == case.serial[1]
    assert store.most_in_flight == 1
    same, other = measured(endless, case.made())
    assert same == pytest.approx(took)
    assert (other.reads, other.most_in_flight) == (store.reads, 1)


@pytest.mark.parametrize("made", [monthly, each_second, sparse])
@pytest.mark.parametrize("find", [parallel, one_by_one])
def test_a_hint_is_never_slower(find: Find, made: Callable[..., Question]) -> None:
    assert measured(find, made(with_hint=True))[0] <= measured(find, made())[0]


@pytest.mark.parametrize("find", [parallel, one_by_one])
def test_each_of_eleven_updates_is_found_at_its_own_time(find: Find) -> None:
    store = each_second().store
    for second in range(11):
        now = NOW - 1000 + second
        measured(find, Question(store, now, None, now))


def test_the_next_level() -> None:
    last = Epoch(1533799046, 5)
    assert next_level(last, last.time) == 4
    assert next_level(last, last.time + (1 << 31) + 3000) == 31
    assert next_level(last, last.time + (1 << 5)) == 5
    assert next_level(Epoch(last.time, 0), last.time) == 0


@pytest.mark.parametrize("find", [parallel, one_by_one])
def test_cancelling_a_blocking_read(find: Find) -> None:
    async def blocks(key: tuple[int, int]) -> bool:
        await asyncio.Event().wait()
        return False

    async def run() -> None:
        task = asyncio.create_task(find(FeedStep(1200000000, Epoch(0, 63)), blocks))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(run())


@pytest.mark.parametrize("find", [parallel, one_by_one])
def test_cancelling_while_the_hint_is_read(find: Find) -> None:
    hint = Epoch(300, 25)

    class Blocks(FeedStore):
        async def read(self, now: int, key: tuple[int, int]) -> bool:
            if key == hint.key:
                await asyncio.Event().wait()
            return False

    async def run() -> None:
        task = asyncio.create_task(look_up(find, Blocks(), 301, hint))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(run())


@pytest.mark.parametrize("find", [parallel, one_by_one])
def test_a_read_that_says_later_is_no_miss(find: Find) -> None:
    """The original took a time-out for "not there", and so did not find what is."""
    question = monthly()

    async def run() -> None:
        said: set[tuple[int, int]] = set()

        async def read(key: tuple[int, int]):  # type: ignore[no-untyped-def]
            if key not in said:
                said.add(key)
                return LATER
            return await question.store.read(question.now, key)

        found = await find(FeedStep(question.now, Epoch(0, 63)), read)
        assert found is not None
        assert question.store.data[found.key] == question.answer

    run_virtual(run())
