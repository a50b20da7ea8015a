"""AMTs: published roots, round trips, diffs, bad data."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.cid import cid_of
from blockstore.errors import Missing
from chain.errors import BadObject
from chain.ipld.amt import MAX_INDEX, Amt, amt_build, diff
from chain.ipld.dag_cbor import encode
from chain.ipld.tree_nodes import NodeCache
from tests.chain.tree_tools import TREES, Heap, dag_cbor_values, expand, plain

indices = st.integers(0, 200) | st.integers(0, 100_000) | st.integers(0, MAX_INDEX)
forms = st.sampled_from([(0, 3), (3, 1), (3, 2), (3, 3), (3, 5), (3, 6)])


@pytest.mark.parametrize("case", TREES["go_amt"], ids=lambda case: f"{case['bit_width']}-{len(case['indices'])}")
async def test_roots_of_go_amt_ipld(case: dict[str, Any]) -> None:
    heap = Heap()
    values = {index: index % 1000 for index in case["indices"]}
    root = await amt_build(heap.put, values, 3, case["bit_width"])
    assert str(root) == case["root"]
    assert [pair async for pair in Amt.load(heap, root, 3, case["bit_width"])] == sorted(values.items())


@pytest.mark.parametrize("case", TREES["ref_fvm_amt"], ids=lambda case: str(case["name"]))
async def test_roots_that_ref_fvm_publishes(case: dict[str, Any]) -> None:
    values = {int(index): value.encode() for index, value in expand(case["values"]).items()}
    assert str(await amt_build(Heap().put, values, case["version"], 3)) == case["root"]


@given(st.dictionaries(indices, dag_cbor_values(4), max_size=60), forms, indices)
@settings(max_examples=40, deadline=None)
async def test_reads_back_what_was_written(values: dict[int, Any], form: tuple[int, int], start: int) -> None:
    heap = Heap()
    root = await amt_build(heap.put, values, *form)
    wanted = {index: plain(value) for index, value in values.items()}
    amt = Amt.load(heap, root, *form)
    assert [pair async for pair in amt] == sorted(wanted.items())
    assert [pair async for pair in amt.items(start)] == [pair for pair in sorted(wanted.items()) if pair[0] >= start]
    assert amt.count == len(values)
    asked = [*wanted, start, MAX_INDEX + 1, -1]
    answers = [wanted.get(index, "none") for index in asked]
    assert await amt.get_many(asked, "none") == answers
    assert [await amt.get(index, "none") for index in asked] == answers


@given(st.lists(st.integers(0, 9), max_size=200), forms)
@settings(max_examples=30, deadline=None)
async def test_a_list_is_an_array_from_0(values: list[int], form: tuple[int, int]) -> None:
    heap = Heap()
    root = await amt_build(heap.put, values, *form)
    assert root == await amt_build(heap.put, dict(enumerate(values)), *form)
    assert [value async for _, value in Amt.load(heap, root, *form)] == values


@given(
    st.dictionaries(indices, st.integers(1, 3), max_size=40),
    st.dictionaries(indices, st.integers(1, 3), max_size=40),
    forms,
)
@settings(max_examples=40, deadline=None)
async def test_diff(one: dict[int, int], other: dict[int, int], form: tuple[int, int]) -> None:
    heap = Heap()
    other = {**dict(list(one.items())[::2]), **other}
    a = Amt.load(heap, await amt_build(heap.put, one, *form), *form)
    b = Amt.load(heap, await amt_build(heap.put, other, *form), *form)
    wanted = {(at, one.get(at), other.get(at)) for at in one.keys() | other.keys() if one.get(at) != other.get(at)}
    found = [change async for change in diff(a, b)]
    assert len(found) == len(wanted)
    assert set(found) == wanted
    assert {(at, new, old) async for at, old, new in diff(b, a)} == wanted


async def test_a_level_is_few_round_trips_and_bounded() -> None:
    heap = Heap()
    root = await amt_build(heap.put, range(20_000))
    assert [value async for _, value in Amt.load(heap, root)] == list(range(20_000))
    assert heap.peak == 64
    assert heap.trips <= len(heap.objects) // 64 + 10
    heap.trips = 0
    amt = await Amt.load(heap, root)
    assert (amt.count, amt.height, heap.trips) == (20_000, 4, 1)
    assert await amt.get_many(range(0, 20_000, 500)) == list(range(0, 20_000, 500))
    assert heap.trips == 5
    heap.trips = 0
    assert [at async for at, _ in amt.items(19_990)] == list(range(19_990, 20_000))
    assert heap.trips == 4


async def test_a_cache_of_nodes() -> None:
    heap = Heap()
    root = await amt_build(heap.put, range(2_000))
    cache = NodeCache(1 << 20)
    amt = Amt.load(heap, root, cache=cache)
    for _ in range(2):
        for at in range(0, 2_000, 9):
            assert await amt.get(at) == at
    assert cache.hits > cache.misses > 0
    assert heap.trips == cache.misses + 1


async def test_what_cannot_be_written_is_refused() -> None:
    for index in (-1, MAX_INDEX + 1):
        with pytest.raises(BadObject):
            await amt_build(Heap().put, {index: 1})


@pytest.mark.parametrize(
    "root",
    [
        [3, 0, 1, [b"\x01", [], []]],
        [3, 0, 0, [b"", [], []]],
        [3, 0, 0, [b"\0\0", [], []]],
        [3, 0, 1, [b"\x01", [b"a"], []]],
        [3, 1, 1, [b"\x01", [], [1]]],
        [3, 1, 1, [b"\x01", [7], []]],
        [3, 1, 1, [b"\x01", [b"no cid"], []]],
        [3, 40, 1, [b"\x01", [b"a"], []]],
        [4, 0, 1, [b"\x01\0", [], [1]]],
        [3, -1, 1, [b"\x01", [], [1]]],
        [3, True, 1, [b"\x01", [], [1]]],
        [0, 1, [b"\x01", [], [1]]],
        [3, 0, 1, [b"\x01", [], [1], []]],
        [3, 0, 1, 5],
        {},
    ],
    ids=repr,
)
async def test_malformed_roots(root: Any) -> None:
    heap = Heap()
    data = encode(root)
    heap.put(cid_of(data), data)
    with pytest.raises(BadObject):
        await anext(Amt.load(heap, cid_of(data)).items())
    with pytest.raises(BadObject):
        await Amt.load(heap, cid_of(data)).get(0)


@given(
    st.one_of(
        st.binary(max_size=200),
        dag_cbor_values().map(encode),
        st.tuples(
            st.integers(0, 3),
            st.integers(0, 9),
            st.tuples(
                st.binary(min_size=1, max_size=1),
                st.lists(dag_cbor_values(2), max_size=2),
                st.lists(dag_cbor_values(2), max_size=2),
            ).map(list),
        ).map(lambda n: encode([3, *n])),
    )
)
@settings(max_examples=150, deadline=None)
async def test_random_objects_are_read_or_refused(data: bytes) -> None:
    heap = Heap()
    heap.put(cid_of(data), data)
    for version in (0, 3):
        amt = Amt.load(heap, cid_of(data), version)
        try:
            await amt
            assert amt.height >= 0
            _ = [pair async for pair in amt.items(2)]
            _ = await amt.get_many([0, 1, 7, 8])
        except (BadObject, Missing):
            continue


@given(st.sets(st.integers(0, 5000), max_size=120), st.sampled_from([1, 3, 5]), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
async def test_leaves_are_all_values_and_known_ones_are_not_read(indices: set[int], width: int, dice: Random) -> None:
    heap = Heap()
    values = {index: index * 3 for index in indices}
    root = await amt_build(heap.put, values, 3, width)
    found = [(cid, told, part) async for cid, told, part in Amt.load(heap, root, 3, width).leaves(lambda cid: None)]
    assert [value for _, _, part in found for value in part] == [values[index] for index in sorted(indices)]
    known = {cid: part for cid, _, part in found if dice.random() < 0.5}
    for cid in known:
        if cid != root:
            heap.objects.pop(cid, None)
    again = [(told or part) async for _, told, part in Amt.load(heap, root, 3, width).leaves(known.get)]
    assert again == [part for _, _, part in found]
