"""A snapshot without receipts and events, completed by execution with no node; then every recorded answer."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from blockstore.car.writer import CarWriter
from blockstore.cid import DAG_CBOR, Cid, read_cid, read_uvarint
from blockstore.errors import Fenced
from blockstore.memory import MemoryStore
from blockstore.open import open_store
from blockstore.store import Store
from chain.block import decode_header
from chain.errors import NotHeld
from chain.index.chain_index import HELD_ALL, HELD_EVENTS, HELD_RECEIPTS, INDEXED_EVENTS, ChainIndex, TipsetRow
from chain.ipld.dag_cbor import decode, links
from chain.ipld.objects import Objects
from chain.known_networks import CALIBNET
from chain.network import load_network, read_network_file
from chain.tipset import TipsetKey
from leader_bridge.bridge import Bridge
from leader_bridge.execute_past import PastReport, execute_past
from leader_bridge.imports.importer import import_car
from leader_bridge.store.execution import ExecutionDiffers, StoredChain
from rpc.client.node_info import parse_node_info
from rpc.executor import Place, Reward, Run, Step
from rpc.lookup.tipset_execution import crosses_migration, execute_tipset
from tests.bridge.store.test_traces import assert_traces
from tests.execution.machine import StoreExecutor, engine, require_machine
from tests.support.bridge.chain import genesis_of
from tests.support.bridge.imported import check_whole, rows_of_chain
from tests.support.bridge.node import TestNode, until
from tests.support.bridge.running import quick
from tests.support.paths import ROOT
from tests.support.processes import FollowerProcess, follower_process
from tests.support.recorded import recorded
from tests.support.recorded_answers import assert_recorded_answers
from tests.support.served import served

pytestmark = [pytest.mark.recorded, pytest.mark.timeout(900)]

_RECEIPTS = HELD_RECEIPTS | HELD_EVENTS
_ALL_EPOCHS = 100_000


async def imported(car: Path, network: Path) -> MemoryStore:
    store = MemoryStore()
    await import_car(store, car, network_file=network)
    return store


def lacking(rows: Sequence[TipsetRow]) -> list[TipsetRow]:
    return [row for row in rows if row.held & _RECEIPTS != _RECEIPTS]


def sections(car: Path) -> tuple[list[Cid], dict[Cid, bytes]]:
    """The roots and the objects of a compressed CAR."""
    data = zstandard.ZstdDecompressor().stream_reader(car.read_bytes()).read()
    size, at = read_uvarint(data, 0)
    roots = [Cid(cid) for cid in decode(data[at : at + size])["roots"]]
    at += size
    objects: dict[Cid, bytes] = {}
    while at < len(data):
        size, at = read_uvarint(data, at)
        cid, start = read_cid(data, at)
        objects[cid] = data[start : at + size]
        at += size
    return roots, objects


def receipts_of(roots: Sequence[Cid], objects: dict[Cid, bytes]) -> set[Cid]:
    """What only the receipts and events of a chain are made of: empty messages are an empty array too."""
    found: set[Cid] = set()
    headers: set[Cid] = set()
    waiting = list(roots)
    while waiting:
        headers.update(waiting)
        header = decode_header(waiting[0], objects[waiting[0]])
        below = [header.parent_message_receipts]
        while below:
            one = Cid(below.pop())
            if one in objects and one not in found:
                found.add(one)
                below += links(objects[one])
        waiting = list(header.parents) if header.height else []
    others: set[Cid] = set()
    for cid, data in objects.items():
        if cid in headers:
            header = decode_header(cid, data)
            others.update((header.messages, header.parent_state_root))
        elif cid not in found and cid.codec == DAG_CBOR:
            others.update(Cid(link) for link in links(data))
    return found - others


def write_without_receipts(folder: str, to: Path) -> None:
    """A recorded chain as a snapshot has it: with all states, and no receipts."""
    roots, objects = sections(recorded(f"{folder}/chain.car.zst"))
    left_out = receipts_of(roots, objects)
    with to.open("wb") as file:
        writer = CarWriter(file, roots)
        for cid, data in objects.items():
            if cid not in left_out:
                writer.write(cid, data)


async def test_a_snapshot_is_completed_with_no_node(record_property: Callable[[str, object], None]) -> None:
    require_machine()
    store = await imported(recorded("devnet/snapshot.car.zst"), recorded("devnet/network.json"))
    rows = await check_whole(store)
    assert len(lacking(rows)) > 900
    executor = StoreExecutor(store)
    began = time.monotonic()
    report = await execute_past(store, executor, trace_lookback=_ALL_EPOCHS)
    record_property("seconds for receipts and traces", f"{time.monotonic() - began:.1f}")
    assert report == PastReport(lacking=0, traced=rows[0].height)
    rows = await check_whole(store)
    assert all(row.held == HELD_ALL | INDEXED_EVENTS for row in rows[:-1])
    async with served(store) as server:
        await assert_recorded_answers(f"http://127.0.0.1:{server.port}", "devnet", record_property)
    assert await assert_traces(store, "devnet/traces.jsonl.zst", record_property) == 1_962


@pytest.mark.long
async def test_a_busy_chain_is_completed(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Up to four blocks a tipset; the recording's own receipts are taken out of it."""
    require_machine()
    write_without_receipts("busy", tmp_path / "snapshot.car")
    store = await imported(tmp_path / "snapshot.car", recorded("busy/network.json"))
    assert len(lacking(await rows_of_head(store))) > 800
    await execute_past(store, StoreExecutor(store))
    assert not lacking(await rows_of_head(store))
    async with served(store) as server:
        await assert_recorded_answers(f"http://127.0.0.1:{server.port}", "busy", record_property)


