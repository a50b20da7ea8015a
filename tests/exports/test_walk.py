"""Which objects a snapshot holds: states and messages down to an epoch, differences, nothing that is not verified."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from blockstore.car.reader import CarFile
from blockstore.cid import DAG_CBOR, RAW, Cid, cid_of
from blockstore.errors import HashMismatch
from blockstore.memory import MemoryStore
from blockstore.store import TIPSETS, Batch
from chain.block import BlockHeader, decode_header
from chain.errors import BadRequest, NotHeld
from chain.index.chain_index import HELD_MESSAGES, HELD_STATE, ChainIndex
from chain.index.kept import Kept, save_kept
from chain.ipld.dag_cbor import encode, links
from chain.ipld.objects import Objects
from chain.tipset import Tipset, TipsetKey
from leader_bridge.exports.exporter import export_snapshot
from leader_bridge.exports.scope import Scope, snapshot_scope
from leader_bridge.exports.seen_objects import SeenObjects
from leader_bridge.exports.walk import SnapshotWalk
from leader_bridge.imports.importer import import_car
from leader_bridge.store.coverage import TIPSETS_INDEX, save_coverage
from leader_bridge.upkeep.pace import Pace
from tests.support.recorded import recorded

ALL = 100_000
StoreOf = Callable[[str], Awaitable[MemoryStore]]

pytestmark = pytest.mark.recorded


def tree(store: MemoryStore, root: Cid) -> set[Cid]:
    """Everything under a root, told by the plain recursion of Lotus."""
    found: set[Cid] = set()
    waiting = [root]
    while waiting:
        cid = waiting.pop()
        if cid in found or cid.is_identity or cid.codec not in (0x71, 0x55):
            continue
        found.add(cid)
        if cid.codec == DAG_CBOR:
            waiting += links(store._objects[cid.multihash])
    return found


def headers(store: MemoryStore, key: TipsetKey) -> list[BlockHeader]:
    """All blocks of a chain, the head first."""
    found: dict[Cid, BlockHeader] = {}
    level: Sequence[Cid] = key.cids
    while level:
        blocks = [decode_header(cid, store._objects[cid.multihash]) for cid in level]
        found.update((block.cid, block) for block in blocks)
        level = list(dict.fromkeys(cid for block in blocks for cid in block.parents if block.height))
    return list(found.values())


def expected(store: MemoryStore, scope: Scope) -> set[Cid]:
    """What Lotus' rules put into a snapshot."""
    found: set[Cid] = set()
    for block in headers(store, scope.head.key):
        if block.height < scope.lowest:
            continue
        found.add(block.cid)
        if block.height >= scope.messages_from:
            found |= tree(store, block.messages)
        if block.height == 0:
            found.update(block.parents)
        if block.height == 0 or block.height > scope.states_above:
            found |= tree(store, block.parent_state_root)
    return found


def cids_of(path: Path) -> list[Cid]:
    with CarFile(path) as reader:
        return [cid for cid, _ in reader]


@pytest.mark.parametrize(
    ("state_roots", "skip_old_messages", "lowest"), [(30, False, 0), (30, True, 0), (0, False, 0), (50, True, 1000)]
)
async def test_states_and_messages_end_where_they_are_said_to(
    recorded_store: StoreOf, tmp_path: Path, state_roots: int, skip_old_messages: bool, lowest: int
) -> None:
    store = await recorded_store("devnet")
    scope = await snapshot_scope(store, state_roots=state_roots, skip_old_messages=skip_old_messages, lowest=lowest)
    await export_snapshot(store, tmp_path / "a.car", scope)
    found = cids_of(tmp_path / "a.car")
    assert len(found) == len(set(found))
    assert set(found) == expected(store, scope)


async def test_a_difference_leaves_out_the_state_of_the_genesis_too(recorded_store: StoreOf, tmp_path: Path) -> None:
    store = await recorded_store("devnet")
    scope = replace(await snapshot_scope(store, state_roots=ALL, base=2), base_states=0)
    await export_snapshot(store, tmp_path / "diff.car", scope)
    genesis = headers(store, scope.head.key)[-1]
    assert genesis.height == 0
    assert not tree(store, genesis.parent_state_root) & set(cids_of(tmp_path / "diff.car"))


