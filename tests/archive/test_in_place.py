"""The rows over archives are those of an import; a pass that was stopped goes on; commands and processes use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benches.import_car import make_car
from blockstore.archive.named import named_archives
from blockstore.archive.tier import ArchivedObjects, Archives
from blockstore.car.reader import iter_car
from blockstore.cid import Cid, cid_of
from blockstore.errors import StoreError
from blockstore.lmdb.store import LmdbStore
from blockstore.memory import MemoryStore
from blockstore.store import META, Batch, Held
from chain.block import decode_header
from chain.index.chain_index import HELD_MESSAGES, HELD_STATE, ChainIndex
from chain.index.coverage import MESSAGES_INDEX, covered
from chain.index.kept import load_kept
from chain.ipld.objects import Objects
from chain.network import load_network
from chain.tipset import TipsetKey
from follower.archives import objects_below
from follower.cli import main
from follower.settings import load_settings
from follower.worker import open_sources
from leader_bridge.imports import importer
from leader_bridge.imports.import_state import MARK
from leader_bridge.imports.importer import import_car
from leader_bridge.imports.in_place import index_archives
from leader_bridge.nodes.archive_fetcher import ArchiveFetcher
from leader_bridge.nodes.sources import Fetched
from leader_bridge.retention.keeper import Keeper
from leader_bridge.retention.policy import Policy
from leader_bridge.store.mirror import Mirror
from leader_bridge.store.tipset_writer import TipsetWriter
from tests.archive.files import write_forest
from tests.support.bridge.imported import network_file, rows_of_chain


@dataclass(frozen=True)
class Made:
    """A chain that was made for a test: its CAR file, its network, and its objects."""

    car: Path
    network: Path
    roots: Sequence[Cid]
    objects: list[tuple[Cid, bytes]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    chain, _, _ = make_car(folder / "chain.car", 900_000, 20)
    return Made(folder / "chain.car", network_file(folder), chain.head, list(iter_car(folder / "chain.car")))


def forest(made: Made, path: Path, objects: list[tuple[Cid, bytes]] | None = None) -> Path:
    return write_forest(path, made.roots, made.objects if objects is None else objects)


def rows_of(store: MemoryStore) -> dict[Any, Any]:
    """Every row, but what tells how it was made."""
    out = {}
    for (table, partition), rows in store._rows.items():
        out.update({(table, partition, key): value for key, value in rows.rows.items()})
    out.pop((META.name, b"", b"archives"), None)
    return out


async def indexed(made: Made, places: Sequence[Path], **options: Any) -> MemoryStore:
    store = MemoryStore()
    archives = await Archives.open([str(place) for place in places])
    await index_archives(store, archives, network_file=made.network, **options)
    await archives.close()
    return store


@pytest.fixture(scope="module")
def imported(made: Made) -> MemoryStore:
    store = MemoryStore()
    asyncio.run(import_car(store, made.car, network_file=made.network))
    return store


@pytest.mark.parametrize("trusted", [False, True])
async def test_the_rows_are_those_of_an_import(
    trusted: bool, made: Made, imported: MemoryStore, tmp_path: Path
) -> None:
    store = await indexed(made, [forest(made, tmp_path / "file")], trusted=trusted)
    assert rows_of(store) == rows_of(imported)
    assert await store.head() == await imported.head()
    assert (await store.stats())["objects"] == 0
    assert (await named_archives(store)).names == (str(tmp_path / "file"),)


async def test_several_archives_are_one_chain(made: Made, imported: MemoryStore, tmp_path: Path) -> None:
    head = [pair for at, pair in enumerate(made.objects) if at % 3 == 0]
    rest = [pair for at, pair in enumerate(made.objects) if at % 3]
    files = [forest(made, tmp_path / "first", head), forest(made, tmp_path / "second", rest)]
    assert rows_of(await indexed(made, files)) == rows_of(imported)


class Stops(MemoryStore):
    """A store that fails at its n-th write of rows."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.left = writes

    async def write(self, batch: Batch) -> None:
        self.left -= 1
        if not self.left:
            raise StoreError("stopped")
        await super().write(batch)


