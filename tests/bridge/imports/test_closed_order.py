"""What an import closes while it reads: never an object of which something below is not durable by then."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.car.batches import is_leaf
from blockstore.car.closed_order import ClosedOrder, links_by_bytes
from blockstore.cid import RAW, Cid, cid_of
from blockstore.memory import MemoryStore
from blockstore.store import Held
from chain.errors import BadObject
from chain.ipld.dag_cbor import encode
from leader_bridge.imports.importer import import_car
from leader_bridge.store.mirror import walked_links
from tests.support.bridge.imported import check_whole
from tests.support.recorded import recorded


def made_objects(rng: random.Random, size: int) -> list[tuple[Cid, bytes, list[int]]]:
    """(CID, bytes, numbers of the objects below), children before parents; some hold links in byte strings."""
    objects: list[tuple[Cid, bytes, list[int]]] = []
    for number in range(size):
        below = sorted({rng.randrange(number) for _ in range(rng.randrange(5))}) if number else []
        hidden = encode(cid_of(rng.randbytes(4))) if rng.random() < 0.1 else b""
        data = encode([number, hidden, *(objects[at][0] for at in below)])
        objects.append((cid_of(data), data, below))
    return objects


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 5), st.sampled_from([0, 10, 1000]))
@settings(max_examples=150, deadline=None)
def test_closed_objects_have_all_below_them_stored_before(seed: int, size: int, batches: int, remembered: int) -> None:
    rng = random.Random(seed)
    objects = made_objects(rng, size)
    below = {cid.multihash: [objects[at][0].multihash for at in links] for cid, _, links in objects}
    order = ClosedOrder(remembered)
    stored: set[bytes] = set()
    closed: set[bytes] = set()
    coming = objects[:]
    if rng.random() < 0.5:
        coming.reverse()  # parents first, as in an export
    else:
        rng.shuffle(coming)
    lost = rng.randrange(size) if rng.random() < 0.3 else -1
    coming = [one for one in coming if one is not objects[lost]] if lost >= 0 else coming
    for number in range(batches):
        part = coming[number::batches] if rng.random() < 0.5 else coming[number * size // batches :][: size // batches]
        part = [one for one in part if one[0].multihash not in stored]
        leaves = [(cid.multihash, data) for cid, data, _ in part if is_leaf(cid, data)]
        others = [(cid.multihash, data) for cid, data, _ in part if not is_leaf(cid, data)]
        doubled = rng.sample(others, len(others) // 4)
        levels, rest = order.split(leaves, [*others, *doubled])
        assert {pair for level in [*levels, rest] for pair in level} == set(others)
        for level in [leaves, *levels]:
            for multihash, _ in level:
                assert set(below[multihash]) <= closed, "what is below it may be lost still"
            closed.update(multihash for multihash, _ in level)
        stored.update(cid.multihash for cid, _, _ in part)


def test_one_batch_children_first_or_parents_first_is_closed_whole() -> None:
    objects = made_objects(random.Random(5), 300)
    plain = [one for one in objects if links_by_bytes(one[1]) is not None and b"\xd8\x2a" in one[1]]
    hidden = {cid.multihash for cid, data, links in objects if data.count(b"\xd8\x2a") != len(links)}
    assert 0 < len(hidden) < len(plain) / 2
    leaves = [(cid.multihash, data) for cid, data, _ in objects if is_leaf(cid, data)]
    others = [(cid.multihash, data) for cid, data, _ in objects if not is_leaf(cid, data)]
    levels, rest = ClosedOrder().split(leaves, others[::-1])
    open_ones = {multihash for multihash, _ in rest}
    # only what hides a link to nothing, and what stands above such a one, stays open
    for cid, _, links in objects:
        under = {objects[at][0].multihash for at in links}
        assert (cid.multihash in open_ones) == (cid.multihash in hidden or bool(under & open_ones))
    assert len(levels) > 3


def test_links_that_bytes_do_not_tell_are_left_to_the_last_pass() -> None:
    target = cid_of(b"x", RAW)
    assert links_by_bytes(encode([target])) == [target]
    assert links_by_bytes(encode([1])) == ()
    assert links_by_bytes(encode([target, b"\xd8\x2a"])) == [target]
    # of another hash; of a sector, beside two bytes that look like a tag; one that begins within another
    other = Cid(b"\x01\x71\x12\x20" + bytes(32))
    assert links_by_bytes(encode([target, other])) is None
    sealed = Cid(b"\x01\x82\xe2\x03\x81\xe8\x02\x20" + bytes(32))
    assert links_by_bytes(encode([sealed, target])) == [target]
    within = Cid(target[:6] + b"\xd8\x2a\x58\x27\x00\x01" + bytes(26))
    assert links_by_bytes(encode([within])) is None


def test_a_long_chain_of_objects_is_not_made_a_level_each() -> None:
    data = encode([0])
    pairs = [(cid_of(data).multihash, data)]
    cid = cid_of(data)
    for number in range(200):
        data = encode([number, cid])
        cid = cid_of(data)
        pairs.append((cid.multihash, data))
    levels, rest = ClosedOrder().split(pairs[:1], pairs[1:])
    assert len(levels) == 64 and len(rest) == 136


# --- whole imports ------------------------------------------------------------------------------------


class ByStatements(MemoryStore):
    """A store that pays for each object, and looks whether it may believe what it is told of closed ones."""

    def __init__(self) -> None:
        super().__init__()
        self.statements = 0

    async def put_closed(self, objects: Iterable[tuple[bytes, bytes]]) -> None:
        level = list(objects)
        for multihash, data in level:
            try:
                links = walked_links(Cid(b"\x01\x71" + multihash), data)
            except BadObject:
                continue  # code and bytecode
            assert all(link.multihash in self._objects for link in links), "what is below it is not durable yet"
        await super().put_many(level, closed=True)
        self.statements += len(level)

    async def mark_closed(self, multihashes: Iterable[bytes]) -> None:
        marked = list(multihashes)
        assert set(await super().held_many(marked)) <= {Held.LOOSE}
        await super().close_many(marked)
        self.statements += len(marked)

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        pairs = list(objects)
        assert not closed
        await super().put_many(pairs, closed=False)
        self.statements += len(pairs)

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        self.statements += len(multihashes)
        return await super().held_many(multihashes)


@pytest.mark.recorded
@pytest.mark.parametrize("process", [False, True])
@pytest.mark.parametrize("folder", ["devnet", "upgrades"])
async def test_a_store_that_pays_for_each_object_is_asked_little_and_holds_the_same(folder: str, process: bool) -> None:
    car, network = recorded(f"{folder}/chain.car.zst"), recorded(f"{folder}/network.json")
    store, plain = ByStatements(), MemoryStore()
    await import_car(plain, car, network_file=network)
    await import_car(store, car, network_file=network, process=process)
    objects = sorted(plain._objects)
    # looked at and marked by the last pass: as good as nothing beside what is written
    assert store.statements < 1.6 * len(objects)
    await check_whole(store)
    held, wanted = await MemoryStore.held_many(store, objects), await plain.held_many(objects)
    opened = [mh for mh, one, other in zip(objects, held, wanted, strict=True) if one < other]
    assert not opened, "what the other import closed is closed here"
    # over what is there already it reads instead of remembering, and changes nothing
    await import_car(store, car, process=process)
    assert await MemoryStore.held_many(store, objects) == held
