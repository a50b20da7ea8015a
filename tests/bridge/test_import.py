"""Imports of recorded and made-up chains: whole, resumed, cut, killed, refused."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from benches.import_car import make_car
from blockstore.car.reader import iter_car
from blockstore.car.writer import CarWriter, snapshot_writer
from blockstore.cid import RAW, Cid, cid_of
from blockstore.errors import BadCar, Missing, WrongNetwork
from blockstore.memory import MemoryStore
from blockstore.open import open_store
from blockstore.store import META, TABLES, Held, Store
from chain.errors import BadRequest
from chain.index.chain_index import (
    HELD_ALL,
    HELD_EVENTS,
    HELD_MESSAGES,
    HELD_RECEIPTS,
    HELD_STATE,
    ChainIndex,
    TipsetRow,
)
from chain.index.coverage import covered
from chain.ipld.dag_cbor import encode
from chain.ipld.objects import Objects
from chain.known_networks import CALIBNET, MAINNET, known_network
from chain.network import load_network
from chain.tipset import TipsetKey
from leader_bridge.imports.closing import Closer, possible_links, verify_closed
from leader_bridge.imports.importer import MARK, PROGRESS, import_car
from leader_bridge.imports.progress import Lines, reporting
from leader_bridge.imports.spill_file import KeySpool
from leader_bridge.store.coverage import MESSAGES_INDEX, TIPSETS_INDEX, merged
from tests.support.paths import ROOT
from tests.support.recorded import recorded

NETWORK: dict[str, Any] = {
    "network_name": "made",
    "address_prefix": "t",
    "eth_chain_id": 1,
    "block_delay_secs": 30,
    "upgrades": [{"height": -1, "network_version": 22}],
}


def network_file(folder: Path, **changes: Any) -> Path:
    path = folder / "network.json"
    path.write_bytes(orjson.dumps({**NETWORK, **changes}))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a made-up chain of a few epochs: `made.car`, `network.json`."""
    folder = tmp_path_factory.mktemp("made")
    make_car(folder / "made.car", 3_000_000, state_objects=300)
    network_file(folder)
    return folder


async def rows_of_chain(store: Store, key: TipsetKey) -> list[TipsetRow]:
    index = ChainIndex(store, Objects(store))
    rows: list[TipsetRow] = []
    while True:
        row = await index.row(key)
        assert row is not None
        rows.append(row)
        if row.parent_height < 0:
            return rows
        key = row.parent