async def test_a_stopped_pass_goes_on(
    made: Made, imported: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "GROUP", 1)
    store = Stops(4)
    archives = await Archives.open([str(forest(made, tmp_path / "file"))])
    with pytest.raises(StoreError, match="stopped"):
        await index_archives(store, archives, network_file=made.network)
    # nobody serves it yet
    assert await store.row(META, b"", MARK) is not None
    assert await store.head() is None
    report = await index_archives(store, archives, network_file=made.network)
    assert 0 < report.tipsets < len(await rows_of_chain_of(store))
    assert rows_of(store) == rows_of(imported)
    await archives.close()


async def rows_of_chain_of(store: MemoryStore) -> list[Any]:
    entry = await store.head()
    assert entry is not None
    return await rows_of_chain(store, TipsetKey(entry.head.key))


async def test_a_hole_in_a_state_is_not_held(made: Made, tmp_path: Path) -> None:
    """Where something below a root is in no archive, the state of that tipset does not count as held."""
    headers = {cid: decode_header(cid, raw) for cid, raw in made.objects if is_header(raw)}
    root = max(headers.values(), key=lambda header: header.height).parent_state_root
    by_cid = dict(made.objects)
    lost = first_link(by_cid[root])
    store = await indexed(made, [forest(made, tmp_path / "file", [pair for pair in made.objects if pair[0] != lost])])
    rows = await rows_of_chain_of(store)
    assert not rows[0].held & HELD_STATE
    assert rows[0].held & HELD_MESSAGES


def is_header(raw: bytes) -> bool:
    return raw[:1] == b"\x90"


def first_link(raw: bytes) -> Cid:
    at = raw.index(b"\xd8\x2a\x58\x27\x00")
    return Cid(raw[at + 5 : at + 43])


async def test_reads_look_in_the_store_first_and_writes_go_there(made: Made, tmp_path: Path) -> None:
    store = MemoryStore()
    archives = await Archives.open([str(forest(made, tmp_path / "file"))])
    below = objects_below(store, archives)
    cid, raw = made.objects[100]
    other = b"of the store"
    own = cid_of(other)
    await below.put_many([(own.multihash, other)], closed=False)
    absent = cid_of(b"nowhere")
    assert await below.get_many([own.multihash, cid.multihash, absent.multihash]) == [other, raw, None]
    assert await below.get(cid.multihash) == raw
    # what an archive has is not the store's: a walk that mirrors it stores it
    assert await store.held_many([cid.multihash, own.multihash]) == [Held.ABSENT, Held.LOOSE]
    reader = Objects(below)
    assert await reader.get_many([cid, own]) == [raw, other]
    assert await reader.get_held(absent.multihash) is None
    assert objects_below(store, None) is store
    await archives.close()


class Node:
    """A node that holds everything, and remembers what it was asked for."""

    def __init__(self, objects: Sequence[tuple[Cid, bytes]]) -> None:
        self.objects = dict(objects)
        self.asked: list[Cid] = []

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        self.asked += cids
        return Fetched({cid: self.objects[cid] for cid in cids if cid in self.objects}, [])


async def test_a_bridge_asks_nodes_for_the_rest(made: Made, tmp_path: Path) -> None:
    archives = await Archives.open([str(forest(made, tmp_path / "file", made.objects[:50]))])
    node = Node(made.objects)
    wanted = made.objects[40:60]
    fetched = await ArchiveFetcher(archives, node).fetch([cid for cid, _ in wanted])
    assert fetched.found == dict(wanted)
    assert node.asked == [cid for cid, _ in wanted[10:]]
    await archives.close()


async def test_damage_is_an_error_unless_a_node_may_have_it(made: Made, tmp_path: Path) -> None:
    cid, raw = made.objects[7]
    objects = [*made.objects[:7], (cid, b"other"), *made.objects[8:]]
    archives = await Archives.open([str(forest(made, tmp_path / "file", objects))])
    store = MemoryStore()
    with pytest.raises(StoreError):
        await Objects(objects_below(store, archives)).get(cid)

    async def fetch(cids: Sequence[Cid]) -> Sequence[bytes]:
        return [raw] * len(cids)

    assert await Objects(objects_below(store, archives, asks_nodes=True), fetch=fetch).get(cid) == raw
    assert archives.failures > 1
    await archives.close()


