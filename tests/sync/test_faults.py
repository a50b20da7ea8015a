"""What comes out when one of the sources does not give as it should: the same store, with no bad object and no hole."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest

from blockstore.cid import Cid
from blockstore.errors import StoreFull, WrongNetwork
from blockstore.lmdb.store import LmdbStore
from blockstore.store import META, Batch, Store
from chain.network import load_network, save_network
from leader_bridge.imports.import_state import MARK
from leader_bridge.sync.checkpoint import SYNC, load_checkpoint
from leader_bridge.sync.run import SyncFailed, SyncOptions
from leader_bridge.sync.sources.peer import PeerSource
from rpc.server.ranges.page import RangeLimits
from tests.sync.conftest import assert_whole, fill, giving, peer
from tests.sync.faults import Fault, cut, deny, fail, garble, lie, only_first, spoil

pytestmark = pytest.mark.recorded

#: of the recorded chain: enough for every stage
SOME = SyncOptions(from_epoch=1000, states=20)


@pytest.mark.parametrize(
    ("fault", "is_blamed"),
    [(lie, True), (cut(0.2), True), (garble, True), (fail, True), (deny, False), (only_first(30), None)],
    ids=["lie", "cut", "garble", "fail", "deny", "only first"],
)
async def test_one_bad_source_of_three(devnet: Store, target: LmdbStore, fault: Fault, is_blamed: bool | None) -> None:
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(giving(devnet)) for _ in range(3)]
        spoiled = spoil(servers[0][1], fault)
        sources = [peer(server) for server, _ in servers]
        done, pool = await fill(target, sources, SOME)
    assert done.height == 1108
    assert spoiled
    bad = pool.standings[sources[0].name]
    if is_blamed is not None:
        assert bool(bad.bad or bad.errors) == is_blamed
    # the good ones are blamed for nothing
    assert [pool.standings[source.name].bad for source in sources[1:]] == [0, 0]
    await assert_whole(target)
    assert (await target.head()).head == (await devnet.head()).head  # type: ignore[union-attr]


async def test_a_source_that_gives_bad_bytes_is_left_alone_for_an_hour(devnet: Store, target: LmdbStore) -> None:
    async with giving(devnet) as (good, _), giving(devnet) as (bad, pages):
        spoil(pages, lie)
        sources = [peer(good), peer(bad)]
        _, pool = await fill(target, sources, SOME)
        one = pool.standings[sources[1].name]
        assert one.bad == 1
        assert 3000 < pool.cooldown_seconds(sources[1].name) <= 3600
        assert one.objects == 0


async def test_short_answers_of_the_only_source_leave_no_hole(devnet: Store, target: LmdbStore) -> None:
    async with giving(devnet) as (server, pages):
        spoiled = spoil(pages, only_first(25))
        await fill(target, [peer(server)], SyncOptions(from_epoch=1100, states=0))
    assert len(spoiled) > 20
    await assert_whole(target)


async def test_nobody_gives_without_a_token_or_beyond_its_limit(devnet: Store, target: LmdbStore) -> None:
    # each question comes 90 ms after the one before, however fast this machine is: eleven are too many for a second
    times = itertools.count(0.0, 0.09)
    limits = RangeLimits(per_second=10, in_all=10, at_once=1)
    async with giving(devnet, limits, clock=lambda: next(times)) as (server, pages):
        stranger = PeerSource(f"http://127.0.0.1:{server.port}", "another token")
        with pytest.raises(SyncFailed, match="does not take the token"):
            await fill(target, [stranger], SOME)
        assert pages.given.requests == 0
        # one that asks more often than it may is told to wait, and gets everything all the same
        hasty = peer(server)
        hasty.offer = _without_limit(hasty)  # type: ignore[method-assign]
        _, pool = await fill(target, [hasty], SyncOptions(from_epoch=1100, states=0))
        assert pages.given.limited > 0
        assert pool.standings[hasty.name].limited > 0
        assert pool.standings[hasty.name].failures == 0


def _without_limit(source: PeerSource):  # type: ignore[no-untyped-def]
    offer = source.offer

    async def lifted():  # type: ignore[no-untyped-def]
        found = await offer()
        source.requests_per_second = 1000
        return found

    return lifted


async def test_a_follower_that_gives_no_ranges_is_no_source(devnet: Store, target: LmdbStore) -> None:
    async with giving(devnet) as (good, _), giving(devnet) as (other, _):
        other._pages.clear()
        _, pool = await fill(target, [peer(good), peer(other)], SOME)
        assert "does its follower serve ranges?" in pool.standings[peer(other).name].refusal


async def test_sources_of_another_network_are_refused(devnet: Store, target: LmdbStore) -> None:
    record = await load_network(devnet)
    assert record is not None
    batch = Batch()
    save_network(batch, type(record)(**{**_fields(record), "genesis": Cid(record.genesis[:-1] + b"\0")}))
    await target.write(batch)
    async with giving(devnet) as (server, _):
        with pytest.raises(WrongNetwork, match="no source is of the store's network"):
            await fill(target, [peer(server)], SOME)


def _fields(record: object) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}  # type: ignore[attr-defined]


async def test_a_full_disk_stops_it_and_with_room_it_goes_on(devnet: Store, tmp_path: Path) -> None:
    async with giving(devnet) as (server, _):
        small = await LmdbStore.open(tmp_path / "new", map_size=2 << 20, bulk=True)
        with pytest.raises(StoreFull):
            await fill(small, [peer(server)], SyncOptions(from_epoch=200, states=20))
        point = await load_checkpoint(small)
        assert point is not None
        assert point.above < 1109
        assert await small.row(META, b"", MARK) is not None
        await small.close()
        store = await LmdbStore.open(tmp_path / "new", map_size=1 << 30, bulk=True)
        done, _ = await fill(store, [peer(server)], SyncOptions(from_epoch=200, states=20))
    assert done.published
    assert await store.row(META, b"", SYNC) is None
    await assert_whole(store)
    await store.close()
