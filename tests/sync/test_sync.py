"""`follower sync` from followers over real sockets: the same store comes out, whatever the sources do."""

from __future__ import annotations

import contextlib

import pytest

from blockstore.lmdb.store import LmdbStore
from blockstore.store import HEAD_LOG, LEASE, META, RECORDED, TABLES, Store
from leader_bridge.imports.import_state import MARK
from leader_bridge.sync.checkpoint import SYNC
from leader_bridge.sync.run import SyncOptions
from tests.sync.conftest import assert_whole, fill, giving, peer
from tests.upkeep.damages import everything

COMPARED = [table for table in TABLES.values() if table not in (HEAD_LOG, LEASE, META, RECORDED)]

pytestmark = pytest.mark.recorded


async def assert_same(target: LmdbStore, source: Store) -> None:
    """The same rows and the same head; no mark is left."""
    ours, theirs = await target.head(), await source.head()
    assert ours is not None
    assert theirs is not None
    assert ours.head == theirs.head
    for key in (MARK, SYNC):
        assert await target.row(META, b"", key) is None
    await assert_whole(target)
    assert isinstance(source, LmdbStore)
    found, given = await everything(target, COMPARED), await everything(source, COMPARED)
    lacking = {name for name in given if name not in found}
    # blocks that were reverted are under no head
    assert not [name for name in lacking if " " in name]
    assert len(lacking) < 200
    assert {name: given[name] for name in found} == found


@pytest.mark.long
async def test_a_new_store_is_filled_from_three_followers(devnet: Store, target: LmdbStore) -> None:
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(giving(devnet)) for _ in range(3)]
        done, pool = await fill(target, [peer(server) for server, _ in servers], SyncOptions(states=10_000))
    assert done.height == 1108
    assert all(one.objects > 100 for one in pool.standings.values())
    assert sum(one.bad for one in pool.standings.values()) == 0
    await assert_same(target, devnet)
