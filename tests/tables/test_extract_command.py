"""`follower extract` as a process: what it prints, what it refuses, and that a killed one is continued."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from pathlib import Path

import psycopg
import pytest

from blockstore.lmdb.store import LmdbStore
from blockstore.memory import MemoryStore
from chain.errors import NotHeld
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.tipset import TipsetKey
from leader_bridge.imports.importer import import_car
from leader_bridge.tables.catalogue import TASKS
from leader_bridge.tables.extract import ExtractFailed
from tests.support.processes import follower_process, run_follower
from tests.support.recorded import recorded
from tests.support.tables.places import KINDS, Place, new_place
from tests.support.tables.postgres import PASSWORD
from tests.tables.conftest import StoreOf, TablesOf

NAMES = ("block_headers", "messages", "receipts", "actors")


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")

    async def make() -> None:
        store = await LmdbStore.open(folder, map_size=1 << 30)
        car, network = recorded("devnet/chain.car.zst"), recorded("devnet/network.json")
        await import_car(store, car, network_file=network)
        await store.close()

    asyncio.run(make())
    return f"lmdb://{folder}"


@pytest.mark.long
async def test_a_killed_run_is_continued(store_url: str, store_of: StoreOf, tables_of: TablesOf) -> None:
    """kill -9 in the middle of a transaction: the spans before it stay, the next run makes the rest, none twice."""
    place = new_place("postgresql", Path)
    whole = await tables_of("devnet", "parquet")
    height = sorted(row["height"] for row in whole.rows(TASKS["receipts"].table))[-100]
    arguments = ("extract", "--store", store_url, "--to-store", place.url, "--tasks", ",".join(NAMES))
    with psycopg.connect(place.url, autocommit=True) as connection:
        # the run waits at this epoch, as for another worker that is at it
        connection.execute("SELECT pg_advisory_lock(hashtext('receipts'), %s)", [height])
        with follower_process(*arguments) as running:
            deadline = time.monotonic() + 100
            waiting = 0
            while not waiting:
                assert running.process.poll() is None, running.output()
                assert time.monotonic() < deadline, running.output()
                found = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                waiting = found.fetchall()[0][0]
                time.sleep(0.05)
            assert running.stop(signal.SIGKILL) == -signal.SIGKILL
    with psycopg.connect(place.url) as connection:
        done = connection.execute("SELECT count(*), max(height) FROM extracted_tipsets").fetchall()[0]
    assert 0 < done[1] < height
    told = run_follower(*arguments)
    assert told.returncode == 0, told.stderr
    assert f"made before: {done[0]:,} tables of a tipset" in told.stdout
    assert PASSWORD not in told.stdout + told.stderr
    for name in NAMES:
        assert place.rows(TASKS[name].table) == whole.rows(TASKS[name].table)


async def test_what_a_killed_run_left_in_a_folder(tmp_path: Path, store_of: StoreOf) -> None:
    folder = tmp_path / "messages"
    folder.mkdir()
    (folder / "000000000-000002879.parquet.tmp").write_bytes(b"PAR1 cut off")
    place, other = Place(f"parquet:{tmp_path}"), Place(f"parquet:{tmp_path / 'other'}")
    for high in (500, 600):
        await place.extract(await store_of("devnet"), "messages", high=high)
    assert [file.name for file in folder.iterdir()] == ["000000000-000002879.parquet"]
    await other.extract(await store_of("devnet"), "messages", high=600)
    assert place.rows(TASKS["messages"].table) == other.rows(TASKS["messages"].table)


def test_what_a_run_prints(store_url: str, tmp_path: Path) -> None:
    arguments = [
        "extract",
        "--store",
        store_url,
        "--to-store",
        f"parquet:{tmp_path}",
        "--tasks",
        "messages,gas_outputs",
    ]
    told = run_follower(*arguments)
    assert told.returncode == 0, told.stderr
    assert re.fullmatch(
        r"messages: 1,500 rows\nderived_gas_outputs: 1,500 rows\n983 tipsets of epochs 0 to 1108 are in parquet:.*\n"
        r"waiting for the head's child: 1 tables; another run makes them\n",
        told.stdout,
    ), told.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to-store", "parquet:tables", "--tasks", "blocks"], "'blocks' is no task: block_headers, "),
        (["--to-store", "postgresql://u:s3cret@127.0.0.1:1/x?password=s3cret"], "postgresql://127.0.0.1:1/x: "),
    ],
)
def test_what_cannot_be_done_is_said(arguments: list[str], said: str, store_url: str, tmp_path: Path) -> None:
    arguments = [one.replace("parquet:tables", f"parquet:{tmp_path}") for one in arguments]
    done = run_follower("extract", "--store", store_url, *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "s3cret" not in done.stderr
    assert "Traceback" not in done.stderr


LACKING = {
    "actors": ("the state at epoch {0}", lambda tipset: tipset.parent_state_root),
    "chain_powers": ("the state at epoch {0}", lambda tipset: tipset.parent_state_root),
    "receipts": ("the receipts of the tipset at epoch {1}", lambda tipset: tipset.parent_message_receipts),
    "messages": ("the messages of block", lambda tipset: tipset.blocks[0].messages),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LACKING)
async def test_what_is_not_held_names_the_epoch(name: str, kind: str, store_of: StoreOf, tmp_path: Path) -> None:
    """And what is whole is kept: the run after the object has come makes only the rest."""
    store = await store_of("devnet")
    entry = await store.head()
    assert entry is not None
    index = ChainIndex(store, Objects(store))
    tipset = await index.at_height(await index.tipset(TipsetKey(entry.head.key)), 300)
    parent = await index.parent(tipset)
    said, of = LACKING[name]
    lost = of(tipset).multihash
    data = store._objects.pop(lost)
    place = new_place(kind, lambda: tmp_path)
    expected = f"{name} at epoch {tipset.height}: not held: {said.format(tipset.height, parent.height)}"
    try:
        with pytest.raises(ExtractFailed, match=re.escape(expected)):
            await place.extract(store, "block_headers", name, low=200, high=400)
    finally:
        store._objects[lost] = data
    headers = {row["height"] for row in place.rows(TASKS["block_headers"].table)}
    assert min(headers) >= 200
    assert max(headers) == tipset.height
    report = await place.extract(store, "block_headers", name, low=200, high=400)
    assert report.kept == 2 * len(headers) - 1
    assert report.tipsets > len(headers)


async def test_a_store_without_a_chain(tmp_path: Path) -> None:
    with pytest.raises(NotHeld, match="the network of an empty store"):
        await Place(f"parquet:{tmp_path}").extract(MemoryStore(), "messages")
