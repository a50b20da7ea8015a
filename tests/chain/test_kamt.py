"""KAMTs: contracts of a real chain written again, round trips, diffs, bad data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.cid import Cid, cid_of
from blockstore.errors import Missing
from chain.errors import BadObject
from chain.ipld.dag_cbor import decode, encode
from chain.ipld.kamt import Kamt, decode_node, diff, kamt_build
from chain.ipld.tree_nodes import NodeCache
from chain.state.state_tree import StateTree
from tests.chain.state_data import head_of, heap_of
from tests.chain.tree_tools import Heap, cids, dag_cbor_values

HASHED = st.integers(0, 2**256 - 1)
#: slots as Solidity has them: the first few, and runs behind a hash
slots = st.one_of(
    st.integers(0, 40),
    HASHED,
    st.builds(
        lambda base, at: (base + at) % 2**256, st.sampled_from([2**255 + 77, 2**200, 3**160]), st.integers(0, 40)
    ),
    st.integers(2**256 - 40, 2**256 - 1),
)
words = st.integers(1, 5) | HASHED.filter(bool)
storages = st.dictionaries(slots, words, max_size=60)


@pytest.mark.recorded
@pytest.mark.parametrize("folder", ["devnet", "upgrades"])
async def test_contracts_of_a_real_chain_have_the_same_roots_when_written_again(folder: str) -> None:
    heap = heap_of(f"{folder}/chain.car.zst")
    tree = await StateTree.load(heap, head_of(folder).parent_state_root)
    evm = (await tree.actor_codes())["evm"]
    sizes = []
    actors = [actor async for address, actor in tree.items() if address.is_id]
    for actor in actors:
        if actor.code != evm:
            continue
        state = decode(heap.objects[actor.head])
        held = {key: value async for key, value in Kamt.load(heap, state[2])}
        assert list(held) == sorted(held)
        assert kamt_build(Heap().put, held) == Cid(state[2])
        sizes.append(len(held))
    assert len(sizes) > 5
    assert max(sizes) > 5


@given(storages, slots)
@settings(max_examples=60, deadline=None)
async def test_reads_back_what_was_written(storage: dict[int, int], other: int) -> None:
    heap = Heap()
    root = kamt_build(heap.put, storage)
    kamt = await Kamt.load(heap, root)
    assert [pair async for pair in kamt] == sorted(storage.items())
    for slot in [*storage, other, 2**256 - 1, 0]:
        assert await kamt.get(slot) == storage.get(slot, 0)
        assert await kamt.get(slot.to_bytes(32, "big")) == storage.get(slot, 0)


@given(storages, storages)
@settings(max_examples=40, deadline=None)
async def test_diff(one: dict[int, int], other: dict[int, int]) -> None:
    heap = Heap()
    other = {**dict(list(one.items())[::2]), **other}
    a, b = Kamt.load(heap, kamt_build(heap.put, one)), Kamt.load(heap, kamt_build(heap.put, other))
    wanted = [(at, one.get(at, 0), other.get(at, 0)) for at in sorted(one.keys() | other.keys())]
    assert [change async for change in diff(a, b)] == [change for change in wanted if change[1] != change[2]]


async def test_slots_of_zero_are_not_written() -> None:
    assert kamt_build(Heap().put, {1: 0, 2: 5}) == kamt_build(Heap().put, {2: 5})
    assert str(kamt_build(Heap().put, {})) == "bafy2bzaceamp42wmmgr2g2ymg46euououzfyck7szknvfacqscohrvaikwfay"


async def test_an_extension_skips_empty_levels() -> None:
    heap = Heap()
    root = kamt_build(heap.put, {2**256 - 1: 1, 2**256 - 2: 2})
    assert len(heap.objects) == 2
    kamt = Kamt.load(heap, root)
    assert [await kamt.get(2**256 - back) for back in (1, 2, 3)] == [1, 2, 0]
    assert await kamt.get(2**255 - 1) == 0
    heap.trips = 0
    assert await kamt.get((1 << 256) - 1 - (1 << 200)) == 0
    assert heap.trips == 1


async def test_a_cache_of_nodes() -> None:
    heap = Heap()
    root = kamt_build(heap.put, {number: number + 1 for number in range(300)})
    cache = NodeCache(1 << 20)
    for _ in range(2):
        for number in range(300):
            assert await Kamt.load(heap, root, cache).get(number) == number + 1
    assert heap.trips == cache.misses == len(heap.objects)


async def test_keys_and_values_out_of_range() -> None:
    for bad in ({-1: 1}, {1: -1}, {2**256: 1}, {1: 2**256}):
        with pytest.raises(BadObject):
            kamt_build(Heap().put, bad)
    heap = Heap()
    kamt = Kamt.load(heap, kamt_build(heap.put, {1: 1}))
    for key in (-1, 2**256, b"\1" * 33):
        with pytest.raises(BadObject):
            await kamt.get(key)


LINK = cid_of(encode([b"", []]))


@pytest.mark.parametrize(
    "node",
    [
        [b"\x01", []],
        [b"", [{"v": [[b"", b""]]}]],
        [b"\x01", [{"v": []}]],
        [b"\x01", [{"v": [[b"", b""], [b"\1", b""]]}]],
        [b"\x01", [{"v": [[b"\1" * 33, b""]]}]],
        [b"\x01", [{"v": [[b"", 7]]}]],
        [b"\x01", [{"v": [[b""]]}]],
        [b"\x01", [{"l": [LINK, 5]}]],
        [b"\x01", [{"l": [b"no cid", 5, b"\0"]}]],
        [b"\x01", [{"l": [LINK, 4, b"\0"]}]],
        [b"\x01", [{"l": [LINK, 5, b"\0\0"]}]],
        [b"\x01", [{"l": [LINK, 260, bytes(33)]}]],
        [b"\x01", [{"l": [LINK, -5, b""]}]],
        [b"\x01", [{"x": 1}]],
        [b"\x01", [{}]],
        [b"\x01", [LINK]],
        [b"\x01\0\0\0\0", [{"v": [[b"", b""]]}]],
        [b"\x01"],
        7,
    ],
    ids=repr,
)
async def test_malformed_nodes(node: Any) -> None:
    heap = Heap()
    data = encode(node)
    heap.put(cid_of(data), data)
    kamt = Kamt.load(heap, cid_of(data))
    with pytest.raises(BadObject):
        await kamt.get(0)
    with pytest.raises(BadObject):
        await anext(kamt.items())


async def test_extensions_that_pass_the_end_of_the_key() -> None:
    heap = Heap()
    data = encode([b"", []])
    for _ in range(3):
        heap.put(cid_of(data), data)
        link = cid_of(data)
        data = encode([b"\x01", [{"l": [link, 150, bytes(19)]}]])
    heap.put(cid_of(data), data)
    with pytest.raises(BadObject):
        await Kamt.load(heap, cid_of(data)).get(0)
    with pytest.raises(BadObject):
        await anext(Kamt.load(heap, cid_of(data)).items())


pointers = st.one_of(
    st.tuples(st.just("v"), st.lists(st.lists(st.binary(max_size=34), max_size=3), max_size=2)),
    st.tuples(st.just("l"), st.tuples(cids(), st.integers(-1, 300), st.binary(max_size=3)).map(list)),
    st.tuples(st.text(max_size=1), dag_cbor_values(2)),
).map(lambda pair: {pair[0]: pair[1]})


@given(
    st.one_of(
        st.binary(max_size=200),
        dag_cbor_values().map(encode),
        st.tuples(st.binary(max_size=5), st.lists(pointers, max_size=4)).map(lambda n: encode(list(n))),
    )
)
@settings(max_examples=150, deadline=None)
async def test_random_objects_are_read_or_refused(data: bytes) -> None:
    heap = Heap()
    heap.put(cid_of(data), data)
    kamt = Kamt.load(heap, cid_of(data))
    try:
        decode_node(data)
    except BadObject:
        with pytest.raises(BadObject):
            await kamt.get(0)
        return
    for slot in (0, 1, 2**255, 2**256 - 1):
        try:
            assert await kamt.get(slot) >= 0
        except Missing:
            continue
    try:
        _ = [pair async for pair in kamt]
    except (BadObject, Missing):
        return


async def test_a_diff_reads_only_what_differs() -> None:
    objects: dict[bytes, bytes] = {}
    slots = {(number * 0x9E3779B97F4A7C15F39CC0605CEDC834 << 100) % (1 << 256): number + 1 for number in range(2_000)}
    changed = min(slots)
    one = kamt_build(lambda cid, data: objects.__setitem__(cid, data), slots)
    other = kamt_build(lambda cid, data: objects.__setitem__(cid, data), {**slots, changed: 77})
    reads: list[bytes] = []

    class Reader:
        async def get(self, cid: bytes) -> bytes:
            reads.append(cid)
            return objects[cid]

        async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
            return [await self.get(cid) for cid in cids]

    found = [change async for change in diff(Kamt(Reader(), one), Kamt(Reader(), other))]
    assert found == [(changed, slots[changed], 77)]
    assert len(reads) < 10
