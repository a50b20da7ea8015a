"""The cases of Harmony's request manager."""

from __future__ import annotations

import random

import pytest

from leader_bridge.sync.requests import (
    A_GO,
    GO_SECONDS,
    MOST_WAITING,
    REQUEST_SECONDS,
    Cancelled,
    Closed,
    NoSources,
    Priority,
    RequestError,
    Requests,
    SourceRemoved,
    Ticket,
    TimedOut,
    TooManyRequests,
)


class Told:
    """What became of requests: (source, answer, error) by name."""

    def __init__(self) -> None:
        self.of: dict[str, tuple[str, object, type[RequestError] | None]] = {}

    def __call__(self, name: str):  # type: ignore[no-untyped-def]
        def done(source: str, answer: object, error: RequestError | None) -> None:
            assert name not in self.of, "told twice"
            self.of[name] = (source, answer, None if error is None else type(error))

        return done


def made(*sources: str) -> tuple[Requests[str], Told]:
    requests: Requests[str] = Requests()
    for name in sources:
        requests.add_source(name)
    return requests, Told()


def test_a_request_goes_to_a_source_and_comes_back() -> None:
    requests, told = made("a")
    requests.submit("x", told("x"))
    ((source, ticket),) = requests.assign(0.0)
    assert (source, ticket.work) == ("a", "x")
    assert requests.deliver("a", ticket.number, "answer")
    assert told.of == {"x": ("a", "answer", None)}
    assert (requests.waiting, requests.in_flight) == (0, 0)


def test_one_in_flight_a_source_and_the_one_asked_last_is_asked_last() -> None:
    requests, told = made("a", "b")
    for name in "wxyz":
        requests.submit(name, told(name))
    first = requests.assign(0.0)
    assert [(source, ticket.work) for source, ticket in first] == [("a", "w"), ("b", "x")]
    assert requests.assign(1.0) == []
    requests.deliver("b", first[1][1].number, 1)
    requests.deliver("a", first[0][1].number, 1)
    assert [source for source, _ in requests.assign(2.0)] == ["a", "b"]


def test_a_cancelled_request_is_over_and_its_late_answer_is_ignored() -> None:
    requests, told = made("a")
    flying = requests.submit("x", told("x"))
    waiting = requests.submit("y", told("y"))
    requests.assign(0.0)
    requests.cancel(flying)
    requests.cancel(waiting)
    assert [told.of[name][2] for name in "xy"] == [Cancelled, Cancelled]
    # the source still works on it
    requests.submit("z", told("z"))
    assert requests.assign(0.2) == []
    assert not requests.deliver("a", flying.number, "late")
    assert len(requests.assign(0.4)) == 1


def test_a_new_source_takes_what_waits() -> None:
    requests, told = made("a")
    requests.submit("x", told("x"))
    requests.submit("y", told("y"))
    requests.assign(0.0)
    requests.add_source("b")
    assert [(source, ticket.work) for source, ticket in requests.assign(0.1)] == [("b", "y")]


def test_without_any_source_what_waits_is_cancelled() -> None:
    requests, told = made("a")
    requests.submit("x", told("x"))
    requests.submit("y", told("y"))
    requests.assign(0.0)
    requests.remove_source("a")
    assert told.of == {"x": ("a", None, SourceRemoved), "y": ("", None, NoSources)}
    with pytest.raises(NoSources):
        requests.submit("z", told("z"))


def test_unknown_and_stale_deliveries_are_ignored() -> None:
    requests, told = made("a", "b")
    requests.submit("x", told("x"))
    ((source, ticket),) = requests.assign(0.0)
    for name, number in (("nobody", ticket.number), ("b", ticket.number), (source, ticket.number + 1)):
        assert not requests.deliver(name, number, "wrong")
        assert not requests.fail(name, number, RequestError("wrong"))
    assert requests.deliver(source, ticket.number, "right")
    assert not requests.deliver(source, ticket.number, "again")
    assert told.of["x"] == (source, "right", None)


