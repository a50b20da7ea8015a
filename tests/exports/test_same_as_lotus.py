"""The judge: the export of the recorded chain is the export of it that Lotus made, and serves as well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import zstandard

from blockstore.car.reader import CarFile
from blockstore.car.snapshot_forms import Form
from blockstore.cid import Cid
from blockstore.memory import MemoryStore
from blockstore.store import TABLES
from follower.commands.comparison import compare
from leader_bridge.exports.exporter import export_snapshot
from leader_bridge.exports.scope import snapshot_scope
from leader_bridge.imports.importer import import_car
from tests.support.bridge.imported import check_whole
from tests.support.recorded import recorded
from tests.support.recorded_answers import ANSWERS_COMPARED, left_out
from tests.support.served import served

ALL = 100_000

pytestmark = pytest.mark.recorded


def rows_of(store: MemoryStore) -> dict[tuple[str, bytes], dict[bytes, bytes]]:
    """All rows of the chain; what differs from import to import stands in other tables."""
    found = {}
    for (table, partition), rows in store._rows.items():
        if table in TABLES and table not in ("lease", "fleet", "meta", "head_log") and rows.rows:
            found[table, partition] = rows.rows
    return found


async def test_car_is_lotus_export_byte_by_byte(
    recorded_store: Callable[[str], Awaitable[MemoryStore]], tmp_path: Path
) -> None:
    store = await recorded_store("devnet")
    report = await export_snapshot(store, tmp_path / "ours.car", await snapshot_scope(store, state_roots=ALL))
    with recorded("devnet/snapshot.car.zst").open("rb") as file:
        theirs = zstandard.ZstdDecompressor().stream_reader(file).read()
    assert (tmp_path / "ours.car").read_bytes() == theirs
    assert (report.objects, report.height, report.size) == (18_923, 1108, len(theirs))


@pytest.mark.parametrize(
    ("form", "version"),
    [
        (Form.FOREST, 2),
        pytest.param(Form.FOREST, 1, marks=pytest.mark.long),
        (Form.ZSTD, 1),
        pytest.param(Form.ZSTD, 2, marks=pytest.mark.long),
        pytest.param(Form.CAR, 2, marks=pytest.mark.long),
    ],
)
async def test_every_form_holds_the_same_and_imports_with_equal_rows(
    recorded_store: Callable[[str], Awaitable[MemoryStore]], tmp_path: Path, form: Form, version: int
) -> None:
    store = await recorded_store("devnet")
    path = tmp_path / f"ours{form.value}"
    await export_snapshot(store, path, await snapshot_scope(store, state_roots=ALL), version=version)
    theirs = recorded("devnet/snapshot.car.zst")
    with CarFile(path) as ours, CarFile(theirs) as lotus:
        objects = [cid for cid, _ in ours]
        assert ours.head == lotus.roots
        assert (None if ours.snapshot is None else ours.snapshot.version) == (None if version == 1 else 2)
        assert objects[version - 1 :] == [cid for cid, _ in lotus], "in Lotus' order"
    network = recorded("devnet/network.json")
    again, judge = MemoryStore(), MemoryStore()
    await import_car(again, path, network_file=network)
    await import_car(judge, theirs, network_file=network)
    metadata = {cid.multihash for cid in objects[: version - 1]}
    assert again._objects.keys() - metadata == judge._objects.keys()
    assert again._closed - metadata == judge._closed
    assert rows_of(again) == rows_of(judge)


@pytest.mark.long
@pytest.mark.parametrize(("folder", "form"), [("busy", Form.FOREST), ("upgrades", Form.ZSTD), ("vmup", Form.CAR)])
async def test_other_chains_imported_again_hold_all_that_a_snapshot_has(
    recorded_store: Callable[[str], Awaitable[MemoryStore]], tmp_path: Path, folder: str, form: Form
) -> None:
    store = await recorded_store(folder)
    path = tmp_path / f"ours{form.value}"
    scope = await snapshot_scope(store, state_roots=ALL)
    await export_snapshot(store, path, scope)
    again = MemoryStore()
    await import_car(again, path, network_file=recorded(f"{folder}/network.json"))
    rows, before = await check_whole(again), await check_whole(store)
    assert [row.key for row in rows] == [row.key for row in before]
    # messages and states are held as they were, receipts and events are not part of snapshots
    assert all(row.held & 3 == 3 for row in rows)
    ours, theirs = rows_of(again), rows_of(store)
    for table in ("messages", "eth_txs", "post_state"):
        assert {key: one for key, one in ours.items() if key[0] == table} == {
            key: one for key, one in theirs.items() if key[0] == table and key in ours
        }


@pytest.mark.long
@pytest.mark.parametrize("folder", ["devnet", "upgrades", "busy"])
async def test_a_store_made_from_an_export_gives_recorded_answers_or_says_not_held(
    recorded_store: Callable[[str], Awaitable[MemoryStore]],
    tmp_path: Path,
    folder: str,
    record_property: Callable[[str, object], None],
) -> None:
    store = await recorded_store(folder)
    path = tmp_path / "ours.forest.car.zst"
    await export_snapshot(store, path, await snapshot_scope(store, state_roots=ALL), version=2)
    again = MemoryStore()
    await import_car(again, path, network_file=recorded(f"{folder}/network.json"))
    async with served(again) as server:
        report = await compare(
            f"http://127.0.0.1:{server.port}",
            recorded(f"{folder}/rpc.jsonl.zst"),
            exclude=left_out(folder),
            report=100_000,
        )
    # what needs receipts or events is an error; an object asked for by its CID misses with Lotus' own text
    missing = ("not held", "ipld: could not find")
    wrong = [one for one in report.differences if not any(text in str(one) for text in missing)]
    assert not wrong, "\n".join(map(str, wrong[:5]))
    record_property(ANSWERS_COMPARED, report.equal)
    assert report.equal > 0.9 * report.total


async def test_head_below_the_stores_head_is_a_root_of_lotus_chain(
    recorded_store: Callable[[str], Awaitable[MemoryStore]], tmp_path: Path
) -> None:
    store = await recorded_store("devnet")
    scope = await snapshot_scope(store, state_roots=ALL, tipset=700)
    assert scope.head.height <= 700
    await export_snapshot(store, tmp_path / "a.car", scope)
    with CarFile(tmp_path / "a.car") as ours, CarFile(recorded("devnet/snapshot.car.zst")) as lotus:
        lotus_order = [cid for cid, _ in lotus]
        assert ours.roots == scope.head.key.cids
        assert set(ours.roots) <= set(lotus_order)
        held = {cid for cid, _ in ours}
    assert held < set(lotus_order)
    again = MemoryStore()
    await import_car(again, tmp_path / "a.car", network_file=recorded("devnet/network.json"))
    rows = await check_whole(again)
    assert rows[0].key == scope.head.key
    assert Cid(rows[-1].key) in lotus_order
