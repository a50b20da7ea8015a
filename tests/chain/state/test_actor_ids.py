"""The list of a tree's actors from the bytes of its nodes: equal to a walk of decoded nodes, kept, bounded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.cid import RAW, Cid, cid_of, uvarint
from chain.address import Address, from_id
from chain.errors import BadObject
from chain.ipld.dag_cbor import encode
from chain.ipld.hamt import Hamt, hamt_build, hamt_set
from chain.ipld.tree_nodes import Raw
from chain.state.actor_ids import ActorIds, node_parts
from tests.chain.tree_tools import Heap

CODE, HEAD = cid_of(b"\x81\x01", RAW), cid_of(b"\x81\x02")
#: the code of actors before version 8: a text in an identity CID
NAMED = Cid(b"\x01\x55\x00\x0dfil/1/account")
DELEGATED = b"\x04\x0a" + bytes(range(20))


class Kept(dict[bytes, bytes]):
    def keep(self, cid: bytes, text: bytes) -> None:
        self[cid] = text


def actor(nonce: int = 0, balance: int = 0, delegated: bytes | None = None, code: Cid = CODE) -> list[object]:
    amount = b"\0" + balance.to_bytes((balance.bit_length() + 7) // 8, "big") if balance else b""
    return [code, HEAD, nonce, amount, delegated]


async def by_walk(heap: Heap, root: bytes) -> list[str]:
    return [Address(key).text("t") async for key, _ in Hamt.load(heap, root).items()]


async def by_bytes(heap: Heap, root: bytes, kept: Kept | None = None) -> list[str]:
    texts = await ActorIds(heap, "t", Kept() if kept is None else kept).of(root)
    return b",".join(texts).decode().replace('"', "").split(",") if texts else []


numbers = st.integers(0, 127) | st.integers(0, 1 << 21) | st.integers(0, (1 << 63) - 1)
amounts = st.integers(0, 1 << 151)


@given(st.dictionaries(numbers, st.tuples(numbers, amounts, st.booleans(), st.booleans()), max_size=80))
@settings(max_examples=60, deadline=None)
async def test_the_list_is_that_of_a_walk(states: dict[int, tuple[int, int, bool, bool]]) -> None:
    heap = Heap()
    items = {
        bytes(from_id(at)): actor(nonce, balance, DELEGATED if has_address else None, NAMED if old else CODE)
        for at, (nonce, balance, has_address, old) in states.items()
    }
    root = hamt_build(heap.put, items)
    assert await by_bytes(heap, root) == await by_walk(heap, root)


async def test_actors_of_four_fields_and_other_keys() -> None:
    heap = Heap()
    items = {bytes(from_id(at)): actor(at)[:4] for at in range(200)}
    # nothing makes such a key, but a walk shows it
    items[DELEGATED] = actor()
    root = hamt_build(heap.put, items)
    assert await by_bytes(heap, root) == await by_walk(heap, root)


async def test_texts_of_subtrees_are_kept_and_a_change_reads_only_its_path() -> None:
    heap = Heap()
    root = hamt_build(heap.put, {bytes(from_id(at)): actor(at) for at in range(9_000)})
    kept = Kept()
    before = await by_bytes(heap, root, kept)
    assert before == await by_walk(heap, root)
    assert max(map(len, kept.values())) <= 4096
    new = bytes(from_id(70_000))
    after = await hamt_set(heap, heap.put, root, {new: Raw(encode(actor()))})
    heap.trips = 0
    assert await by_bytes(heap, after, kept) == await by_walk_counted(heap, after)
    assert "t070000" in await by_bytes(heap, after, kept)


async def by_walk_counted(heap: Heap, root: bytes) -> list[str]:
    """As `by_walk`, after looking how many reads there were since `trips` was 0."""
    assert heap.trips <= 4, "a new actor's path is four nodes"
    return await by_walk(heap, root)


async def test_memory_is_told_for_what_is_read_and_for_what_was_kept() -> None:
    heap = Heap()
    root = hamt_build(heap.put, {bytes(from_id(at)): actor(at) for at in range(3000)})
    kept = Kept()
    for _ in range(2):
        told: list[int] = []
        texts = await ActorIds(heap, "f", kept, told.append).of(root)
        assert 0.95 * sum(map(len, texts)) <= sum(told) <= sum(map(len, texts))


@pytest.mark.parametrize("data", [b"", b"\x82", b"\x80", b"\x82\x41\x01\x81\x01", b"\x82\x41\x01\x80", encode([1, 2])])
def test_what_is_no_node_is_refused(data: bytes) -> None:
    with pytest.raises(BadObject):
        node_parts(data, "f")


def test_a_key_with_a_wrong_length_is_not_misread() -> None:
    good = encode([b"\x01", [[[b"\0" + uvarint(1000), actor()]]]])
    assert node_parts(good, "f") == ['"f01000"']
    with pytest.raises(BadObject):
        node_parts(good.replace(b"\x43\x00\xe8", b"\x42\x00\xe8"), "f")
