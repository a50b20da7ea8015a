"""Imports in the order of keys: equal stores, resumed after each kill, and closed flags that say what is true."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

import blockstore.car.batches
import leader_bridge.imports.sorted_import
import leader_bridge.imports.sorted_runs
from blockstore.car.reader import CarReader, iter_car
from blockstore.car.writer import CarWriter
from blockstore.cid import Cid, cid_of
from blockstore.errors import DownloadFailed
from blockstore.lmdb.sorted_load import append_sorted, last_key
from blockstore.lmdb.store import LmdbStore
from blockstore.memory import MemoryStore
from blockstore.scan import object_pages
from blockstore.store import Held
from chain.ipld.dag_cbor import encode
from leader_bridge.imports.fetched import import_from_url
from leader_bridge.imports.importer import import_car
from leader_bridge.imports.sorted_runs import SortedRuns
from leader_bridge.imports.undecided import read_header
from leader_bridge.retention.policy import Policy
from leader_bridge.store.mirror import walked_links
from tests.bridge.imports.file_server import FileServer
from tests.bridge.imports.test_import_crashes import run_child
from tests.bridge.imports.test_policy import judge, whole_of
from tests.support.bridge.imported import check_whole, contents
from tests.support.recorded import recorded


async def sorted_import(tmp_path: Path, car: Path, network: Path, **more: Any) -> LmdbStore:
    store = await LmdbStore.open(tmp_path / "store", bulk=True)
    folder = tmp_path / "import"
    await import_car(store, car, network_file=network, folder=folder, sort_above=0, **more)
    assert not folder.exists(), "nothing is left beside the store"
    return store


async def assert_flags_are_true(store: LmdbStore) -> tuple[int, int]:
    """Whatever a closed object links to is closed. How many are closed, and loose."""
    objects = [one async for page in object_pages(store) for one in page.objects]
    shut = {one.multihash for one in objects if one.closed}
    held = {one.multihash: (one.data or b"", one.multihash in shut) for one in objects}
    for multihash, (data, closed) in held.items():
        if closed and read_header(data) is None and b"\xd8\x2a" in data:
            for link in walked_links(Cid(b"\x01\x71" + multihash), data):
                assert held[link.multihash][1], (multihash.hex(), str(link))
    closed = sum(closed for _, closed in held.values())
    return closed, len(held) - closed


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("car", "batch"),
    [
        ("devnet/chain.car.zst", 1 << 18),
        pytest.param("devnet/chain.car.zst", 48 << 20, marks=pytest.mark.long),
        pytest.param("devnet/snapshot.car.zst", 1 << 18, marks=pytest.mark.long),
        pytest.param("devnet/snapshot.car.zst", 48 << 20, marks=pytest.mark.long),
    ],
)
async def test_an_equal_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, car: str, batch: int) -> None:
    monkeypatch.setattr(blockstore.car.batches, "BATCH_BYTES", batch)
    whole = await whole_of(car)
    store = await sorted_import(tmp_path, recorded(car), recorded("devnet/network.json"))
    await check_whole(store)
    assert await contents(store, tmp_path) == await contents(whole, tmp_path)
    keys = sorted(whole._objects)
    assert await store.get_many(keys) == [whole._objects[key] for key in keys]
    for here, there in zip(await store.held_many(keys), await whole.held_many(keys), strict=True):
        assert here >= there, "what a walk closes is closed"
    await assert_flags_are_true(store)
    await store.close()


async def test_a_made_chain_needs_no_last_pass(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockstore.car.batches, "BATCH_BYTES", 1 << 18)
    closed: list[int] = []
    close_many = LmdbStore.close_many

    async def counted(self: LmdbStore, multihashes: Any) -> None:
        before = await self.held_many(multihashes)
        closed.append(sum(one != Held.CLOSED for one in before))
        await close_many(self, multihashes)

    monkeypatch.setattr(LmdbStore, "close_many", counted)
    store = await sorted_import(tmp_path, made / "made.car", made / "network.json")
    assert sum(closed) == 0, "each object was written once, with its flag"
    plain = MemoryStore()
    await import_car(plain, made / "made.car", network_file=made / "network.json")
    assert await contents(store, tmp_path) == await contents(plain, tmp_path)
    assert (await assert_flags_are_true(store))[1] == 0
    await store.close()


@pytest.mark.parametrize("limit", [200_000, 3], ids=["told before storing", "told by the last pass"])
async def test_a_missing_object_keeps_what_is_above_it_loose(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(blockstore.car.batches, "BATCH_BYTES", 1 << 18)
    monkeypatch.setattr(leader_bridge.imports.sorted_runs, "_MOST_OPEN", limit)
    objects = list(iter_car(made / "made.car"))
    leaves = [cid for cid, raw in objects if b"\xd8\x2a" not in raw]
    gone = set(random.Random(3).sample(leaves, 3))
    # bytes that look like a link to an absent object are none
    seeming = encode([b"\xd8\x2a\x58\x27\x00" + cid_of(b"absent"), 7])
    # an object whose links cannot be told is never closed
    broken = b"\x9f\xd8\x2a\x40\x00\x01"
    with open(tmp_path / "lacks.car", "wb") as file, open(made / "made.car", "rb") as whole:
        writer = CarWriter(file, CarReader(whole).roots)
        for cid, raw in [*objects, (cid_of(seeming), seeming), (cid_of(broken), broken), objects[5]]:
            if cid not in gone:
                writer.write(cid, raw)
    store = await sorted_import(tmp_path, tmp_path / "lacks.car", made / "network.json")
    plain = MemoryStore()
    await import_car(plain, tmp_path / "lacks.car", network_file=made / "network.json")
    assert await contents(store, tmp_path) == await contents(plain, tmp_path)
    _, loose = await assert_flags_are_true(store)
    assert loose > 3
    keys = [cid.multihash for cid, raw in objects if cid not in gone and read_header(raw) is None]
    assert await store.held_many(keys) == await plain.held_many(keys)
    held = await store.held_many([cid_of(seeming)[2:], cid_of(broken)[2:]])
    assert held == [Held.CLOSED if limit > 3 else Held.LOOSE, Held.LOOSE]
    await store.close()


@pytest.mark.long
@pytest.mark.recorded
async def test_with_a_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockstore.car.batches, "BATCH_BYTES", 1 << 18)
    policy = Policy(300, 300, 300)
    car = "devnet/snapshot.car.zst"
    store = await sorted_import(tmp_path, recorded(car), recorded("devnet/network.json"), policy=policy)
    await judge(store, await whole_of(car), policy)
    await assert_flags_are_true(store)
    await store.close()


async def test_objects_only(tmp_path: Path, made: Path) -> None:
    store = await sorted_import(tmp_path, made / "made.car", made / "network.json", index=False)
    plain = MemoryStore()
    await import_car(plain, made / "made.car", index=False)
    keys = sorted(plain._objects)
    assert await store.get_many(keys) == [plain._objects[key] for key in keys]
    assert await store.held_many(keys) == await plain.held_many(keys)
    await store.close()


@pytest.mark.long
@pytest.mark.recorded
async def test_killed_at_random_moments(tmp_path: Path) -> None:
    car, network = recorded("devnet/chain.car.zst"), recorded("devnet/network.json")
    url = f"lmdb://{tmp_path}/store"
    rng = random.Random(5)
    more = ("", str(tmp_path / "import"), "0")
    # in the file, among the parts, in the last pass
    for steps in (6, rng.randrange(25, 40), rng.randrange(40, 60)):
        await asyncio.to_thread(run_child, url, car, network, steps, None, more)
    last = await asyncio.to_thread(run_child, url, car, network, None, None, more)
    assert last.startswith("done")
    store = await LmdbStore.open(tmp_path / "store")
    whole = await whole_of("devnet/chain.car.zst")
    await check_whole(store)
    assert await contents(store, tmp_path) == await contents(whole, tmp_path)
    await assert_flags_are_true(store)
    assert not (tmp_path / "import").exists()
    await store.close()


async def test_a_store_that_holds_objects_is_not_appended_to(tmp_path: Path, made: Path) -> None:
    store = await LmdbStore.open(tmp_path / "store", bulk=True)
    await store.put_many([(cid_of(b"x")[2:], b"x")], closed=True)
    folder = tmp_path / "import"
    await import_car(store, made / "made.car", network_file=made / "network.json", folder=folder, sort_above=0)
    await check_whole(store)
    # an append that meets another's object loses none
    key = await last_key(store)
    assert key is not None
    await append_sorted(store, [(b"\0", b"\1first"), (key, b"\1another"), (key + b"\0", b"\1last")])
    assert await store.get(b"\0") == b"first"
    assert await store.get(key) != b"another"
    assert await store.get(key + b"\0") == b"last"
    await store.close()


async def test_a_wrong_hash_is_known_before_anything_is_stored(tmp_path: Path, made: Path) -> None:
    server = FileServer((made / "made.car").read_bytes(), checksum=f"{'0' * 64} -")
    await server.start()
    store = await LmdbStore.open(tmp_path / "store", bulk=True)
    folder = tmp_path / "import"
    arguments: dict[str, Any] = {"network_file": made / "network.json", "folder": folder, "sort_above": 0}
    try:
        with pytest.raises(DownloadFailed, match="has the sha256"):
            await import_from_url(store, server.url, tmp_path / "download", **arguments)
        assert await last_key(store) is None
        server.checksum = server.right_checksum()
        await import_from_url(store, server.url, tmp_path / "download", **arguments)
    finally:
        await server.stop()
    await check_whole(store)
    assert (await assert_flags_are_true(store))[1] == 0, "it was sorted again"
    assert not folder.exists()
    await store.close()


async def test_too_little_room_is_told_before(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_bridge.imports.sorted_import, "_ROOM", 1 << 40)
    store = await sorted_import(tmp_path, made / "made.car", made / "network.json")
    await check_whole(store)
    await store.close()


def test_runs_that_are_not_of_this_file_are_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    assert SortedRuns.resume(folder, "one", closes=True) is None
    runs = SortedRuns.begin(folder, "one", 1 << 30, closes=True)
    key = cid_of(b"x")[2:]
    runs.add([(key, b"x")], [], 100, 1)
    assert SortedRuns.resume(folder, "two", closes=True) is None
    assert SortedRuns.resume(folder, "one", closes=False) is None
    # a batch that was cut off does not count
    for path in folder.glob("leaves-*"):
        path.write_bytes(path.read_bytes() + b"\7\0\0\0\0\0\0\0cut")
    again = SortedRuns.resume(folder, "one", closes=True)
    assert again is not None
    assert again.offset == 100
    again.decide()
    assert [item for number in again.buckets for item in again.bucket(number, None)] == [(key, b"\1x")]
    assert [item for number in again.buckets for item in again.bucket(number, key)] == []
