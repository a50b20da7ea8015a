"""HAMTs: published roots, round trips, incremental writes, diffs, bad data."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.cid import cid_of
from blockstore.errors import Missing
from chain.errors import BadObject
from chain.ipld.dag_cbor import encode
from chain.ipld.hamt import DELETED, UNREAD, Hamt, decode_node, diff, hamt_build, hamt_set
from chain.ipld.level_walk import read_upper_nodes
from chain.ipld.tree_nodes import NodeCache, Raw
from tests.chain.tree_tools import TREES, Heap, dag_cbor_values, expand, plain

keys = st.binary(max_size=12)
widths = st.sampled_from([1, 3, 5, 8])


async def everything(heap: Heap, root: bytes, bit_width: int = 5) -> dict[bytes, Any]:
    return {key: value async for key, value in Hamt.load(heap, root, bit_width).items()}


@pytest.mark.parametrize("case", TREES["go_hamt"], ids=lambda case: f"{case['bit_width']}-{case['keys']}")
async def test_roots_of_go_hamt_ipld(case: dict[str, Any]) -> None:
    heap = Heap()
    width = case["bit_width"]
    items = {b"key-%d" % number: number for number in range(case["keys"])}
    root = hamt_build(heap.put, items, width)
    assert str(root) == case["root_before_deletes"]
    gone = {b"key-%d" % number: DELETED for number in range(case["deleted"])}
    left = await hamt_set(heap, heap.put, root, gone, width)
    assert str(left) == case["root"]
    assert await hamt_set(heap, heap.put, left, {key: items[key] for key in gone}, width) == root
    assert await everything(heap, left, width) == {key: items[key] for key in items.keys() - gone.keys()}


@pytest.mark.parametrize("case", TREES["ref_fvm_hamt"], ids=lambda case: str(case["name"]))
def test_roots_that_ref_fvm_publishes(case: dict[str, Any]) -> None:
    items = {key.encode(): value.encode() for key, value in expand(case["values"]).items()}
    assert str(hamt_build(Heap().put, items, case["bit_width"])) == case["root"]


@given(st.dictionaries(keys, dag_cbor_values(), max_size=60), widths)
@settings(max_examples=40, deadline=None)
async def test_reads_back_what_was_written(items: dict[bytes, Any], width: int) -> None:
    heap = Heap()
    root = hamt_build(heap.put, items, width)
    hamt = Hamt.load(heap, root, width)
    wanted = [*items, b"no such key at all"]
    assert await everything(heap, root, width) == {key: plain(value) for key, value in items.items()}
    assert await hamt.get_many(wanted, "none") == [*(plain(value) for value in items.values()), "none"]
    for key, value in items.items():
        assert await hamt.get(key, "none") == plain(value)
    assert await hamt.get(b"no such key at all", "none") == "none"


@given(
    st.dictionaries(keys, dag_cbor_values(4), max_size=40),
    st.dictionaries(keys, dag_cbor_values(4) | st.just(DELETED), max_size=25),
    st.data(),
    widths,
)
@settings(max_examples=50, deadline=None)
async def test_changes_give_the_root_of_the_whole(
    items: dict[bytes, Any], changes: dict[bytes, Any], data: st.DataObject, width: int
) -> None:
    for key in data.draw(st.lists(st.sampled_from(sorted(items)), max_size=30)) if items else []:
        changes[key] = DELETED
    heap = Heap()
    before = hamt_build(heap.put, items, width)
    after = await hamt_set(heap, heap.put, before, changes, width)
    result = {key: value for key, value in {**items, **changes}.items() if value is not DELETED}
    assert after == hamt_build(Heap().put, result, width)
    assert await everything(heap, after, width) == {key: plain(value) for key, value in result.items()}


@given(st.dictionaries(keys, dag_cbor_values(4), max_size=80), st.lists(keys, max_size=8), widths)
@settings(max_examples=40, deadline=None)
async def test_memory_tells_what_was_read_before(items: dict[bytes, Any], asked: list[bytes], width: int) -> None:
    """`peek` reads nothing: it says what `get` says, or that it does not know; never that nothing is there."""
    heap = Heap()
    root = hamt_build(heap.put, items, width)
    hamt = Hamt.load(heap, root, width, NodeCache(1 << 20))
    assert Hamt.load(heap, root, width).peek(b"") is UNREAD
    for key in asked:
        await hamt.get(key)
        trips = heap.trips
        assert hamt.peek(key, "none") == plain(items.get(key, "none"))
        for other in items:
            assert (seen := hamt.peek(other, "none")) is UNREAD or seen == plain(items[other])
        assert heap.trips == trips


@given(
    st.dictionaries(keys, st.integers(0, 3), max_size=60), st.dictionaries(keys, st.integers(0, 3), max_size=60), widths
)
@settings(max_examples=40, deadline=None)
async def test_diff(one: dict[bytes, int], other: dict[bytes, int], width: int) -> None:
    heap = Heap()
    other = {**dict(list(one.items())[::2]), **other}
    a = Hamt.load(heap, hamt_build(heap.put, one, width), width)
    b = Hamt.load(heap, hamt_build(heap.put, other, width), width)
    found = [(key, old, new) async for key, old, new in diff(a, b)]
    wanted = {
        (key, one.get(key, DELETED), other.get(key, DELETED))
        for key in one.keys() | other.keys()
        if one.get(key) != other.get(key)
    }
    assert len(found) == len(wanted)
    assert set(found) == wanted


async def test_a_diff_reads_only_what_changed() -> None:
    heap = Heap()
    items = {b"%d" % number: number for number in range(20_000)}
    before = hamt_build(heap.put, items)
    after = await hamt_set(heap, heap.put, before, {b"77": 0, b"new": 1})
    heap.trips = 0
    found = sorted([change async for change in diff(Hamt.load(heap, before), Hamt.load(heap, after))])
    assert found == [(b"77", 77, 0), (b"new", DELETED, 1)]
    assert heap.trips <= 2 * 4
    assert heap.peak <= 2


async def test_a_level_of_a_walk_is_few_round_trips_and_bounded() -> None:
    heap = Heap()
    items = {b"%d" % number: number for number in range(30_000)}
    root = hamt_build(heap.put, items)
    assert await everything(heap, root) == items
    assert heap.peak == 64
    assert heap.trips <= len(heap.objects) // 64 + 40
    heap.trips = 0
    wanted = [b"%d" % number for number in range(0, 30_000, 100)]
    assert await Hamt.load(heap, root).get_many(wanted) == list(range(0, 30_000, 100))
    assert heap.trips <= 5


async def test_links_survive_a_change_elsewhere() -> None:
    heap = Heap()
    link = cid_of(b"\x80")
    root = hamt_build(heap.put, {b"link": link, b"octets": bytes(link)})
    after = await hamt_set(heap, heap.put, root, {b"third": Raw(b"\x01")})
    assert after == hamt_build(Heap().put, {b"link": link, b"octets": bytes(link), b"third": 1})


async def test_a_cache_of_nodes_spares_reads_and_stays_in_bounds() -> None:
    heap = Heap()
    items = {b"%d" % number: number for number in range(5_000)}
    root = hamt_build(heap.put, items)
    cache = NodeCache(200_000)
    for _ in range(2):
        for number in range(0, 5_000, 7):
            assert await Hamt.load(heap, root, cache=cache).get(b"%d" % number) == number
    assert cache.hits > cache.misses > 0
    assert heap.trips == cache.misses
    assert 0 < cache.used_bytes <= 200_000
    with pytest.raises(BadObject):
        await Hamt.load(heap, root, 3, cache=cache).get(b"1")


async def test_upper_nodes_are_read_once_and_no_more_than_asked_for() -> None:
    heap = Heap()
    items = {b"%d" % number: number for number in range(3000)}
    root = hamt_build(heap.put, items)
    other = await hamt_set(heap, heap.put, root, {b"7": 8})
    cache = NodeCache(64 << 20)
    heap.trips = 0
    counts = [count async for count in read_upper_nodes(heap, [root, other], 9, 10_000, cache=cache)]
    # the roots, then what they share, and the one node that they do not
    assert counts[:2] == [2, 33]
    assert heap.trips == len(counts)
    # nothing is left to read for any key
    for one, key in ((root, b"7"), (other, b"7"), (root, b"2999")):
        assert Hamt.load(heap, one, cache=cache).peek(key) is not UNREAD
    few = [count async for count in read_upper_nodes(heap, [root], 2, 5)]
    assert few == [1, 5]
    assert [count async for count in read_upper_nodes(heap, [], 9, 5)] == []


async def test_pointers_of_old_chains() -> None:
    heap = Heap()
    child = encode([b"\x03", [{"1": [[b"a", 1]]}, {"1": [[b"b", 2]]}]])
    heap.put(cid_of(child), child)
    root = encode([b"\x05", [{"0": cid_of(child)}, {"1": [[b"c", 3]]}]])
    heap.put(cid_of(root), root)
    assert await everything(heap, cid_of(root)) == {b"a": 1, b"b": 2, b"c": 3}


async def test_a_missing_node_is_missing() -> None:
    heap = Heap()
    root = hamt_build(heap.put, {b"%d" % number: number for number in range(100)})
    del heap.objects[next(cid for cid in heap.objects if cid != root)]
    with pytest.raises(Missing):
        await everything(heap, root)
    with pytest.raises(Missing):
        await Hamt.load(Heap(), root)


@pytest.mark.parametrize(
    "node",
    [
        [b"\x01", []],
        [b"", [[[b"a", 1]]]],
        [b"\x01", [[]]],
        [b"\x01", [[[b"a", 1], [b"b", 1], [b"c", 1], [b"d", 1]]]],
        [b"\x01", [[[b"b", 1], [b"a", 1]]]],
        [b"\x01", [[[b"a", 1], [b"a", 1]]]],
        [b"\x01", [[[b"a"]]]],
        [b"\x01", [[["a", 1]]]],
        [b"\x01", [[7]]],
        [b"\x01", [7]],
        [b"\x01", [None]],
        [b"\x01", [{"0": 7}]],
        [b"\x01", [{"2": []}]],
        [b"\x01", [b"no cid"]],
        [b"\x01", [b""]],
        [b"\x01", [b"\x01"]],
        [b"\x01\0\0\0\0\0", [[[b"a", 1]]]],
        [b"\x01", [[[b"a", 1]]], 1],
        {"a": 1},
        7,
    ],
    ids=repr,
)
async def test_malformed_nodes(node: Any) -> None:
    heap = Heap()
    data = encode(node)
    heap.put(cid_of(data), data)
    with pytest.raises(BadObject):
        await everything(heap, cid_of(data))
    with pytest.raises(BadObject):
        await hamt_set(heap, heap.put, cid_of(data), {b"b": 1})


async def test_a_chain_of_links_ends() -> None:
    heap = Heap()
    data = encode([b"", []])
    for _ in range(70):
        heap.put(cid_of(data), data)
        link = cid_of(data)
        data = encode([b"\xff\xff\xff\xff", [link] * 32])
    hamt = Hamt.load(heap, link)
    with pytest.raises(BadObject):
        await hamt.get(b"a")
    with pytest.raises(BadObject):
        await hamt.get_many([b"a"])
    with pytest.raises(BadObject):
        async for _ in hamt:
            pass
    with pytest.raises(BadObject):
        await hamt_set(heap, heap.put, link, {b"a": 1})


@given(
    st.one_of(
        st.binary(max_size=200),
        dag_cbor_values().map(encode),
        st.tuples(st.binary(max_size=5), st.lists(dag_cbor_values(), max_size=6)).map(lambda n: encode(list(n))),
    )
)
@settings(max_examples=150, deadline=None)
async def test_random_objects_are_read_or_refused(data: bytes) -> None:
    heap = Heap()
    heap.put(cid_of(data), data)
    try:
        decode_node(data, 5)
    except BadObject:
        with pytest.raises(BadObject):
            await everything(heap, cid_of(data))
        return
    hamt = Hamt.load(heap, cid_of(data))
    for key in (b"", b"a", b"b", b"cc"):
        for reading in (hamt.get(key), hamt_set(heap, heap.put, cid_of(data), {key: 1})):
            try:
                await reading
            except (BadObject, Missing):
                continue
    try:
        await everything(heap, cid_of(data))
    except (BadObject, Missing):
        return
