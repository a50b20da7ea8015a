"""`follower store copy`: between kinds of stores, while the first one grows, and over kills."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import pytest

from blockstore.cassandra.store import CassandraStore
from blockstore.errors import StoreError, StoreUnavailable, Unfinished
from blockstore.lmdb.store import LmdbStore
from blockstore.store import HEAD_LOG, LEASE, META, TABLES, Batch, Store
from devnode.replay import start_replay
from leader_bridge.bridge import Bridge
from leader_bridge.imports.import_state import MARK
from leader_bridge.imports.importer import import_car
from leader_bridge.settings import BridgeSettings
from leader_bridge.store.unfinished_copy import COPY
from leader_bridge.upkeep.check import check_store
from leader_bridge.upkeep.copy import copy_store
from leader_bridge.upkeep.damage import CheckReport
from leader_bridge.upkeep.pace import Pace
from rpc.client.node_info import parse_node_info
from tests.support.cassandra.stores import emptied, keyspace_url
from tests.support.paths import ROOT
from tests.support.processes import clean_environment, run_follower
from tests.support.recorded import recorded
from tests.support.recorded_answers import assert_recorded_answers
from tests.support.served import served
from tests.support.whole_path import reach
from tests.upkeep.damages import everything, flipped_byte

COMPARED = [table for table in TABLES.values() if table not in (HEAD_LOG, LEASE, META)]


async def assert_copied(source: Store, target: LmdbStore) -> None:
    """The copy holds the same objects and rows, byte by byte, and the same head."""
    assert await everything(target, COMPARED) == await everything(source, COMPARED)
    ours, theirs = await target.head(), await source.head()
    assert ours is not None
    assert theirs is not None
    assert ours.head == theirs.head
    for key in (MARK, COPY):
        assert await target.row(META, b"", key) is None
    assert await whole(target)


async def whole(store: Store) -> bool:
    report = CheckReport()
    await check_store(store, report)
    assert report.damages == []
    return report.objects > 0


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[LmdbStore]:
    opened = await LmdbStore.open(tmp_path / "copy", bulk=True)
    yield opened
    await opened.close()


@pytest.mark.recorded
async def test_lmdb_to_lmdb(store: LmdbStore, target: LmdbStore) -> None:
    done = await copy_store(store, target)
    assert (done.objects, done.height) == (20_233 + 1078, 1108)
    await assert_copied(store, target)
    with pytest.raises(StoreError, match="holds a chain already"):
        await copy_store(store, target)


@pytest.mark.recorded
async def test_a_damaged_object_is_not_copied(store: LmdbStore, target: LmdbStore) -> None:
    name = await flipped_byte(store, 700)
    with pytest.raises(StoreError, match=name):
        await copy_store(store, target)
    # what was begun is no store to import into, nor to follow with
    with pytest.raises(Unfinished, match="copy that has not ended"):
        await import_car(target, recorded("devnet/chain.car.zst"))
    done = await asyncio.to_thread(
        run_follower, "bridge", "--store", target.url, "--node", "http://127.0.0.1:1", "--log-level", "error"
    )
    assert done.returncode == 2
    assert "copy that has not ended" in done.stderr
    with pytest.raises(Unfinished):
        await copy_store(target, store)


@pytest.mark.recorded
async def test_the_first_store_goes_on_meanwhile(tmp_path: Path, target: LmdbStore) -> None:
    """A bridge writes to it, reorgs and all: the copy is whole, and ends at a head that was published meanwhile."""
    node = await start_replay(recorded("devnet/chain.car.zst").parent)
    source = await LmdbStore.open(tmp_path / "source", bulk=True)
    bridge = Bridge(
        source,
        parse_node_info(node.base),
        BridgeSettings(network_file=recorded("devnet/network.json"), backfill_epochs=100_000, actor_code=True),
    )
    running = asyncio.create_task(bridge.run())
    try:
        await reach(source, node, running)
        node.advance(200)
        await reach(source, node, running)
        begun = await source.head()
        copying = asyncio.create_task(copy_store(source, target, pace=Pace(20)))
        while not copying.done() and not node.ended:
            node.advance(3)
            await reach(source, node, running)
            await asyncio.sleep(0.01)
        done = await copying
    finally:
        bridge.stop()
        await running
        await node.stop()
    assert begun is not None
    assert done.caught_up > 3
    assert done.height > begun.head.height
    copied = await target.head()
    assert copied is not None
    assert copied.head in [ref for entry in await source.head_entries(0) for ref in entry.applies]
    assert await whole(target)
    assert await whole(source)
    ours, theirs = await everything(target, COMPARED), await everything(source, COMPARED)
    assert {name for name in ours if not name.startswith("coverage")} <= theirs.keys()
    await source.close()


async def reached(url: Path, step: str) -> None:
    """Wait until a copy has written a page of a step."""
    while True:
        try:
            target = await LmdbStore.open(url, readonly=True)
        except StoreUnavailable:
            await asyncio.sleep(0.01)
            continue
        value = await target.row(META, b"", COPY)
        await target.close()
        if value is not None and (state := orjson.loads(value))["step"] == step and state["position"]:
            return
        await asyncio.sleep(0.01)


@pytest.mark.long
@pytest.mark.recorded
async def test_a_killed_copy_goes_on(devnet_folder: Path, tmp_path: Path) -> None:
    """kill -9 in several steps."""
    copy = tmp_path / "b"
    command = [sys.executable, "-m", "follower.cli", "store", "copy", f"lmdb://{devnet_folder}", f"lmdb://{copy}"]
    for step in ("event_postings", "objects"):
        process = subprocess.Popen(
            [*command, "--percent", "8"], cwd=ROOT, env=clean_environment({}), stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(60):
            await reached(copy, step)
        process.kill()
        assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
    done = await asyncio.to_thread(run_follower, *command[3:], "--percent", "100")
    assert done.returncode == 0, done.stderr
    assert "an earlier copy stopped here: going on with objects" in done.stderr
    assert "copied 21,311 objects" in done.stdout
    source = await LmdbStore.open(devnet_folder, readonly=True)
    target = await LmdbStore.open(copy)
    await assert_copied(source, target)
    await source.close()
    await target.close()


@pytest.mark.recorded
@pytest.mark.parametrize(
    "folder", ["devnet", pytest.param("busy", marks=pytest.mark.long), pytest.param("upgrades", marks=pytest.mark.long)]
)
async def test_to_cassandra_and_back(
    folder: str, tmp_path: Path, target: LmdbStore, record_property: Callable[[str, object], None]
) -> None:
    """Equal bytes of objects, equal rows, equal answers."""
    url = keyspace_url("follower_copy")
    source = await LmdbStore.open(tmp_path / "source", bulk=True)
    await import_car(source, recorded(f"{folder}/chain.car.zst"), network_file=recorded(f"{folder}/network.json"))
    between = await emptied(url, delta_ms=200, epsilon_ms=50, every=True)
    there = await copy_store(source, between)
    await between.close()
    # opened anew: nothing is told by what the writer remembers
    between = await CassandraStore.open(url, delta_ms=200, epsilon_ms=50)
    if folder != "devnet":
        assert await whole(between)
    back = await copy_store(between, target)
    await between.close()
    assert (back.objects, back.object_bytes) == (there.objects, there.object_bytes)
    await assert_copied(source, target)
    await source.close()
    async with served(target) as server:
        await assert_recorded_answers(f"http://127.0.0.1:{server.port}", folder, record_property)


async def test_a_store_without_a_head_is_not_copied(tmp_path: Path, target: LmdbStore) -> None:
    empty = await LmdbStore.open(tmp_path / "empty")
    with pytest.raises(StoreError, match="holds no head yet"):
        await copy_store(empty, target)
    await empty.write(Batch([(META, b"", MARK, b"{}")]))
    with pytest.raises(Unfinished):
        await copy_store(empty, target)
    await empty.close()
    assert await target.row(META, b"", COPY) is None


def test_the_command_wants_two_stores(tmp_path: Path) -> None:
    done = run_follower("store", "copy", f"lmdb://{tmp_path}/a", f"lmdb://{tmp_path}/a")
    assert done.returncode == 2
    assert "another one" in done.stderr
    done = run_follower("store", "copy", f"lmdb://{tmp_path}/a", f"lmdb://{tmp_path}/b")
    assert done.returncode == 1
    assert "has not been made yet" in done.stderr
    assert not (tmp_path / "b").exists()
