"""Imports of recorded and made-up chains: whole, and refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import zstandard

from benches.import_car import make_car
from blockstore.car.reader import iter_car
from blockstore.car.writer import CarWriter, snapshot_writer
from blockstore.cid import cid_of
from blockstore.errors import BadCar, WrongNetwork
from blockstore.memory import MemoryStore
from blockstore.open import open_store
from blockstore.store import META, TABLES, Held
from chain.errors import BadRequest
from chain.index.chain_index import (
    HELD_ALL,
    HELD_EVENTS,
    HELD_MESSAGES,
    HELD_RECEIPTS,
    HELD_STATE,
)
from chain.index.coverage import MESSAGES_INDEX, covered
from chain.known_networks import CALIBNET, MAINNET, known_network
from chain.network import load_network
from chain.tipset import TipsetKey
from leader_bridge.imports.import_state import MARK
from leader_bridge.imports.importer import import_car
from tests.support.bridge.imported import check_whole, contents, network_file
from tests.support.recorded import recorded

# --- recorded chains ---------------------------------------------------------------------------------


@pytest.mark.recorded
@pytest.mark.parametrize(("folder", "height", "tipsets"), [("devnet", 1108, 983), ("upgrades", 768, 688)])
@pytest.mark.parametrize("kind", ["memory", "lmdb"])
async def test_recorded_chain(tmp_path: Path, kind: str, folder: str, height: int, tipsets: int) -> None:
    store = MemoryStore() if kind == "memory" else await open_store(f"lmdb://{tmp_path}/store", bulk=True)
    car = recorded(f"{folder}/chain.car.zst")
    report = await import_car(store, car, network_file=recorded(f"{folder}/network.json"), process=kind == "lmdb")
    assert (report.height, report.lowest, report.tipsets, report.published) == (height, 0, tipsets, True)
    rows = await check_whole(store)
    assert len(rows) == tipsets
    assert {row.held & HELD_ALL for row in rows} == {HELD_ALL}
    assert await covered(store, MESSAGES_INDEX) == [(0, height)]
    # reverted blocks are under no head, and are there all the same
    objects = list(iter_car(car))
    held = await store.held_many([cid.multihash for cid, _ in objects])
    absent = [cid for (cid, _), one in zip(objects, held, strict=True) if one == Held.ABSENT]
    assert [cid for cid in absent if not cid.is_identity] == []
    assert Held.LOOSE in held
    await store.close()


@pytest.mark.recorded
async def test_snapshot_lacks_receipts_and_says_so_until_they_come() -> None:
    store = MemoryStore()
    network = recorded("devnet/network.json")
    await import_car(store, recorded("devnet/snapshot.car.zst"), network_file=network)
    rows = await check_whole(store)
    assert all(row.held & HELD_MESSAGES and row.held & HELD_STATE for row in rows)
    without = [row for row in rows if not row.held & (HELD_RECEIPTS | HELD_EVENTS)]
    assert len(without) > 900
    # the same chain with its receipts, imported over it: the head stays, the rows gain
    report = await import_car(store, recorded("devnet/chain.car.zst"))
    assert not report.published
    assert {row.held & HELD_ALL for row in await check_whole(store)} == {HELD_ALL}
    assert len(await store.head_entries(0)) == 1


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("name", "network", "height"),
    [
        ("genesis/mainnet.car.zst", "mainnet", 0),
        ("genesis/calibnet.car.zst", "calibrationnet", 0),
        ("cars/chain4.car", "mainnet", 3),
        ("cars/chain4.car.zst", "mainnet", 3),
        ("cars/chain4.forest.car.zst", "mainnet", 3),
        ("cars/export40.car", "mainnet", 39),
    ],
)
async def test_real_files_of_known_networks(name: str, network: str, height: int) -> None:
    store = MemoryStore()
    report = await import_car(store, recorded(name))
    assert report.network is not None
    assert (report.network.name, report.height) == (network, height)
    rows = await check_whole(store)
    assert rows[-1].held & HELD_ALL == HELD_ALL, "a genesis is whole"
    if height == 39:
        # made with old state, old messages and all receipts left out
        assert {row.held & HELD_STATE for row in rows} == {0, HELD_STATE}


@pytest.mark.recorded
async def test_version_2_file_of_an_unknown_network(tmp_path: Path) -> None:
    store = MemoryStore()
    with pytest.raises(BadRequest, match="--network"):
        await import_car(store, recorded("cars/carv2.car.zst"))
    assert await store.row(META, b"", MARK) is not None
    assert await store.head() is None
    report = await import_car(store, recorded("cars/carv2.car.zst"), network_file=network_file(tmp_path))
    assert report.resumed_at > 0, "what was read is kept"
    assert report.published
    await check_whole(store)


@pytest.mark.recorded
async def test_version_2_snapshot(tmp_path: Path) -> None:
    objects = list(iter_car(recorded("cars/export40.car")))
    plain = MemoryStore()
    await import_car(plain, recorded("cars/export40.car"))
    entry = await plain.head()
    assert entry is not None
    path = tmp_path / "snapshot.car.zst"
    with open(path, "wb") as file, zstandard.ZstdCompressor().stream_writer(file) as out:
        writer = snapshot_writer(out, TipsetKey(entry.head.key).cids, random.Random(1).randbytes(9 << 20))
        for cid, data in objects:
            writer.write(cid, data)
    store = MemoryStore()
    report = await import_car(store, path)
    assert report.f3_bytes == 9 << 20
    got = await store.head()
    assert got is not None
    assert got.head == entry.head
    assert await contents(store, tmp_path) == {
        **await contents(plain, tmp_path),
        "objects": len(plain._objects) + 1,  # the metadata
    }


# --- what is refused ---------------------------------------------------------------------------------


async def test_other_networks_are_refused(tmp_path: Path, made: Path) -> None:
    store = MemoryStore()
    await import_car(store, made / "made.car", network_file=made / "network.json")
    before = await store.head()
    other = tmp_path / "other.car"
    chain, _, _ = make_car(other, 200_000, state_objects=40)
    assert chain.genesis is not None
    with pytest.raises(WrongNetwork, match=str(chain.genesis)):
        await import_car(store, other)
    assert await store.head() == before
    await check_whole(store)
    with pytest.raises(WrongNetwork, match="another"):
        await import_car(store, made / "made.car", network_file=network_file(tmp_path, network_name="another"))
    with pytest.raises(WrongNetwork):
        wrong = network_file(tmp_path, genesis=str(MAINNET.genesis))
        await import_car(MemoryStore(), made / "made.car", network_file=wrong)
    with pytest.raises(BadRequest, match="invalid literal"):
        await import_car(MemoryStore(), made / "made.car", network_file=network_file(tmp_path, eth_chain_id="x"))


async def test_a_network_must_be_known_or_told(made: Path) -> None:
    store = MemoryStore()
    with pytest.raises(BadRequest, match="no known network"):
        await import_car(store, made / "made.car")
    assert await store.head() is None
    assert await load_network(store) is None


def test_known_networks() -> None:
    assert known_network(MAINNET.genesis) is MAINNET
    assert known_network(cid_of(b"x")) is None
    for network in (MAINNET, CALIBNET):
        heights = [height for height, _ in network.upgrades]
        versions = [version for _, version in network.upgrades]
        assert heights == sorted(set(heights))
        assert versions == sorted(set(versions))
        assert versions[-1] == 28
    # an upgrade's epoch is the last one of the version before
    assert (MAINNET.version_at(41280), MAINNET.version_at(41281)) == (0, 1)
    assert (MAINNET.version_at(2870280), MAINNET.version_at(2870281)) == (19, 20)
    assert (MAINNET.version_at(5138040), MAINNET.version_at(5138041)) == (25, 26)
    assert (CALIBNET.version_at(0), CALIBNET.version_at(31), CALIBNET.version_at(2543615)) == (0, 4, 26)


async def test_cut_file_then_the_whole_one(tmp_path: Path, made: Path) -> None:
    whole = (made / "made.car").read_bytes()
    path = tmp_path / "growing.car"
    for process in (False, True):
        store = await open_store(f"lmdb://{tmp_path}/store{process}", bulk=True)
        for part in (0.3, 0.8):
            path.write_bytes(whole[: int(len(whole) * part)])
            with pytest.raises(BadCar) as caught:
                await import_car(store, path, network_file=made / "network.json", process=process)
            assert caught.value.offset == int(len(whole) * part)
            assert await store.row(META, b"", MARK) is not None, "nothing is served from it"
            assert await store.head() is None
        path.write_bytes(whole)
        report = await import_car(store, path, network_file=made / "network.json", process=process)
        assert int(len(whole) * 0.7) < report.resumed_at < int(len(whole) * 0.8)
        await check_whole(store)
        await store.close()


async def test_corrupted_file_keeps_what_came_before(tmp_path: Path, made: Path) -> None:
    whole = bytearray((made / "made.car").read_bytes())
    whole[2_000_000] ^= 1
    path = tmp_path / "bad.car"
    path.write_bytes(whole)
    store = MemoryStore()
    with pytest.raises(BadCar, match="byte offset") as caught:
        await import_car(store, path, network_file=made / "network.json")
    assert 1_990_000 < caught.value.offset <= 2_000_000
    assert (await store.stats())["objects"] > 1500
    report = await import_car(store, made / "made.car", network_file=made / "network.json")
    assert report.resumed_at == caught.value.offset
    await check_whole(store)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x28\xb5\x2f\xfd\xff\xff"])
async def test_no_car_at_all(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "no.car"
    path.write_bytes(data)
    store = MemoryStore()
    with pytest.raises(BadCar):
        await import_car(store, path)
    assert await store.row(META, b"", MARK) is None, "no import has begun"
    with pytest.raises(FileNotFoundError):
        await import_car(store, tmp_path / "none.car")


async def test_head_that_is_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.car"
    with open(path, "wb") as file:
        CarWriter(file, [cid_of(b"head")]).write(cid_of(b"\x80"), b"\x80")
    with pytest.raises(BadCar, match="not in the file"):
        await import_car(MemoryStore(), path)


async def test_objects_only(made: Path) -> None:
    store = MemoryStore()
    report = await import_car(store, made / "made.car", index=False)
    assert report.objects > 1000
    assert await store.head() is None
    assert not [name for name in TABLES if (name, b"") in store._rows and store._rows[name, b""].rows]


async def test_a_newer_file_moves_the_head(tmp_path: Path, made: Path) -> None:
    # the same chain, some epochs longer: made by the same seed
    make_car(tmp_path / "longer.car", 4_000_000, state_objects=300)
    store = MemoryStore()
    first = await import_car(store, made / "made.car", network_file=made / "network.json")
    second = await import_car(store, tmp_path / "longer.car")
    assert second.published
    entries = await store.head_entries(0)
    assert entries[-1].head.key == second.head
    applied = [ref.height for entry in entries[1:] for ref in entry.applies]
    assert applied == list(range(first.height + 1, second.height + 1))
    assert not [ref for entry in entries for ref in entry.reverts]
    await check_whole(store)
    # an older one moves nothing
    assert not (await import_car(store, made / "made.car")).published
    assert len(await store.head_entries(0)) == len(entries)