def test_closing_ends_everything() -> None:
    requests, told = made("a")
    for name in "xyz":
        requests.submit(name, told(name))
    requests.assign(0.0)
    requests.close()
    assert [told.of[name][2] for name in "xyz"] == [Closed] * 3
    with pytest.raises(Closed):
        requests.submit("w", told("w"))


def test_sources_that_a_request_may_and_may_not_go_to() -> None:
    requests, told = made("a", "b", "c")
    requests.submit("never a", told("1"), never=frozenset("ab"))
    requests.submit("only b", told("2"), only=frozenset("b"))
    requests.submit("any", told("3"))
    assert {ticket.work: source for source, ticket in requests.assign(0.0)} == {
        "never a": "c",
        "only b": "b",
        "any": "a",
    }
    with pytest.raises(NoSources):
        requests.submit("nobody", told("4"), only=frozenset("d"))
    requests.submit("only a", told("5"), only=frozenset("a"))
    requests.remove_source("a")
    requests.assign(0.2)
    assert told.of["5"] == ("", None, NoSources)


def test_a_request_times_out_and_the_source_is_free() -> None:
    requests, told = made("a")
    requests.submit("x", told("x"))
    requests.assign(0.0)
    assert requests.expire(REQUEST_SECONDS - 1) == []
    assert requests.expire(REQUEST_SECONDS) == ["a"]
    assert told.of["x"] == ("a", None, TimedOut)
    requests.submit("y", told("y"))
    assert len(requests.assign(REQUEST_SECONDS)) == 1


def test_high_comes_before_low_and_a_queue_is_bounded() -> None:
    requests, told = made("a", "b")
    for number in range(MOST_WAITING):
        requests.submit(f"{number}", told(f"{number}"))
    with pytest.raises(TooManyRequests):
        requests.submit("more", told("more"))
    requests.submit("urgent", told("urgent"), priority=Priority.HIGH)
    assert [ticket.work for _, ticket in requests.assign(0.0)] == ["urgent", "0"]


def test_sixteen_a_go() -> None:
    requests, told = made(*(f"s{number}" for number in range(40)))
    for number in range(40):
        requests.submit(f"{number}", told(f"{number}"))
    assert [len(requests.assign(at)) for at in (0.0, GO_SECONDS / 2, GO_SECONDS, 2 * GO_SECONDS)] == [A_GO, 0, A_GO, 8]


def test_a_source_that_may_not_be_asked_now_is_passed_over() -> None:
    requests, told = made("a", "b")
    requests.submit("x", told("x"))
    assert requests.assign(0.0, lambda _: False) == []
    assert [source for source, _ in requests.assign(0.0, lambda name: name == "b")] == ["b"]


def test_eighteen_sources_and_twenty_five_askers_for_ten_seconds() -> None:
    """Each source takes 100 ms; what is asked is answered once, in simulated time."""
    chance = random.Random(7)
    requests, told = made(*(f"s{number}" for number in range(18)))
    flying: list[tuple[float, str, Ticket[str]]] = []
    asked = 0
    now = 0.0
    while now < 10.0:
        while requests.waiting < 25:
            requests.submit(f"{asked}", told(f"{asked}"), priority=chance.choice(list(Priority)))
            asked += 1
        flying += [(now + 0.1, source, ticket) for source, ticket in requests.assign(now)]
        for one in [one for one in flying if one[0] <= now]:
            assert requests.deliver(one[1], one[2].number, one[2].work)
            flying.remove(one)
        assert len({source for _, source, _ in flying}) == len(flying) <= 18
        now += 0.01
    answered = {name: answer for name, (_, answer, error) in told.of.items() if error is None}
    assert all(name == answer for name, answer in answered.items())
    # 16 each 100 ms
    assert 1400 < len(answered) <= 1616