@pytest.fixture
async def served_place(made: Made, tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    place = forest(made, tmp_path / "file.forest.car.zst")
    yield {
        "store": f"lmdb://{tmp_path}/store",
        "archive": str(place),
        "archive_cache_dir": str(tmp_path / "cache"),
        "network_file": str(made.network),
    }


async def test_the_command_and_a_process_that_serves(
    served_place: dict[str, str], made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in served_place.items()]
    assert await asyncio.to_thread(main, ["store", "index", *flags]) == 0
    assert "indexed" in capsys.readouterr().out
    flags_of = {name: value for name, value in served_place.items() if name != "network_file"}
    sources = await open_sources(load_settings(environment={}, flags=flags_of), asyncio.Event(), 1 << 20)
    assert sources is not None
    assert sources.archives is not None
    try:
        assert (await load_network(sources.store)) is not None
        entry = await sources.store.head()
        assert entry is not None
        index = ChainIndex(sources.store, sources.objects)
        assert (await index.tipset(TipsetKey(entry.head.key))).height == entry.head.height
        assert await sources.objects.get(made.objects[3][0]) == made.objects[3][1]
        assert (await sources.store.stats())["objects"] == 0
    finally:
        await sources.archives.close()
        await sources.store.close()


async def test_a_store_whose_archive_is_not_named_says_so(
    served_place: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in served_place.items()]
    assert await asyncio.to_thread(main, ["store", "index", *flags]) == 0
    settings = load_settings(environment={}, flags={"store": served_place["store"]})
    sources = await open_sources(settings, asyncio.Event(), 1 << 20)
    assert sources is not None
    await sources.store.close()
    assert any(served_place["archive"] in record.getMessage() for record in caplog.records)


async def test_rows_over_archives_are_not_repaired(
    served_place: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A repair would fetch all that the archive holds, or take the flags of the rows back."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in served_place.items()]
    assert await asyncio.to_thread(main, ["store", "index", *flags]) == 0
    repair = ["store", "check", f"--store={served_place['store']}", "--repair", "--node=http://127.0.0.1:9"]
    assert await asyncio.to_thread(main, repair) != 0
    assert served_place["archive"] in capsys.readouterr().err
    assert await asyncio.to_thread(main, [*repair, "--only=objects"]) == 0


def test_no_archive_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "index", f"--store=lmdb://{tmp_path}/store"]) != 0
    assert "--archive" in capsys.readouterr().err


@pytest.mark.parametrize("archived", [True, False])
async def test_what_leads_to_archives_does_not_age(archived: bool, made: Made, tmp_path: Path) -> None:
    """A bridge that keeps its store small drops neither rows nor flags of what the archives hold."""
    store = await LmdbStore.open(tmp_path / "store")
    archives = await Archives.open([str(forest(made, tmp_path / "file"))])
    await index_archives(store, archives, network_file=made.network)
    entry = await store.head()
    assert entry is not None
    height = entry.head.height
    if not archived:
        batch = Batch()
        batch.delete(META, b"", b"archives")
        await store.write(batch)
    reads = ArchivedObjects(store, archives)
    mirror = Mirror(store, ArchiveFetcher(archives, Node([])))
    writer = TipsetWriter(store, mirror, late_block_retry_delays=(), reads=reads)
    keeper = Keeper(
        store, writer, Policy(10, 10, 10), head=lambda: entry, head_change_lock=asyncio.Lock(), grace_seconds=0.0
    )
    before = await rows_of_chain(store, TipsetKey(entry.head.key), reads)
    assert await covered(store, MESSAGES_INDEX) == [(0, height)]
    await keeper._raise({"state": 500, "messages": 500, "indices": 500})
    await keeper._finish_removing()
    after = await rows_of_chain(store, TipsetKey(entry.head.key), reads)
    assert (after == before) is archived
    assert bool(after[0].held & HELD_STATE) is archived
    assert (await covered(store, MESSAGES_INDEX) == [(0, height)]) is archived
    kept = await load_kept(store)
    assert kept.has_dropped_state(height) is not archived
    assert kept.has_dropped_state(height + 1)
    await archives.close()
    await store.close()