async def test_base_and_difference_are_together_what_a_snapshot_is(recorded_store: StoreOf, tmp_path: Path) -> None:
    store = await recorded_store("devnet")
    base = await snapshot_scope(store, state_roots=60, tipset=1000)
    both = replace(await snapshot_scope(store, state_roots=150, base=1000), base_states=60)
    assert both.base == base.head
    await export_snapshot(store, tmp_path / "base.car", base)
    await export_snapshot(store, tmp_path / "diff.forest.car.zst", both)
    held, more = cids_of(tmp_path / "base.car"), cids_of(tmp_path / "diff.forest.car.zst")
    blocks = headers(store, base.head.key)
    older = set().union(*(tree(store, block.messages) for block in blocks if block.height <= base.states_above))
    assert not set(held) & set(more) - older, "a difference brings again what old epochs' messages share at most"
    assert set(held) | set(more) == expected(store, replace(both, base=None, state_roots=168))
    assert both.head.height - 168 == base.states_above
    with CarFile(tmp_path / "diff.forest.car.zst") as reader:
        assert reader.head == both.head.key.cids
    again = MemoryStore()
    network = recorded("devnet/network.json")
    await import_car(again, tmp_path / "base.car", network_file=network)
    await import_car(again, tmp_path / "diff.forest.car.zst", network_file=network)
    entry = await again.head()
    assert entry is not None and entry.head.key == both.head.key
    index = ChainIndex(again, Objects(again))
    assert await index.held(both.head.key) & HELD_STATE


async def test_an_object_that_is_gone_ends_the_export_and_leaves_no_file(
    recorded_store: StoreOf, tmp_path: Path
) -> None:
    store = await recorded_store("devnet")
    scope = await snapshot_scope(store, state_roots=ALL)
    some = sorted(tree(store, scope.head.parent_state_root))[:60:20]
    some += [headers(store, scope.head.key)[40].messages, headers(store, scope.head.key)[300].cid]
    for cid in some:
        pruned = copy.copy(store)
        pruned._objects = {mh: raw for mh, raw in store._objects.items() if mh != cid.multihash}
        with pytest.raises(NotHeld, match=str(cid)):
            await export_snapshot(pruned, tmp_path / "a.car", scope)
    assert not list(tmp_path.iterdir())


async def test_bytes_that_are_not_what_their_hash_says_are_not_exported(
    recorded_store: StoreOf, tmp_path: Path
) -> None:
    store = await recorded_store("devnet")
    scope = await snapshot_scope(store, state_roots=ALL)
    blocks = headers(store, scope.head.key)
    leaf = max(tree(store, scope.head.parent_state_root), key=lambda cid: len(store._objects[cid.multihash]))
    for cid in (leaf, blocks[10].cid, blocks[20].messages):
        damaged = copy.copy(store)
        raw = bytearray(store._objects[cid.multihash])
        raw[-1] ^= 1
        damaged._objects = {**store._objects, cid.multihash: bytes(raw)}
        with pytest.raises(HashMismatch):
            await export_snapshot(damaged, tmp_path / "a.car", scope)
    assert not list(tmp_path.iterdir())


async def test_messages_that_old_rows_call_not_held_are_refused(recorded_store: StoreOf) -> None:
    store = copy.deepcopy(await recorded_store("devnet"))
    scope = await snapshot_scope(store, state_roots=100)
    index = ChainIndex(store, Objects(store))
    key, batch = scope.head.key, Batch()
    while True:
        row = await index.row(key)
        assert row is not None
        if row.height < 400:
            batch.put(TIPSETS, key.cid, b"", replace(row, held=row.held & ~HELD_MESSAGES).encode())
        if not row.height:
            break
        key = row.parent
    await store.write(batch)
    with pytest.raises(NotHeld, match="the messages at epoch 0: "):
        await snapshot_scope(store, state_roots=100)
    assert (await snapshot_scope(store, state_roots=100, lowest=400)).lowest == 400


