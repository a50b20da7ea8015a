"""The answers of a process by question and by request: what stays, what leaves, and that no request leads nowhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rpc.context import NOTHING
from rpc.server.answers.answer_lru import AnswerLru, Kept
from rpc.server.answers.packed import Packed
from rpc.server.metrics import MethodStats

_STATS = MethodStats("T")
_LIMIT = 64 << 10
_NUMBERS = st.integers(0, 30)


def answer(number: int, size: int = 100) -> Kept:
    return Kept(b"x" * size, NOTHING, 0, "read", _STATS, b"%d" % number)


def find(lru: AnswerLru, raw: bytes) -> bool:
    """As the server does for a request's bytes."""
    kept = lru.by_request.get(raw)
    if kept is not None:
        kept.found = True
    return kept is not None


def check(lru: AnswerLru) -> None:
    """What holds at any time."""
    entries = dict(lru._entries.items())
    assert lru.size == sum(kept.size for kept in entries.values()) <= _LIMIT
    requests = {raw: kept for kept in entries.values() for raw in kept.requests}
    assert requests == lru.by_request
    assert len(lru.by_request) == sum(len(kept.requests) for kept in entries.values())
    assert all(len(kept.requests) <= 8 for kept in entries.values())


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), _NUMBERS, st.integers(0, 5_000)),
            st.tuples(st.just("ask"), _NUMBERS, st.integers(0, 12)),
            st.tuples(st.just("find"), _NUMBERS, st.integers(0, 12)),
            st.tuples(st.just("pack"), _NUMBERS, st.integers(1, 4_000)),
            st.tuples(st.just("clear"), st.just(0), st.just(0)),
        ),
        max_size=120,
    )
)
def test_requests_lead_to_the_newest_answer_and_to_none_that_has_left(steps: list[tuple[str, int, int]]) -> None:
    lru = AnswerLru(_LIMIT)
    newest: dict[int, Kept] = {}
    for kind, number, detail in steps:
        raw = b"%d of %d" % (detail, number)
        if kind == "put":
            kept = answer(number, detail)
            if lru.put(kept):
                newest[number] = kept
                assert lru.get(kept.key) is kept
        elif kind == "ask":
            if number in newest:
                lru.add_request(newest[number], raw)
        elif kind == "find":
            if find(lru, raw):
                assert lru.by_request[raw] is newest[number]
        elif kind == "pack":
            kept = newest.get(number)
            if kept is not None and kept.packed is None:
                kept.packed = Packed(b"x")
                lru.grow(kept, detail)
        else:
            lru.clear()
        check(lru)


def test_an_answer_that_is_asked_for_outlives_those_that_are_not() -> None:
    lru = AnswerLru(_LIMIT)
    lru.put(answer(0))
    lru.add_request(lru.get(b"0") or answer(0), b"asked")
    for number in range(1, 1_000):
        assert find(lru, b"asked")
        lru.put(answer(number))
        check(lru)
    assert lru.get(b"1") is None


def test_requests_lead_to_the_newer_answer_to_their_question() -> None:
    lru = AnswerLru(_LIMIT)
    older, newer = answer(0), answer(0, 200)
    lru.put(older)
    for raw in (b"one way", b"another"):
        lru.add_request(older, raw)
    lru.put(newer)
    assert lru.by_request == {b"one way": newer, b"another": newer}
    # the older one is gone: it gets no more of them, and what it would take is not counted
    size = lru.size
    lru.add_request(older, b"a third")
    lru.grow(older, 1_000)
    assert (lru.size, len(lru.by_request)) == (size, 2)
    check(lru)


def test_an_answer_that_was_asked_for_once_leaves_in_its_turn() -> None:
    lru = AnswerLru(_LIMIT)
    lru.put(answer(0))
    lru.add_request(lru.get(b"0") or answer(0), b"asked")
    assert find(lru, b"asked")
    for number in range(1, 1_000):
        lru.put(answer(number))
    assert not find(lru, b"asked")
    check(lru)


def test_there_is_room_where_all_are_asked_for() -> None:
    """Second chances end: the newest finds room, and no more than one other leaves for it."""
    lru = AnswerLru(_LIMIT)
    number = 0
    while lru.size + 700 < _LIMIT:
        kept = answer(number)
        lru.put(kept)
        lru.add_request(kept, b"request %d" % number)
        number += 1
    count = len(lru)
    assert count > 50
    for raw in list(lru.by_request):
        assert find(lru, raw)
    assert lru.put(answer(number))
    assert lru.get(b"%d" % number) is not None
    assert len(lru) in (count, count + 1)
    check(lru)


def test_a_client_that_writes_a_question_in_ever_new_ways_takes_no_more_room() -> None:
    lru = AnswerLru(_LIMIT)
    kept = answer(0)
    lru.put(kept)
    for number in range(100):
        lru.add_request(kept, b"%03d" % number)
        check(lru)
    assert list(lru.newest_requests(3)) == [b"099", b"098", b"097"]
    assert len(lru.by_request) == 8


def test_an_answer_that_would_take_much_of_the_room_is_not_kept() -> None:
    lru = AnswerLru(_LIMIT)
    assert not lru.put(answer(0, _LIMIT // 16))
    assert lru.put(answer(0, _LIMIT // 16 - 1_000))
