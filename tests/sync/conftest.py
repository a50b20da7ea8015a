"""A recorded chain in a store, and followers of it that give ranges."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from blockstore.lmdb.store import LmdbStore
from blockstore.store import Store
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.run import SyncOptions, SyncReport, sync_store
from leader_bridge.sync.sources.peer import PeerSource
from leader_bridge.upkeep.check import check_store
from leader_bridge.upkeep.damage import CheckReport
from rpc.methods import register_all
from rpc.server.ranges.admission import Admission
from rpc.server.ranges.page import RangeLimits, RangePages
from rpc.server.ranges.shard_files import ShardFiles
from rpc.server.server import Server, serve
from tests.support.bridge.imported import lmdb_of_devnet
from tests.support.served import services_over

TOKEN = "a-token-of-some-length"
#: tests are not about limits, but for those that say so
FAST = RangeLimits(per_second=10_000, in_all=10_000, at_once=64)


@pytest.fixture(scope="session")
def devnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded devnet chain, imported; never written to."""
    return lmdb_of_devnet(tmp_path_factory.mktemp("devnet") / "store")


@pytest.fixture
async def devnet(devnet_folder: Path) -> AsyncIterator[Store]:
    """The same, opened for reading."""
    store = await LmdbStore.open(devnet_folder, readonly=True)
    yield store
    await store.close()


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[LmdbStore]:
    """A new store."""
    opened = await LmdbStore.open(tmp_path / "new", bulk=True)
    yield opened
    await opened.close()


@contextlib.asynccontextmanager
async def giving(
    store: Store,
    limits: RangeLimits = FAST,
    port: int = 0,
    clock: Callable[[], float] | None = None,
    admission: Admission | None = None,
    shards: Path | None = None,
) -> AsyncIterator[tuple[Server, RangePages]]:
    """A follower that gives ranges of a store. `clock`, `admission`: what its limits go by. `shards`: their folder."""
    register_all()
    services = await services_over(store)
    server = await serve(services, "127.0.0.1", port)
    files = ShardFiles(shards) if shards is not None else None
    pages = RangePages(services, store, {"test": TOKEN}, limits, admission=admission, shards=files, clock=clock)
    pages.serve_on(server)
    try:
        yield server, pages
    finally:
        # aiohttp takes 0 for no limit
        await server.stop(0.1)


def peer(server: Server) -> PeerSource:
    return PeerSource(f"http://127.0.0.1:{server.port}", TOKEN)


async def fill(
    target: Store, sources: Sequence[PeerSource], options: SyncOptions | None = None, **arguments: int
) -> tuple[SyncReport, Pool]:
    """Fill a store from sources, as fast as they give."""
    pool = Pool(sources, **{"in_all": 100_000, "per_source": 10_000, **arguments})
    async with pool.running():
        return await sync_store(target, pool, options), pool


async def assert_whole(store: Store) -> CheckReport:
    """`store check` finds nothing."""
    report = CheckReport()
    await check_store(store, report)
    assert report.damages == []
    return report