@pytest.mark.long
async def test_what_cannot_be_executed_stays_not_held(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A chain through nine upgrades: all is made but for the tipsets behind a migration and those of old versions."""
    require_machine()
    caplog.set_level("INFO")
    write_without_receipts("upgrades", tmp_path / "snapshot.car")
    store = await imported(tmp_path / "snapshot.car", recorded("upgrades/network.json"))
    rows = await rows_of_head(store)
    before = {row.key for row in lacking(rows)}
    assert len(before) > 490
    network = read_network_file(recorded("upgrades/network.json"), genesis_of_rows(rows))
    by_key = {row.key: row for row in rows}
    await execute_past(store, StoreExecutor(store))
    left = {row.key for row in lacking(await rows_of_head(store))}
    migrations = 0
    for key in before:
        parent = by_key[by_key[key].parent]
        crosses = crosses_migration(network, parent.parent_height, parent.height) is not None
        if network.version_at(parent.parent_height + 1) >= 21 and parent.parent_height >= 0:
            assert (key in left) == crosses, f"executing epoch {parent.height}"
            migrations += crosses
    assert migrations == 4
    assert "not executed: 1 of epochs 641 to 641: not held: execution across the change of the state" in caplog.text


async def test_a_machine_that_differs_stops_the_work(caplog: pytest.LogCaptureFixture) -> None:
    require_machine()
    store = await imported(recorded("devnet/snapshot.car.zst"), recorded("devnet/network.json"))
    before = lacking(await rows_of_head(store))
    executor = StoreExecutor(store)
    executor.root = before[0].key.cids[0]
    with pytest.raises(ExecutionDiffers, match="gives state"):
        await execute_past(store, executor)
    assert lacking(await rows_of_head(store)) == before


async def test_a_real_network_is_not_executed_without_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proofs would count as wrong: no result is better than another state."""
    require_machine()
    from follower.executor.local import LocalExecutor

    store = await imported(recorded("devnet/snapshot.car.zst"), recorded("devnet/network.json"))
    objects = Objects(store)
    network = await load_network(store)
    assert network is not None
    head = (await rows_of_head(store))[0]
    for genesis, keys, held in ((network.genesis, 0, True), (CALIBNET.genesis, 0, False), (CALIBNET.genesis, 1, True)):
        folder = tmp_path / f"{keys}"
        folder.mkdir(exist_ok=True)
        for number in range(keys):
            (folder / f"{number}.vk").touch()
        monkeypatch.setenv("FIL_PROOFS_PARAMETER_CACHE", str(folder))
        # the schedule and the chain stay those of the recording
        index = ChainIndex(store, objects, network)
        executor = LocalExecutor(objects, index, replace(network, genesis=genesis), engine=engine())
        chain = StoredChain(index, objects, network)
        tipset = await index.tipset(head.parent)
        if held:
            await execute_tipset(chain, executor, tipset)
        else:
            with pytest.raises(NotHeld, match="verifying keys of calibrationnet"):
                await execute_tipset(chain, executor, tipset)
        executor.close()


class Counting(StoreExecutor):
    """Calls `then` after so many runs."""

    def __init__(self, store: Store, after: int, then: Callable[[], None]) -> None:
        super().__init__(store)
        self._after = after
        self._then = then

    async def run(
        self, place: Place, steps: Sequence[Step | Reward], *, keep_state: bool = False, objects: bool = False
    ) -> Run:
        if self.runs == self._after:
            self._then()
        return await super().run(place, steps, keep_state=keep_state, objects=objects)


async def test_a_newer_term_ends_the_work(tmp_path: Path) -> None:
    """A bridge that starts meanwhile fences it; what was written stays, and is whole."""
    require_machine()
    url = f"lmdb://{tmp_path}/store"
    store = await open_store(url)
    await import_car(store, recorded("devnet/snapshot.car.zst"), network_file=recorded("devnet/network.json"))
    await store.new_term("backfill")
    before = len(lacking(await rows_of_head(store)))

    def begin_term() -> None:
        program = (
            "import asyncio, sys\n"
            "from blockstore.open import open_store\n"
            "async def begin():\n"
            "    await (await open_store(sys.argv[1])).new_term('a bridge')\n"
            "asyncio.run(begin())\n"
        )
        subprocess.run([sys.executable, "-c", program, url], cwd=ROOT, check=True)

    with pytest.raises(Fenced):
        await execute_past(store, Counting(store, 50, begin_term))
    rows = await check_whole(store)
    assert 0 < before - len(lacking(rows)) <= 51
    await store.close()


async def test_a_bridge_asks_no_node_for_what_it_can_execute() -> None:
    """The node holds no receipts at all."""
    require_machine()
    roots, objects = sections(recorded("devnet/chain.car.zst"))
    left_out = receipts_of(roots, objects)
    store = await imported(recorded("devnet/snapshot.car.zst"), recorded("devnet/network.json"))
    before = lacking(await rows_of_head(store))
    head = TipsetKey.of(roots)
    held = {cid.multihash: data for cid, data in objects.items() if cid not in left_out}
    node = TestNode({cid.multihash: data for cid, data in objects.items()}, genesis_of(held, head), head)
    node.faults.lacks = {cid.multihash for cid in left_out}
    await node.start()
    settings = quick(executes_past=True, backfill_percent=100, network_file=recorded("devnet/network.json"))
    bridge = Bridge(store, parse_node_info(node.url), settings, executor=StoreExecutor(store))
    task = asyncio.create_task(bridge.run())
    try:
        await until(lambda: task.done() or bridge.backfill.idle.is_set(), 300)
    finally:
        bridge.stop()
        await task
        await node.stop()
    assert len(before) > 900
    assert not lacking(await rows_of_head(store))
    assert not {cid.multihash for cid in left_out} & set(node.read)


@pytest.mark.long
async def test_a_killed_backfill_goes_on(tmp_path: Path) -> None:
    """kill -9 three times; then to the end."""
    require_machine()
    url = f"lmdb://{tmp_path}/store"
    store = await open_store(url)
    await import_car(store, recorded("devnet/snapshot.car.zst"), network_file=recorded("devnet/network.json"))
    counts = [len(lacking(await rows_of_head(store)))]
    await store.close()
    socket = str(tmp_path / "executor.sock")
    common = ("--store", url, "--executor-socket", socket)
    with follower_process("execute", *common):
        for _ in range(3):
            # slow enough to be killed on its way
            with follower_process("backfill", *common, "--execution-backfill-percent", "10") as process:
                await until_lacking(url, process, counts[-1] - 20)
                process.stop(signal.SIGKILL)
            store = await open_store(url)
            counts.append(len(lacking(await check_whole(store))))
            await store.close()
        with follower_process("backfill", *common, "--execution-backfill-percent", "100") as process:
            assert await asyncio.to_thread(process.process.wait, 300) == 0, process.output()
            assert "done: 0 tipsets lack receipts or events" in process.output()
    assert counts == sorted(set(counts), reverse=True), "each run got further"
    store = await open_store(url)
    assert all(row.held == HELD_ALL | INDEXED_EVENTS for row in (await check_whole(store))[:-1])
    await store.close()


async def until_lacking(url: str, process: FollowerProcess, most: int) -> None:
    """Wait until no more rows than `most` lack something."""
    async with asyncio.timeout(300):
        while True:
            store = await open_store(url, readonly=True)
            found = len(lacking(await rows_of_head(store)))
            await store.close()
            if found <= most:
                return
            assert process.process.poll() is None, process.output()
            await asyncio.sleep(0.2)


async def rows_of_head(store: Store) -> list[TipsetRow]:
    entry = await store.head()
    assert entry is not None
    return await rows_of_chain(store, TipsetKey(entry.head.key))


def genesis_of_rows(rows: Sequence[TipsetRow]) -> Cid:
    return rows[-1].key.cids[0]
