"""Walks: children before parents, whatever is held already, whatever the nodes do, whenever it stops."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.cid import IDENTITY, RAW, Cid, cid_of, uvarint
from blockstore.errors import StoreUnavailable
from blockstore.memory import MemoryStore
from blockstore.store import Held
from chain.ipld.dag_cbor import encode, links
from leader_bridge.nodes.sources import Fetched, NoSource, Sources
from leader_bridge.store.mirror import Mirror, code_links, walked_links
from rpc.client.client import NodeClient
from rpc.client.node_info import NodeInfo
from tests.support.bridge.chain import SmallChain
from tests.support.bridge.node import TestNode


class Shelf:
    """Objects to fetch, with a record of what was asked."""

    def __init__(self, objects: dict[bytes, bytes]) -> None:
        self.objects = objects
        self.asked: list[Cid] = []
        self.most = 0

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        self.asked.extend(cids)
        self.most = max(self.most, len(cids))
        found = {cid: self.objects[cid.multihash] for cid in cids if cid.multihash in self.objects}
        return Fetched(found, [cid for cid in cids if cid not in found])


class CheckedStore(MemoryStore):
    """Fails a write that would make a closed object with a child that is not closed; can break at will."""

    def __init__(self, breaks_after: int | None = None) -> None:
        super().__init__()
        self.left = breaks_after
        self.spilled = 0

    def _tick(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise StoreUnavailable("broken by the test")

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        for multihash, data in objects:
            self._tick()
            if closed:
                self._check(data)
            else:
                self.spilled += 1
            await super().put_many([(multihash, data)], closed=closed)

    async def close_many(self, multihashes: Sequence[bytes]) -> None:
        for multihash in multihashes:
            self._tick()
            self._check(self._objects[multihash])
            await super().close_many([multihash])

    def _check(self, data: bytes) -> None:
        for link in walked_links(cid_of(data), data) if data[:1] != b"\0" else []:
            assert link.multihash in self._closed, f"{link} is below a closed object and is not closed"


def make_graph(rng: random.Random, size: int) -> tuple[dict[bytes, bytes], list[Cid]]:
    """A random graph of `size` objects in which many share children; its CIDs, children first."""
    objects: dict[bytes, bytes] = {}
    cids: list[Cid] = []
    for number in range(size):
        below = rng.sample(cids, min(len(cids), rng.randrange(4)))
        raw = encode([number, below, b"\xd8\x2a\x58\x27\x00" + cid_of(b"%d" % number)])
        cid = cid_of(raw)
        objects[cid.multihash] = raw
        cids.append(cid)
    return objects, cids


def under(objects: dict[bytes, bytes], root: Cid) -> set[bytes]:
    seen: set[bytes] = set()
    waiting = [root]
    while waiting:
        cid = waiting.pop()
        if cid.multihash not in seen:
            seen.add(cid.multihash)
            waiting.extend(links(objects[cid.multihash]))
    return seen


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 60),
    batch=st.integers(1, 8),
    in_flight=st.integers(1, 4),
    flush=st.integers(1, 20),
    spill=st.sampled_from([1, 200, 1 << 20]),
    loose=st.floats(0, 1),
    broken=st.lists(st.integers(0, 80), max_size=4),
)
async def test_a_walk_closes_everything_in_order_however_it_is_interrupted(
    seed: int, size: int, batch: int, in_flight: int, flush: int, spill: int, loose: float, broken: list[int]
) -> None:
    rng = random.Random(seed)
    objects, cids = make_graph(rng, size)
    store = CheckedStore()
    for multihash, raw in objects.items():
        if rng.random() < loose / 2:
            await store.put_many([(multihash, raw)], closed=False)
    shelf = Shelf(objects)
    mirror = Mirror(store, shelf, in_flight=in_flight, batch=batch, flush_objects=flush, spill_bytes=spill)
    roots = [cids[-1], rng.choice(cids)]
    for limit in broken:
        store.left = limit
        try:
            await mirror.close(roots)
        except StoreUnavailable:
            continue
    store.left = None
    walked = await mirror.close(roots)
    assert not walked.failed and not walked.missing
    wanted = under(objects, roots[0]) | under(objects, roots[1])
    assert wanted == store._closed
    assert shelf.most <= batch
    asked = len(shelf.asked)
    await mirror.close(roots)
    assert len(shelf.asked) == asked, "closed objects are not asked for again"


async def test_each_absent_object_is_asked_for_once_and_loose_ones_not_at_all() -> None:
    objects, cids = make_graph(random.Random(5), 200)
    store = CheckedStore()
    held = list(objects)[::3]
    await store.put_many([(mh, objects[mh]) for mh in held], closed=False)
    shelf = Shelf(objects)
    await Mirror(store, shelf).close([cids[-1]])
    asked = [cid.multihash for cid in shelf.asked]
    assert len(asked) == len(set(asked))
    assert not set(asked) & set(held)
    assert set(asked) == under(objects, cids[-1]) - set(held)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32), size=st.integers(2, 50), gone=st.integers(0, 49), spill=st.sampled_from([1, 1 << 20])
)
async def test_what_no_node_holds_is_told_and_nothing_above_it_is_closed(
    seed: int, size: int, gone: int, spill: int
) -> None:
    objects, cids = make_graph(random.Random(seed), size)
    lost = cids[gone % size]
    shelf = Shelf({mh: raw for mh, raw in objects.items() if mh != lost.multihash})
    store = CheckedStore()
    mirror = Mirror(store, shelf, flush_objects=3, spill_bytes=spill)
    walked = await mirror.close(cids)
    above = {cid for cid in cids if lost.multihash in under(objects, cid)}
    assert walked.failed == above
    assert set(walked.missing) == {lost}
    held = await store.held_many([cid.multihash for cid in cids])
    for cid, how in zip(cids, held, strict=True):
        if cid == lost:
            assert how == Held.ABSENT
        else:
            assert how == (Held.LOOSE if cid in above else Held.CLOSED)
    asked = len(shelf.asked)
    shelf.objects[lost.multihash] = objects[lost.multihash]
    assert not (await mirror.close(cids)).failed
    assert shelf.asked[asked:] == [lost], "what was fetched before is read locally"


async def test_code_of_actors_is_left_out_and_bytecode_of_contracts_is_not() -> None:
    code, bytecode = cid_of(b"wasm", RAW), cid_of(b"evm", RAW)
    storage = cid_of(encode(["storage"]))
    evm_state = encode([bytecode, b"\x07" * 32, storage, None, 1, None])
    record = [code, cid_of(evm_state), 3, b"\0\x01", None]
    node = encode([b"\x01", [[[b"\0\x65", record], [b"\0\x66", record[:4]]]]])
    manifest = encode([["account", code], ["evm", code]])
    assert set(walked_links(cid_of(node), node)) == {cid_of(evm_state)}
    assert walked_links(cid_of(manifest), manifest) == []
    assert set(walked_links(cid_of(evm_state), evm_state)) == {bytecode, storage}
    assert code in walked_links(cid_of(node), node, actor_code=True)
    assert code_links([["name", b"\x01\x55x"], {"a": [1, 2]}]) == {b"\x01\x55x"}


async def test_code_of_actors_is_fetched_where_wanted_and_never_waited_for() -> None:
    code, absent = cid_of(b"wasm", RAW), cid_of(b"nowhere", RAW)
    state = encode(["state"])
    node = encode([[code, cid_of(state), 3, b"\0\x01"], [absent, cid_of(state), 4, b"\0\x01"]])
    other = encode([[absent, cid_of(state), 5, b"\0\x01"], [code, cid_of(state), 5, b"\0\x01"]])
    objects = {cid_of(raw).multihash: raw for raw in (state, node, other)} | {code.multihash: b"wasm"}
    for wanted in (False, True):
        shelf = Shelf(objects)
        store = CheckedStore()
        mirror = Mirror(store, shelf, actor_code=wanted)
        walked = await mirror.close([cid_of(node)])
        assert not walked.failed and not walked.missing
        assert (await store.get(code.multihash) == b"wasm") == wanted
        assert (await store.held_many([cid_of(node).multihash])) == [Held.CLOSED]
        await mirror.close([cid_of(other)])
        assert shelf.asked.count(absent) == shelf.asked.count(code) == int(wanted)


def test_identity_commitments_and_look_alikes_are_not_walked() -> None:
    inner = cid_of(b"inner")
    identity = Cid(b"\x01\x71" + uvarint(IDENTITY) + b"\x01\x80")
    sealed = Cid(b"\x01" + uvarint(0xF102) + b"\x81\xe8\x02\x20" + bytes(32))
    unsealed = Cid(b"\x01" + uvarint(0xF101) + uvarint(0x1012) + b"\x20" + bytes(32))
    look_alike = b"\xd8\x2a\x58\x27\x00" + cid_of(b"not a link")
    raw = encode([identity, sealed, unsealed, look_alike, {"k": inner}, inner])
    assert walked_links(cid_of(raw), raw) == [inner]
    assert walked_links(cid_of(raw, RAW), raw) == []


async def test_nobody_to_ask_is_raised_after_patience_and_keeps_the_store_valid() -> None:
    class Nobody:
        async def fetch(self, cids: Sequence[Cid]) -> Fetched:
            raise NoSource("nobody", 0.01)

    store = CheckedStore()
    with pytest.raises(NoSource, match="nobody"):
        await Mirror(store, Nobody(), missing_object_timeout_seconds=0.03).close([cid_of(b"x")])
    assert not store._objects


# --- several nodes ----------------------------------------------------------------------------------


async def two_nodes() -> tuple[SmallChain, list[TestNode], Sources]:
    chain = SmallChain()
    tip = chain.line(chain.genesis, 6)[-1]
    nodes = [await TestNode(chain.objects, chain.genesis.key, tip.key).start() for _ in range(2)]
    clients = [NodeClient(NodeInfo(node.url.removeprefix("http://")), timeout=5) for node in nodes]
    return chain, nodes, Sources(clients, batch=4, bad_object_cooldown_seconds=60)


async def shut(nodes: list[TestNode], sources: Sources) -> None:
    await sources.close()
    for node in nodes:
        await node.stop()


async def test_a_lying_node_is_found_out_named_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    chain, nodes, sources = await two_nodes()
    tip = list(chain.tipsets.values())[-1]
    root = tip.parent_state_root
    nodes[0].faults.lies = {root.multihash}
    store = CheckedStore()
    walked = await Mirror(store, sources, batch=4).close([root, *(b.messages for b in tip.blocks)])
    assert not walked.failed
    for multihash, data in store._objects.items():
        assert chain.objects[multihash] == data
    assert sources.all[0].wrong_objects == 1 and sources.all[1].wrong_objects == 0
    assert sources.all[0].name in caplog.text
    assert sources.usable() == [sources.all[1]], "the liar rests"
    await shut(nodes, sources)


async def test_what_one_node_lacks_the_next_gives_and_nobody_is_blamed() -> None:
    chain, nodes, sources = await two_nodes()
    tip = list(chain.tipsets.values())[-1]
    nodes[0].faults.lacks = set(chain.objects)
    store = CheckedStore()
    assert not (await Mirror(store, sources, batch=4).close([tip.parent_state_root])).failed
    assert [source.failures for source in sources.all] == [0, 0]
    assert len(sources.usable()) == 2
    await shut(nodes, sources)


async def test_missing_is_said_only_when_every_node_was_asked() -> None:
    _, nodes, sources = await two_nodes()
    absent = cid_of(b"nowhere")
    assert (await sources.fetch([absent])).missing == [absent]
    await nodes[1].stop()
    for _ in range(2):
        with pytest.raises(NoSource):
            await sources.fetch([absent])
        sources.all[1].cooling_until = 0
    # at the third failure in a row the node counts as gone, and holds nothing up
    assert (await sources.fetch([absent])).missing == [absent]
    assert (await sources.fetch([absent])).missing == [absent]
    await shut(nodes, sources)


async def test_nothing_is_missing_where_no_node_could_be_reached() -> None:
    _, nodes, sources = await two_nodes()
    absent = cid_of(b"nowhere")
    for node in nodes:
        await node.stop()
    for _ in range(5):
        # however often it fails: that a connection was cut says nothing of what its node holds
        with pytest.raises(NoSource):
            await sources.fetch([absent])
        for source in sources.all:
            source.cooling_until = 0
    await sources.close()


async def test_an_endpoint_with_small_batches_or_none_is_still_used() -> None:
    chain, nodes, sources = await two_nodes()
    cids = [tipset.key.cids[0] for tipset in chain.tipsets.values()]
    for limit in (3, 1):
        for node in nodes:
            node.faults.batches = limit
        assert set((await sources.fetch(cids)).found) == set(cids)
    nodes[0].faults.batches = 0  # arrays are refused, single calls are not
    assert set((await sources.fetch(cids)).found) == set(cids)
    assert sources.all[0].failures == 0
    await shut(nodes, sources)


async def test_a_busy_node_is_left_alone_as_long_as_it_asks() -> None:
    chain, nodes, sources = await two_nodes()
    nodes[0].faults.busy_status = 429
    cid = chain.genesis.key.cids[0]
    assert cid in (await sources.fetch([cid])).found
    assert sources.usable() == [sources.all[1]]
    await shut(nodes, sources)


async def test_an_error_of_a_busy_node_is_not_taken_for_absence() -> None:
    chain, nodes, sources = await two_nodes()
    cid = chain.genesis.key.cids[0]
    for node in nodes:
        node.faults.item_error = "rate limit exceeded"
    with pytest.raises(NoSource, match="rate limit"):
        await sources.fetch([cid, cid_of(b"x")])
    await shut(nodes, sources)