async def test_what_rows_say_is_not_held_is_refused_before_anything_is_read(recorded_store: StoreOf) -> None:
    store = await recorded_store("devnet")
    lacking = copy.deepcopy(store)
    index = ChainIndex(store, Objects(store))
    head = (await snapshot_scope(store, state_roots=10)).head
    tipset = await index.at_height(head, 1000)
    row = await index.row(tipset.key)
    assert row is not None
    batch = Batch()
    batch.put(TIPSETS, tipset.key.cid, b"", replace(row, held=row.held & ~HELD_STATE).encode())
    await lacking.write(batch)
    with pytest.raises(NotHeld, match=rf"the state at epoch {tipset.height}: at most 108 .*--state-roots"):
        await snapshot_scope(lacking, state_roots=ALL)
    assert (await snapshot_scope(lacking, state_roots=head.height - tipset.height)).head == head
    dropped = copy.deepcopy(store)
    batch = Batch()
    save_kept(batch, Kept({"state": 500, "messages": 300}))
    await dropped.write(batch)
    with pytest.raises(NotHeld, match=r"messages below epoch 300: .*--skip-old-messages"):
        await snapshot_scope(dropped, state_roots=100)
    with pytest.raises(NotHeld, match="the state at epoch 499: at most 609 epochs"):
        await snapshot_scope(dropped, state_roots=610, skip_old_messages=True)
    assert (await snapshot_scope(dropped, state_roots=608, skip_old_messages=True)).lowest_state == 501
    young = copy.deepcopy(store)
    batch = Batch()
    save_coverage(batch, TIPSETS_INDEX, [(200, 1108)])
    await young.write(batch)
    with pytest.raises(NotHeld, match=r"headers below epoch 200 .*--from 200"):
        await snapshot_scope(young, state_roots=100)
    assert (await snapshot_scope(young, state_roots=100, lowest=200)).lowest == 200
    with pytest.raises(BadRequest, match="at 1108"):
        await snapshot_scope(store, state_roots=10, tipset=1109)
    with pytest.raises(BadRequest, match="difference"):
        await snapshot_scope(store, state_roots=10, base=1108)
    with pytest.raises(NotHeld, match="no head"):
        await snapshot_scope(MemoryStore(), state_roots=10)


class Counting(MemoryStore):
    """Counts reads of objects."""

    reads = 0
    objects = 0

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        self.reads += 1
        self.objects += len(multihashes)
        return await super().get_many(multihashes)


def counting(store: MemoryStore) -> Counting:
    counted = Counting()
    for name, value in vars(store).items():
        setattr(counted, name, value)
    return counted


async def test_objects_are_read_in_batches_each_once_however_little_is_remembered(
    recorded_store: StoreOf, made_store: Callable[[], Awaitable[MemoryStore]], tmp_path: Path
) -> None:
    store = counting(await recorded_store("devnet"))
    scope = await snapshot_scope(store, state_roots=ALL)
    store.objects = store.reads = 0
    report = await export_snapshot(store, tmp_path / "a.car", scope)
    # headers of forks are read beside those of the chain; the genesis' parent is known
    assert report.objects - 1 <= store.objects < 1.01 * report.objects
    # trees of states are narrow in this chain: without reading ahead it takes four times as many
    assert store.reads < report.objects / 20
    spilling = await export_snapshot(store, tmp_path / "b.car", scope, in_memory=500)
    assert spilling.sha256 == report.sha256
    wide = counting(await made_store())
    scope = await snapshot_scope(wide, state_roots=ALL, lowest=1)
    wide.objects = wide.reads = 0
    report = await export_snapshot(wide, tmp_path / "c.car", scope)
    assert wide.reads < report.objects / 10


async def test_links_to_what_no_snapshot_holds_are_not_followed() -> None:
    store = MemoryStore()

    def put(value: object, codec: int = DAG_CBOR) -> Cid:
        raw = value if isinstance(value, bytes) else encode(value)
        cid = cid_of(raw, codec)
        store._objects[cid.multihash] = raw
        return cid

    leaf, code = put(["leaf"]), put(b"code", RAW)
    old = b"\x12\x20" + hashlib.sha256(encode(["old"])).digest()
    store._objects[old] = encode(["old"])
    below = put([leaf])
    # an identity CID with a link in it, a commitment to a sector, an object of another codec
    identity = Cid(b"\x01\x71\x00" + bytes((len(encode([put(["hidden"])])),)) + encode([put(["hidden"])]))
    commitment = Cid(b"\x01\x82\xe2\x03\x81\xe8\x02\x20" + bytes(32))
    other = Cid(b"\x01\x70" + put(["in a directory"]).multihash)
    plain = Cid(b"\x01\x51" + put([put(["below plain CBOR"])]).multihash)
    # a link inside a byte string is none
    inside = encode([put(["in a byte string"])])
    root = put([identity, below, commitment, inside, Cid(b"\x01\x71" + old), other, code, plain, below])
    scope = Scope(Tipset(TipsetKey(), ()), 0)
    with SeenObjects() as seen:
        walk = SnapshotWalk(store, scope, seen)
        async for _ in walk._tree(root, "tree"):
            pass
        assert [cid for cid, _ in walk._run] == [root, below, leaf, Cid(b"\x01\x71" + old), code, plain]


async def test_it_works_for_a_share_of_the_time(
    made_store: Callable[[], Awaitable[MemoryStore]], tmp_path: Path
) -> None:
    store = await made_store()
    scope = await snapshot_scope(store, state_roots=ALL, lowest=1)
    before = time.process_time()
    report = await export_snapshot(store, tmp_path / "a.car", scope, pace=Pace(10))
    # a machine that is busy makes it longer only
    assert report.seconds > 3 * (time.process_time() - before)
