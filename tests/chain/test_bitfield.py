"""Bitfields against go-bitfield's own answers, and as sets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import BadObject
from chain.ipld import bitfield
from tests.support.paths import VECTORS

CASES: dict[str, Any] = json.loads((VECTORS / "bitfields.json").read_text())

sets = st.sets(st.integers(0, 200) | st.integers(0, 2**64 - 2), max_size=60)


def test_decoded_as_by_go_bitfield() -> None:
    for case in CASES["decoded"]:
        data = bytes.fromhex(case["bytes"])
        if "bad" in case:
            with pytest.raises(BadObject) as caught:
                bitfield.check(data)
                bitfield.to_json(data)
            assert str(caught.value) == case["error"], case
        else:
            bitfield.check(data)
            assert bitfield.to_json(data) == case["json"], case
            if case["count"]:
                assert bitfield.count(data) == case["count"], case


def test_json_read_as_by_go_bitfield() -> None:
    for case in CASES["from_json"]:
        value = json.loads(case["json"])
        if "error" in case:
            with pytest.raises(BadObject) as caught:
                bitfield.from_json(value)
            assert str(caught.value) == case["error"]
        else:
            assert bitfield.from_json(value).hex() == case.get("bytes", ""), case


def test_set_operations_as_of_go_bitfield() -> None:
    for case in CASES["sets"]:
        a, b = bytes.fromhex(case["a"]), bytes.fromhex(case["b"])
        assert bitfield.union([a, b]).hex() == case["union"]
        assert bitfield.intersect(a, b).hex() == case["intersect"]
        assert bitfield.subtract(a, b).hex() == case["subtract"]


@given(sets)
def test_round_trip(numbers: set[int]) -> None:
    data = bitfield.from_bits(numbers)
    assert list(bitfield.bits(data)) == sorted(numbers)
    assert bitfield.count(data) == len(numbers)
    assert bitfield.from_json(bitfield.to_json(data)) == data
    assert bitfield.from_runs(bitfield.runs(data)) == data
    assert bitfield.is_empty(data) == (not numbers)
    assert (bitfield.first(data), bitfield.last(data)) == (min(numbers, default=None), max(numbers, default=None))


@given(sets, sets, st.integers(0, 201))
def test_as_sets(one: set[int], other: set[int], number: int) -> None:
    a, b = bitfield.from_bits(one), bitfield.from_bits(other)
    assert set(bitfield.bits(bitfield.union([a, b]))) == one | other
    assert set(bitfield.bits(bitfield.intersect(a, b))) == one & other
    assert set(bitfield.bits(bitfield.subtract(a, b))) == one - other
    assert bitfield.has(a, number) == (number in one)
    assert all(bitfield.has(a, member) for member in one)
    assert bitfield.union([a, b, a]) == bitfield.from_bits(one | other)


@given(st.lists(sets, max_size=4), st.integers(0, 3))
def test_a_merge_in_pieces_is_the_union(some: list[set[int]], spread: int) -> None:
    merge = bitfield.Merge()
    spread_out = [{number % (1 << 40) << 5 * spread for number in numbers} for numbers in some]
    for numbers in spread_out:
        merge.add(bitfield.from_bits(numbers))
    pieces = list(merge.spans())
    found = [span for piece in pieces for span in piece]
    assert found == bitfield.spans(bitfield.from_bits(set().union(*spread_out)))
    assert bitfield.spans_of_runs(bitfield.runs_of_spans(found)) == found


def test_no_piece_of_a_merge_is_large() -> None:
    merge = bitfield.Merge()
    for first in range(10):
        merge.add(bitfield.from_bits(range(first * 20_000, (first + 1) * 20_000, 2)))
    assert max(map(len, merge.spans())) <= 4096 + 1


@given(st.binary(max_size=80))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        lengths = bitfield.runs(data)
    except BadObject:
        return
    packed = bitfield.from_runs(lengths)
    assert bitfield.to_json(packed) == bitfield.to_json(data)


def test_many_runs() -> None:
    numbers = range(0, 30_000, 3)
    data = bitfield.from_bits(numbers)
    assert list(bitfield.bits(data)) == list(numbers)


def test_limits() -> None:
    assert bitfield.runs_from_json([1] * bitfield.MAX_RUNS)
    with pytest.raises(BadObject, match=r"131073 run lengths, of which 131072 are allowed"):
        bitfield.runs_from_json([1] * (bitfield.MAX_RUNS + 1))
    with pytest.raises(BadObject):
        bitfield.check(bytes(bitfield.MAX_ENCODED + 1))
    with pytest.raises(BadObject):
        list(bitfield.bits(bitfield.from_runs([0, 1 << 40])))
    assert list(bitfield.bits(bitfield.from_runs([0, 3]), limit=3)) == [0, 1, 2]
    with pytest.raises(BadObject):
        list(bitfield.bits(bitfield.from_runs([0, 4]), limit=3))
    for bad in (-1, 2**64 - 1):
        with pytest.raises(BadObject):
            bitfield.from_bits([bad])
