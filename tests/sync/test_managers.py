"""The cases of Harmony's download manager and result queue, cool-downs and source sets, as tables."""

from __future__ import annotations

import pytest

from leader_bridge.sync.downloads import MOST_WAITING, Downloads
from leader_bridge.sync.results import Result, Results
from leader_bridge.sync.sources.cooldowns import LONGEST_SECONDS, STEP_SECONDS, Cooldowns, Pauses
from leader_bridge.sync.sources.source_set import Caps, KnownSource, SourceSet, TooManySources
from leader_bridge.sync.votes import NoMajority, choose_head
from rpc.server.ranges.window import Window

# --- downloads ---------------------------------------------------------------------------------------


def downloads(done: int, retries: set[int]) -> Downloads:
    made = Downloads(done)
    made._retries = sorted(retries)
    return made


@pytest.mark.parametrize(
    ("done", "retries", "size", "batch"),
    [
        (3, {5, 6}, 3, [5, 6, 4]),
        (3, {5, 6}, 5, [5, 6, 4, 7, 8]),
        (3, {6, 5}, 1, [5]),
        (3, set(), 3, [4, 5, 6]),
        (0, {1}, 2, [1, 2]),
        (9, {5}, 2, [10, 11]),
    ],
)
def test_retries_come_before_new_numbers_the_lowest_first(
    done: int, retries: set[int], size: int, batch: list[int]
) -> None:
    made = downloads(done, retries)
    assert made.next_batch(size) == batch
    assert made.requested >= set(batch)


def test_what_failed_is_asked_for_again_once() -> None:
    made = Downloads(3)
    assert made.next_batch(3) == [4, 5, 6]
    made.failed([5, 6])
    made.failed([5, 6])
    assert made.retries == [5, 6]
    assert made.requested == {4}
    assert made.next_batch(4) == [5, 6, 7, 8]


def test_a_result_that_is_too_short_is_missing() -> None:
    made = Downloads(4)
    assert made.next_batch(2) == [5, 6]
    assert made.deliver({5: 3, 6: 1}) == [5]
    assert made.delivered == {5}
    assert made.retries == [6]
    assert made.next_batch(2) == [6, 7]


def test_deliveries_that_were_not_asked_for_or_came_before_are_ignored() -> None:
    made = Downloads(0)
    made.next_batch(2)
    assert made.deliver({1: 9, 7: 9}) == [1]
    assert made.deliver({1: 9}) == []
    made.failed([1])
    assert made.retries == []


def test_nothing_new_is_asked_for_while_too_many_results_wait() -> None:
    made = Downloads(0)
    numbers = made.next_batch(MOST_WAITING + 2)
    made.deliver(dict.fromkeys(numbers[1:-1], 9))
    assert made.next_batch(5) == []
    # what they wait for is asked for even so
    made.failed([1])
    assert made.next_batch(5) == [1]
    made.deliver({1: 9})
    made.release(50)
    assert made.next_batch(2) == [MOST_WAITING + 3, MOST_WAITING + 4]


def test_withdrawn_results_are_asked_for_first_and_released_ones_never_again() -> None:
    made = Downloads(0, 6)
    made.next_batch(6)
    made.deliver(dict.fromkeys(range(1, 5), 9))
    made.release(2)
    made.withdraw([1, 2, 3, 4])
    assert made.next_batch(9) == [3, 4]
    assert not made.is_complete
    made.release(6)
    assert made.is_complete
    assert made.next_batch(9) == []


# --- results -----------------------------------------------------------------------------------------


def results(*given: tuple[int, str]) -> Results[str]:
    made: Results[str] = Results()
    for number, source in given:
        made.add(Result(number, source, f"{source}{number}", 10))
    return made


@pytest.mark.parametrize(
    ("numbers", "expected", "most", "released", "stale"),
    [
        ([1, 2, 3, 4, 5], 1, 3, 3, 0),
        ([1, 2, 3, 4, 5], 1, 10, 5, 0),
        ([1, 3, 4, 5], 1, 10, 1, 0),
        ([1, 2, 3, 4, 5], 0, 10, 0, 0),
        ([1, 1, 1, 1, 2], 1, 10, 2, 3),
        ([1, 2, 3, 4, 5], 2, 10, 4, 1),
        ([], 1, 10, 0, 0),
    ],
)
def test_results_are_released_in_order(numbers: list[int], expected: int, most: int, released: int, stale: int) -> None:
    made = results(*((number, "a") for number in reversed(numbers)))
    found, dropped = made.release(expected, most)
    assert [one.number for one in found] == list(range(expected, expected + released))
    assert dropped == stale
    assert len(made) == len(numbers) - released - stale
    assert made.size == 10 * len(made)


@pytest.mark.parametrize(
    ("given", "gone", "left"),
    [
        ([(1, "a"), (2, "a"), (3, "a"), (4, "a")], [1, 2, 3, 4], 0),
        ([(1, "a"), (2, "b"), (3, "a"), (4, "b"), (5, "a"), (6, "b"), (7, "a")], [1, 3, 5, 7], 3),
        ([], [], 0),
    ],
)
def test_the_results_of_one_source_are_withdrawn(given: list[tuple[int, str]], gone: list[int], left: int) -> None:
    made = results(*given)
    assert made.withdraw("a") == gone
    assert len(made) == left
    assert made.size == 10 * left