async def check_whole(store: Store) -> list[TipsetRow]:
    """Every published head's chain, and what its rows say is held, walk without a missing object."""
    assert await store.row(META, b"", MARK) is None
    assert await store.row(META, b"", PROGRESS) is None
    entry = await store.head()
    assert entry is not None
    network = await load_network(store)
    assert network is not None
    rows = await rows_of_chain(store, TipsetKey(entry.head.key))
    assert rows[-1].height == 0
    assert rows[-1].key.cids == (network.genesis,)
    index = ChainIndex(store, Objects(store))
    roots: dict[Cid, None] = {}
    for row in rows:
        tipset = await index.tipset(row.key)
        assert tipset.height == row.height
        if row.held & HELD_MESSAGES:
            roots.update(dict.fromkeys(block.messages for block in tipset.blocks))
        if row.held & HELD_STATE:
            roots[tipset.parent_state_root] = None
        if row.held & HELD_EVENTS:
            roots[tipset.parent_message_receipts] = None
    assert set(await store.held_many([root.multihash for root in roots])) == {Held.CLOSED}
    some = list(roots)
    for root in some[:: max(1, len(some) // 60)]:
        assert await verify_closed(store, root) > 0
    for low, high in [(0, entry.head.height)]:
        assert await covered(store, TIPSETS_INDEX) == [(low, high)]
    return rows


async def contents(store: Store, folder: Path) -> dict[str, Any]:
    """All rows but the head log's and the leases', for comparing stores."""
    out: dict[str, Any] = {"stats": (await store.stats())["objects"]}
    for row in await rows_of_chain(store, TipsetKey((await store.head()).head.key)):  # type: ignore[union-attr]
        out[str(row.key)] = row
    for index in (TIPSETS_INDEX, MESSAGES_INDEX):
        out[index.decode()] = await covered(store, index)
    return out


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
        "stats": len(plain._objects) + 1,  # the metadata
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


# --- crashes -----------------------------------------------------------------------------------------


def run_child(url: str, car: Path, network: Path, steps: int | None, given: BinaryIO | None = None) -> str:
    """Let an import go `steps` steps and kill it (None: to its end); its last line."""
    root = ROOT
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.bridge.import_child", url, str(car), str(network)],
        stdin=given,
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        text=True,
    )
    assert child.stdout is not None
    line = ""
    for number, one in enumerate(child.stdout):
        line = one.strip()
        if steps is not None and number >= steps:
            break
    if steps is not None:
        child.kill()
    child.stdout.close()
    assert child.wait() in ((0,) if steps is None else (0, -9))
    return line


async def killed_and_resumed(tmp_path: Path, car: Path, network: Path, kills: int, steps: int) -> None:
    url = f"lmdb://{tmp_path}/store"
    rng = random.Random(os.environ.get("SEED", "7"))
    for number in range(kills):
        last = await asyncio.to_thread(run_child, url, car, network, rng.randrange(2, steps))
        store = await open_store(url)
        if await store.head() is not None:
            # the kill came when it was published: then it is whole, whether or not it could still be said
            await check_whole(store)
        else:
            assert not last.startswith("done")
            if number == 0:
                assert await store.row(META, b"", MARK) is not None
        await store.close()
    last = await asyncio.to_thread(run_child, url, car, network, None)
    assert last.startswith("done")
    assert int(last.split()[1]) > 0 or kills == 0
    fresh = MemoryStore()
    await import_car(fresh, car, network_file=network)
    store = await open_store(url)
    await check_whole(store)
    assert await contents(store, tmp_path) == await contents(fresh, tmp_path)
    held = [await one.held_many(sorted(fresh._objects)) for one in (store, fresh)]
    assert held[0] == held[1], "closed and loose are the same as without a crash"
    await store.close()


@pytest.mark.recorded
async def test_killed_at_random_moments(tmp_path: Path) -> None:
    car, network = recorded("devnet/chain.car.zst"), recorded("devnet/network.json")
    await killed_and_resumed(tmp_path, car, network, kills=7, steps=55)


async def test_made_chain_killed(tmp_path: Path, made: Path) -> None:
    await killed_and_resumed(tmp_path, made / "made.car", made / "network.json", kills=3, steps=6)


async def test_standard_input(tmp_path: Path, made: Path) -> None:
    url = f"lmdb://{tmp_path}/store"
    with open(made / "made.car", "rb") as car:
        last = await asyncio.to_thread(run_child, url, Path("-"), made / "network.json", None, car)
    assert last == "done 0"
    store = await open_store(url)
    await check_whole(store)
    await store.close()


def children() -> set[str]:
    """The processes that this one has started and not yet waited for."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


async def test_cancelled_import_leaves_no_process(tmp_path: Path, made: Path) -> None:
    store = MemoryStore()
    before = children()

    class Stops(Lines):
        def at(self, done: int, note: str = "") -> None:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await import_car(
            store, made / "made.car", network_file=made / "network.json", process=True, progress=Stops(io.StringIO())
        )
    report = await import_car(store, made / "made.car", network_file=made / "network.json")
    assert report.published
    assert children() <= before


# --- parts -------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1 << 32), size=st.integers(1, 40), batch=st.integers(1, 8))
@settings(max_examples=150, deadline=None)
def test_closed_is_exactly_what_is_held_whole(seed: int, size: int, batch: int) -> None:
    """A random graph with objects left out: what is closed has everything below it, and nothing else is."""
    rng = random.Random(seed)
    objects: list[tuple[Cid, bytes, list[int]]] = []
    for number in range(size):
        below = [rng.randrange(number) for _ in range(rng.randrange(4))] if number else []
        # a link inside a byte string is none
        hidden = encode(objects[rng.randrange(number)][0]) if number and rng.random() < 0.5 else b""
        raw = encode([number, hidden, {"a": [objects[at][0] for at in below]}])
        objects.append((cid_of(raw), raw, below))
    absent = {rng.randrange(size) for _ in range(rng.randrange(3))}
    whole: list[bool] = []
    for number, (_, _, below) in enumerate(objects):
        whole.append(number not in absent and all(whole[at] for at in below))
    roots = [rng.randrange(size) for _ in range(rng.randrange(1, 5))]

    async def check() -> None:
        store = MemoryStore()
        kept = [(cid.multihash, raw) for n, (cid, raw, _) in enumerate(objects) if n not in absent]
        await store.put_many(kept, closed=False)
        closer = Closer(store, batch=batch)
        done = await closer.close([objects[at][0] for at in roots])
        assert done.failed == {objects[at][0] for at in roots if not whole[at]}
        reached: set[int] = set()
        waiting = list(roots)
        while waiting:
            at = waiting.pop()
            if at not in reached and at not in absent:
                reached.add(at)
                waiting.extend(objects[at][2])
        for number, (cid, _, _) in enumerate(objects):
            (held,) = await store.held_many([cid.multihash])
            if held == Held.CLOSED:
                assert whole[number]
                assert await verify_closed(store, cid) > 0
            elif number in reached:
                assert not whole[number]
                with pytest.raises(Missing):
                    await verify_closed(store, cid)

    asyncio.run(check())


async def test_actor_code_may_be_absent_and_bytecode_not() -> None:
    code, state, bytecode = cid_of(b"wasm", RAW), encode([1]), cid_of(b"evm", RAW)
    actor = encode([[code, cid_of(state), 0, b""]])
    contract = encode([bytecode, bytes(32), cid_of(state), None, 1])
    store = MemoryStore()
    await store.put_many([(cid_of(raw).multihash, raw) for raw in (state, actor, contract)], closed=False)
    assert (await Closer(store).close([cid_of(actor), cid_of(contract)])).failed == {cid_of(contract)}
    strict = await Closer(store, actor_code=True).close([cid_of(contract)])
    assert strict.missing == [bytecode]
    await store.put_many([(bytecode.multihash, b"evm")], closed=True)
    assert not (await Closer(store).close([cid_of(contract)])).failed


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=300))
@settings(max_examples=30, deadline=None)
def test_spool(keys: list[bytes]) -> None:
    with KeySpool() as spool:
        for key in keys:
            spool.append(TipsetKey(key))
        assert spool.count == len(keys)
        assert list(spool.backwards()) == keys[::-1]


def test_long_spool() -> None:
    with KeySpool() as spool:
        for number in range(60_000):
            spool.append(TipsetKey(number.to_bytes(38 + number % 5, "big")))
        got = list(spool.backwards())
    assert [int.from_bytes(key, "big") for key in got] == list(range(59_999, -1, -1))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=12))
@settings(max_examples=100)
def test_ranges(parts: list[tuple[int, int]]) -> None:
    ranges = [(low, low + more) for low, more in parts]
    out = merged(ranges)
    assert {n for low, high in out for n in range(low, high + 1)} == {
        n for low, high in ranges for n in range(low, high + 1)
    }
    assert all(one[1] + 1 < two[0] for one, two in itertools.pairwise(out))


async def test_progress_is_told_in_plain_lines(made: Path) -> None:
    out = io.StringIO()
    with reporting(out) as reporter:
        await import_car(MemoryStore(), made / "made.car", network_file=made / "network.json", progress=reporter)
    lines = out.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["objects", "headers", "tipsets"]
    assert "(100 %)" in lines[0]
    assert "MB/s" in lines[0]


def test_time_left_in_lines() -> None:
    out = io.StringIO()
    lines = Lines(out, every=0)
    lines.phase("objects", 1_000_000, "bytes")
    lines.at(0)
    lines.at(500_000, "7 objects")
    assert "0.5 MB of 1.0 MB (50 %)" in out.getvalue()
    assert "left, 7 objects" in out.getvalue()


def test_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with reporting(out) as reporter:
        reporter.phase("objects", 100, "bytes")
        reporter.at(0)
        reporter.at(100, "all of it")
        reporter.say("a word")
    assert "objects" in out.getvalue()
    assert "a word" in out.getvalue()


def test_a_link_behind_what_looks_like_one() -> None:
    """A byte string that ends like the beginning of a link hides none that follows."""
    target = cid_of(b"target")
    beginning = encode(target)[:11]
    raw = encode([beginning, target])
    assert list(possible_links(cid_of(raw), raw)) == [target]
