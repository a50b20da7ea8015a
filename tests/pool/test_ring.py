"""The ring of confidence tipsets: what leaves it, and its errors."""

from __future__ import annotations

import pytest

from blockstore.store import TipsetRef
from leader_bridge.pool.ring import AddedBelowHead, ConfidenceRing, EmptyRing, RevertedNotHead, RevertedOnEmpty


def at(height: int, name: str = "") -> TipsetRef:
    return TipsetRef(height, f"{height}{name}".encode())


def ring_of(*heights: int, size: int = 3) -> ConfidenceRing:
    ring = ConfidenceRing(size)
    for height in heights:
        ring.add(at(height))
    return ring


@pytest.mark.parametrize(
    ("added", "leaves", "tail", "length"),
    [([1], None, 1, 1), ([1, 2], None, 1, 2), ([1, 2, 3], None, 1, 3), ([1, 2, 3, 4], 1, 2, 3)],
)
def test_a_tipset_leaves_when_enough_stand_on_it(added: list[int], leaves: int | None, tail: int, length: int) -> None:
    ring = ring_of(*added[:-1])
    left = ring.add(at(added[-1]))
    assert left == (None if leaves is None else at(leaves))
    assert (ring.tail, ring.head, len(ring)) == (at(tail), at(added[-1]), length)


def test_an_empty_ring_has_neither_head_nor_tail() -> None:
    for end in ("head", "tail"):
        with pytest.raises(EmptyRing, match="cache empty"):
            getattr(ConfidenceRing(3), end)


def test_adding_below_the_head_is_refused() -> None:
    ring = ring_of(5)
    with pytest.raises(AddedBelowHead, match="added tipset height lower than current head"):
        ring.add(at(4))
    assert ring.head == at(5)


def test_reverting_what_is_not_the_head_is_refused() -> None:
    ring = ring_of(1, 2)
    for other in (at(1), at(2, "other")):
        with pytest.raises(RevertedNotHead, match="reverted tipset does not match current head"):
            ring.revert(other)
    assert len(ring) == 2


def test_reverting_on_an_empty_ring_is_refused() -> None:
    with pytest.raises(RevertedOnEmpty, match="reverted received on empty cache"):
        ConfidenceRing(3).revert(at(1))


def test_reverting_the_head_takes_it_away() -> None:
    ring = ring_of(1, 2, 3)
    ring.revert(at(3))
    assert (ring.head, len(ring)) == (at(2), 2)
    assert ring.add(at(3, "other")) is None
    assert ring.add(at(4)) == at(1)


def test_of_size_0_every_tipset_leaves_at_once() -> None:
    ring = ConfidenceRing(0)
    assert [ring.add(at(height)) for height in (1, 2, 1)] == [at(1), at(2), at(1)]
    ring.revert(at(2))
    assert len(ring) == 0


def test_a_ring_has_no_negative_size() -> None:
    with pytest.raises(ValueError, match="negative"):
        ConfidenceRing(-1)


@pytest.mark.parametrize(
    ("before", "current", "after"),
    [
        ([], at(5), [5]),
        ([1, 2, 3], at(3, "other"), [1, 2, 3]),
        ([1, 2, 3], at(3), [1, 2, 3]),
        ([1, 2, 3], at(7), [2, 3, 7]),
        ([1, 2, 3], at(2, "other"), [1, 2]),
        ([4, 5, 6], at(1), [1]),
    ],
    ids=["on empty", "same height", "same tipset", "higher", "lower", "very low"],
)
def test_setting_the_current_tipset(before: list[int], current: TipsetRef, after: list[int]) -> None:
    ring = ring_of(*before)
    ring.set_current(current)
    assert ring.head == current
    heights = []
    while len(ring):
        heights.append(ring.head.height)
        ring.revert(ring.head)
    assert heights[::-1] == after


@pytest.mark.parametrize(
    ("size", "given", "length"), [(3, [1, 2, 3], 3), (0, [1], 0), (3, [], 0), (3, [1, 2], 2), (2, [1, 2, 3], 2)]
)
def test_a_warm_start(size: int, given: list[int], length: int) -> None:
    ring = ConfidenceRing(size)
    ring.warm(at(height) for height in given)
    assert len(ring) == length
    if length:
        assert ring.head == at(given[-1])
        assert [ring.add(at(10 + n)) is None for n in range(size - length)] == [True] * (size - length)
        assert ring.add(at(20)) == at(given[-length])