def test_the_heap_ascends_and_an_empty_pop_is_nothing() -> None:
    made = results(*((number, "a") for number in (5, 2, 9, 1)))
    popped = [one.number for one in iter(made.pop, None)]
    assert popped == [1, 2, 5, 9]
    assert made.pop() is None


# --- cool-downs --------------------------------------------------------------------------------------


def test_the_ladder_is_0_5_10_to_60_minutes() -> None:
    made = Cooldowns()
    now = 0.0
    for rung in range(15):
        seconds = made.removed("a", now)
        assert seconds == min(LONGEST_SECONDS, rung * STEP_SECONDS)
        assert made.wait_seconds("a", now) == seconds
        assert made.wait_seconds("b", now) == 0
        now += seconds
        assert made.wait_seconds("a", now) == 0
    assert made.removed("c", now, is_critical=True) == LONGEST_SECONDS
    # after a day without trouble it begins anew
    assert made.removed("a", now + 86400) == 0


def test_cooldowns_do_not_grow_without_bound() -> None:
    made = Cooldowns()
    for number in range(5000):
        made.removed(f"source {number}", float(number))
    assert len(made) == 1024


def test_a_pause_grows_to_a_minute_and_ends_with_an_answer() -> None:
    made = Pauses()
    assert [made.failed(0.0) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    made.answered()
    assert made.failed(100.0) == 0.5
    made.told_to_wait(100.0, 7.0)
    assert made.until == 107.0


# --- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_no_second_holds_more_starts_than_the_limit(limit: int) -> None:
    made = Window(limit)
    now = 0.0
    starts: list[float] = []
    for step in range(500):
        wait = made.wait_seconds(now)
        if wait:
            now += wait
            assert made.wait_seconds(now) == 0
        starts.append(now)
        made.start(now)
        now += 0.013 * (step % 7)
    for at, first in enumerate(starts):
        assert sum(first <= one < first + 1 for one in starts[at:]) <= limit


# --- sources -----------------------------------------------------------------------------------------


def test_a_start_looks_for_sixteen_and_waits_a_minute_before_it_looks_again() -> None:
    made = SourceSet()
    assert made.wanted(0.0) == 16
    # whoever is not found by then is not looked for at once again: no storm
    assert made.wanted(1.0) == 0
    assert made.wanted(61.0) == 16
    for number in range(16):
        assert made.add(f"{number}")
    assert made.wanted(1000.0) == 0
    made.remove("3")
    assert made.wanted(1000.0) == 16


def test_one_source_twice_is_an_error() -> None:
    made = SourceSet()
    made.add("a")
    with pytest.raises(KnownSource):
        made.add("a")


def test_above_64_they_are_reserved_and_above_100_refused() -> None:
    made = SourceSet()
    taken = [made.add(f"{number}") for number in range(100)]
    assert taken == [True] * 64 + [False] * 36
    with pytest.raises(TooManySources):
        made.add("100")
    with pytest.raises(KnownSource):
        made.add("70")
    assert made.remove("10") == "64"
    assert (len(made.used), len(made.reserved)) == (64, 35)
    assert made.remove("99") is None
    assert made.add("100") is False


def test_a_search_fills_up_to_the_soft_cap_only() -> None:
    made = SourceSet(Caps(hard=4, soft=6, high=8, reserve=10, batch=16))
    for number in range(3):
        made.add(f"{number}")
    assert made.wanted(0.0) == 3


# --- the head by majority ----------------------------------------------------------------------------


def chain(name: str, top: int, low: int = 0, forks_at: int | None = None) -> list[tuple[int, bytes]]:
    return [
        (height, f"{name if forks_at is not None and height >= forks_at else ''}{height}".encode())
        for height in range(top, low - 1, -1)
    ]


def test_the_head_is_the_highest_that_most_have() -> None:
    found = choose_head({"a": chain("a", 12), "b": chain("b", 10), "c": chain("c", 11)})
    assert (found.height, found.key) == (11, b"11")
    assert found.agree == {"a", "c"}
    assert found.differ == set()


def test_what_was_under_way_behind_the_end_is_not_asked_for_again() -> None:
    made = Downloads(0, 9)
    assert made.next_batch(4) == [1, 2, 3, 4]
    made.end_at(2)
    made.failed([2, 3, 4])
    assert made.next_batch(9) == [2]
    made.release(2)
    assert made.is_complete


def test_one_that_follows_another_chain_is_outvoted() -> None:
    lying = chain("x", 99, forks_at=5)
    found = choose_head({"a": chain("a", 10), "b": chain("b", 10), "x": lying, "y": chain("y", 7)})
    assert (found.height, found.key) == (7, b"7")
    assert found.differ == {"x"}
    found = choose_head({"a": chain("a", 10), "b": chain("b", 10), "x": lying})
    assert (found.height, found.key, found.agree, found.differ) == (10, b"10", {"a", "b"}, {"x"})


def test_fewer_than_three_must_all_agree() -> None:
    assert choose_head({"a": chain("a", 9)}).height == 9
    assert choose_head({"a": chain("a", 9), "b": chain("b", 7)}).height == 7
    with pytest.raises(NoMajority, match="of 2 sources no 2 have one chain"):
        choose_head({"a": chain("a", 9, forks_at=0), "b": chain("b", 7, forks_at=0)})
    with pytest.raises(NoMajority):
        choose_head({})
    with pytest.raises(NoMajority):
        choose_head({"a": chain("a", 9), "b": chain("b", 40, low=20), "c": chain("c", 90, low=80)})
