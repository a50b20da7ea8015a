"""What a follower of a far store reads before it takes requests: its first answers wait for no read of the store."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from pathlib import Path
from typing import Any

import orjson
import pytest

from benches.chain_methods import services_over
from blockstore.lmdb.store import LmdbStore
from chain.errors import NotHeld
from chain.state.state_tree import StateTree
from follower.ahead.asked_before import AskedBefore
from follower.ahead.start_ahead import StartAhead, read_levels, start_ahead
from rpc.errors import Unavailable
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings
from rpc.services import Head
from tests.support.bridge.imported import lmdb_of_devnet

_READS = frozenset({"get", "get_many", "row", "rows", "scan"})

pytestmark = pytest.mark.recorded


class Far:
    """A store whose reads are counted, and never end while it `hangs`."""

    def __init__(self, store: LmdbStore) -> None:
        self._store = store
        self.reads: list[str] = []
        self.hangs = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in _READS:
            return found

        async def read(*arguments: Any, **named: Any) -> Any:
            self.reads.append(f"{name} {arguments[0]!r}")
            if self.hangs:
                await asyncio.get_running_loop().create_future()
            return await found(*arguments, **named)

        return read


@pytest.fixture(scope="module")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    register_all()
    return lmdb_of_devnet(tmp_path_factory.mktemp("start") / "store")


@contextlib.asynccontextmanager
async def follower(path: Path, folder: Path, seconds: float, epochs: int = 3) -> Any:
    """(store, dispatcher) of a follower that has read ahead; what it was asked is in `folder` behind the block."""
    store = await LmdbStore.open(path)
    far = Far(store)
    async with contextlib.AsyncExitStack() as closing:
        closing.push_async_callback(store.close)
        services = await services_over(far)  # type: ignore[arg-type]
        dispatcher = Dispatcher(services, settings=ServerSettings(answer_cache_bytes=64 << 20))
        await start_ahead(dispatcher, seconds, folder, closing, epochs)
        # the task that keeps questions has begun
        await asyncio.sleep(0)
        yield far, dispatcher


async def ask(dispatcher: Dispatcher, method: str, *params: Any) -> Any:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
    return orjson.loads((await dispatcher.http(1, body))[1])["result"]


async def test_what_the_process_before_was_asked_is_answered_without_a_read(devnet: Path, tmp_path: Path) -> None:
    wanted = [("eth_getBlockByNumber", "0x187", True), ("Filecoin.StateGetActor", "f01085", []),
              ("eth_getLogs", {"fromBlock": "0x402", "toBlock": "0x452"})]  # fmt: skip
    async with follower(devnet, tmp_path, 0.0) as (far, dispatcher):
        expected = [await ask(dispatcher, *one) for one in wanted]
        assert far.reads
    async with follower(devnet, tmp_path, 60.0) as (far, dispatcher):
        counts = {stats.name: stats.count for stats in dispatcher.metrics.methods()}
        assert not any(counts.values()), "its own questions count as no client's"
        far.reads.clear()
        assert [await ask(dispatcher, *one) for one in wanted] == expected
        assert not far.reads
    # who was not asked by anybody keeps them for the next one
    async with follower(devnet, tmp_path, 60.0):
        pass
    assert len(AskedBefore(tmp_path).load()) >= len(wanted)


async def test_on_a_new_machine_the_newest_epochs_need_no_read(devnet: Path, tmp_path: Path) -> None:
    async with follower(devnet, tmp_path, 120.0, 100) as (far, dispatcher):
        top = int(await ask(dispatcher, "eth_blockNumber"), 16)
        far.reads.clear()
        assert await ask(dispatcher, "eth_getBlockByNumber", "finalized", False)
        for height in range(top - 100, top, 7):
            block = await ask(dispatcher, "eth_getBlockByNumber", hex(height), True)
            if block:
                await ask(dispatcher, "eth_getLogs", {"blockHash": block["hash"]})
                await ask(dispatcher, "eth_getBalance", "0xff" + "0" * 36 + "63", hex(height))
        assert not far.reads


async def test_on_a_new_machine_any_actor_of_the_newest_states_needs_no_read(devnet: Path, tmp_path: Path) -> None:
    """By its ID and by its other addresses: both maps are read from above, before what actors point at."""
    async with follower(devnet, tmp_path, 0.0) as (_, dispatcher):
        actors = await ask(dispatcher, "Filecoin.StateListActors", [])
        created = [actor for actor in actors if len(actor) > len("f0100")]
        robust = [await ask(dispatcher, "Filecoin.StateLookupRobustAddress", actor, []) for actor in created]
        older = (await ask(dispatcher, "Filecoin.ChainGetTipSetByHeight", 1080, []))["Cids"]
        before = await ask(dispatcher, "Filecoin.StateListActors", older)
    assert len(robust) > 200
    async with follower(devnet, tmp_path / "new", 120.0, 100) as (far, dispatcher):
        far.reads.clear()
        for actor in (*actors, *robust):
            assert await ask(dispatcher, "Filecoin.StateGetActor", actor, [])
        for actor in before:
            assert await ask(dispatcher, "Filecoin.StateGetActor", actor, older)
        assert not far.reads


async def test_a_state_of_an_unknown_form_is_read_as_objects(devnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*_: object) -> StateTree:
        raise NotHeld("state tree version 9")

    monkeypatch.setattr(StateTree, "load", unknown)
    store = await LmdbStore.open(devnet)
    ahead = StartAhead(Dispatcher(await services_over(store)), 3)
    await ahead.run(60.0, [])
    assert ahead.states > 100
    await store.close()


async def test_the_objects_of_many_epochs_are_read_together(devnet: Path, tmp_path: Path) -> None:
    async with follower(devnet, tmp_path, 120.0, 96) as (far, _):
        reads = sum(read.startswith("get") for read in far.reads)
    # parts of 32 epochs, a few levels of each, and parts of states; each block on its own took 826
    assert reads < 500


async def test_a_store_that_hangs_delays_the_start_no_longer_than_that(devnet: Path, tmp_path: Path) -> None:
    store = await LmdbStore.open(devnet)
    far = Far(store)
    services = await services_over(far)  # type: ignore[arg-type]
    far.hangs = True
    async with asyncio.timeout(60), contextlib.AsyncExitStack() as closing:
        await start_ahead(Dispatcher(services), 0.2, tmp_path, closing)
    await store.close()


async def test_a_head_that_may_not_be_served_yet_does_not_end_the_start(devnet: Path, tmp_path: Path) -> None:
    store = await LmdbStore.open(devnet)
    services = await services_over(store)

    async def current() -> Head:
        raise Unavailable("the head is not known yet")

    services.head_source.current = current  # type: ignore[method-assign]
    async with contextlib.AsyncExitStack() as closing:
        await start_ahead(Dispatcher(services), 60.0, tmp_path, closing, 3)
    await store.close()


async def test_of_each_level_no_more_than_that_is_read(devnet: Path) -> None:
    store = await LmdbStore.open(devnet)
    services = await services_over(store)
    head = await services.head_source.current()
    roots = [head.tipset.parent_state_root]
    counts = [count async for count in read_levels(services.objects, roots, 4, 8)]
    assert counts[0] == 1 and max(counts) == 8 and len(counts) == 4
    await store.close()


def test_a_file_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    kept = AskedBefore(tmp_path)
    assert kept.load() == []
    kept.save([(1, b'{"id":0}'), (0, b"{}")])
    file = tmp_path / "asked.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert AskedBefore(tmp_path).load() == [(1, b'{"id":0}'), (0, b"{}")]
    for damaged in (b"", b"[[1", b'{"a":1}', b"[1,2]", b'[["x","y"]]', b"[" * (8 << 20)):
        file.write_bytes(damaged)
        assert AskedBefore(tmp_path).load() == []
    # no more than its share of disk, the newest
    kept.save([(1, b"x" * 1000 + b"%d" % at) for at in range(5000)])
    found = AskedBefore(tmp_path).load()
    assert 1000 < len(found) < 1050 and found[0][1].endswith(b"x0")
    assert [path.name for path in tmp_path.iterdir()] == ["asked.json"]
