"""What sources say of themselves is not believed: networks, depths, and when they want to be asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

import orjson
import pytest
from aiohttp import web
from aiohttp.web_request import BaseRequest

from blockstore.cid import cid_of
from blockstore.lmdb.store import LmdbStore
from blockstore.store import Store
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import NetworkRecord, load_network
from chain.tipset import TipsetKey
from leader_bridge.sync import run
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.run import SyncFailed, SyncOptions, sync_store
from leader_bridge.sync.sources.peer import PeerSource
from leader_bridge.sync.sources.source import SourceBusy
from leader_bridge.sync.votes import NoMajority, choose_network
from rpc.server.ranges.page import RangePages
from rpc.server.ranges.wire import BadWire, Offer, read_offer
from tests.support.proxies import free_port
from tests.support.virtual_time import run_virtual
from tests.sync.conftest import TOKEN, assert_whole, fill, giving
from tests.sync.faults import spoil
from tests.sync.test_network import ChurningSource, check_second
from tests.sync.test_repeats import quick_peer

SOME = SyncOptions(from_epoch=1080, states=5)


def tells(pages: RangePages, **changes: object) -> None:
    """A follower's offers say something else; `held` and `network` are changed key by key."""

    async def other(request: BaseRequest, right: web.Response) -> web.Response:
        if request.path != "/range" or request.query_string:
            return right
        told = orjson.loads(right.body)  # type: ignore[arg-type]
        for name, value in changes.items():
            told[name] = {**told[name], **value} if isinstance(value, dict) else value
        return web.Response(body=orjson.dumps(told))

    spoil(pages, other, spares_offers=False)


def record(name: str = "n", chain_id: int = 1, genesis: bytes = b"g") -> NetworkRecord:
    return NetworkRecord(name, cid_of(genesis), "f", chain_id, 30, ((-1, 22),))


def test_the_network_is_that_of_most_sources_with_all_that_it_says() -> None:
    assert choose_network({"liar": record(chain_id=7), "a": record(), "b": record()}) == record()
    assert choose_network({"a": record(), "b": record()}) == record()
    for two in (record(chain_id=7), record(genesis=b"other"), record("other")):
        with pytest.raises(NoMajority, match="tell the same of their network"):
            choose_network({"liar": two, "a": record()})
    with pytest.raises(NoMajority):
        choose_network({"x": record("x"), "a": record(), "b": record("y")})


@pytest.mark.recorded
@pytest.mark.parametrize("lie", [{"eth_chain_id": 1}, {"upgrades": [{"height": -1, "network_version": 5}]}])
async def test_a_record_that_one_source_made_up_is_not_stored(
    devnet: Store, target: LmdbStore, lie: dict[str, object]
) -> None:
    async with giving(devnet) as (bad, pages), giving(devnet) as (good, _), giving(devnet) as (third, _):
        tells(pages, network=lie)
        # the liar alone is quick: whoever answers first is not right for that
        sources = [quick_peer(server) for server in (bad, good, third)]
        await fill(target, sources, SOME)
    assert await load_network(target) == await load_network(devnet)
    await assert_whole(target)


@pytest.mark.recorded
async def test_of_two_that_differ_neither_is_believed(devnet: Store, target: LmdbStore) -> None:
    async with giving(devnet) as (bad, pages), giving(devnet) as (good, _):
        tells(pages, network={"eth_chain_id": 1})
        with pytest.raises(SyncFailed, match="tell the same of their network"):
            await fill(target, [quick_peer(bad), quick_peer(good)], SyncOptions(majority_seconds=0.0))
    assert await load_network(target) is None


@pytest.mark.parametrize(
    "change", [{"held": {"headers": -1}}, {"chain": [[-5, "00"]]}, {"held": {"state": "1e3"}}, {"chain": [[0]]}]
)
def test_epochs_below_0_are_no_offer(change: dict[str, object]) -> None:
    told = {**orjson.loads(Offer({}, ((5, b"k"),), {"headers": 1}).to_json()), **change}
    with pytest.raises(BadWire):
        read_offer(orjson.dumps(told))


@pytest.mark.recorded
async def test_a_depth_that_nobody_has_ends_the_chain_where_it_ends(
    devnet: Store, target: LmdbStore, caplog: pytest.LogCaptureFixture
) -> None:
    """All hold headers from epoch 1,040 on, and one of them says from 0 on."""

    async def pruned(request: BaseRequest, right: web.Response) -> web.Response:
        if request.query.get("parts") == "headers" and int(request.query["low"]) < 1040:
            return web.Response(status=404)
        return right

    async with contextlib.AsyncExitStack() as stack:
        served = [await stack.enter_async_context(giving(devnet)) for _ in range(3)]
        for number, (_, pages) in enumerate(served):
            spoil(pages, pruned)
            tells(pages, held={"headers": 1040 if number else 0})
        with caplog.at_level(logging.WARNING):
            done, pool = await fill(target, [quick_peer(server) for server, _ in served], SyncOptions(states=5))
    assert done.height == 1108
    assert "though they were offered: the chain is filled down to epoch 1040" in caplog.text
    assert not any(one.bad for one in pool.standings.values())
    await assert_whole(target)
    index = ChainIndex(target, Objects(target))
    head = await target.head()
    assert head is not None
    found = await index.at_height(await index.tipset(TipsetKey(head.head.key)), 1040)
    assert found.height in range(1030, 1041)


@pytest.mark.recorded
async def test_what_only_a_source_left_alone_has_is_no_end_of_the_chain(devnet: Store, target: LmdbStore) -> None:
    async def pruned(request: BaseRequest, right: web.Response) -> web.Response:
        return web.Response(status=404) if request.query.get("parts") == "headers" else right

    async with giving(devnet) as (archive, _), giving(devnet) as (other, pages):
        spoil(pages, pruned)
        tells(pages, held={"headers": 1100})
        sources = [quick_peer(archive), quick_peer(other)]
        pool = Pool(sources, in_all=100_000, per_source=10_000)
        async with pool.running():
            filling = asyncio.create_task(sync_store(target, pool, SyncOptions(from_epoch=500, states=5)))
            while pool.standings[sources[0].name].objects < 10:
                await asyncio.sleep(0)
            pool._cooldowns.removed(sources[0].name, asyncio.get_running_loop().time(), is_critical=True)
            pool._set.remove(sources[0].name)
            pool._requests.remove_source(sources[0].name)
            with pytest.raises(SyncFailed, match="that can be asked now; the same command goes on"):
                await asyncio.wait_for(filling, 60)


@pytest.mark.recorded
async def test_a_network_that_is_cut_at_the_start_is_waited_for(
    devnet: Store, target: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_ASK_AGAIN_SECONDS", 0.05)
    port = free_port()
    source = run_source(port)
    pool = Pool([source], in_all=100_000, per_source=10_000)
    async with pool.running():
        filling = asyncio.create_task(
            sync_store(target, pool, SyncOptions(from_epoch=1080, states=5, majority_seconds=0.2))
        )
        # far longer than sources may disagree
        await asyncio.sleep(1.0)
        assert not filling.done()
        async with giving(devnet, port=port):
            done = await asyncio.wait_for(filling, 60)
    assert done.height == 1108


def run_source(port: int) -> PeerSource:
    source = PeerSource(f"http://127.0.0.1:{port}", TOKEN)
    source.requests_per_second = 10_000
    return source


class AskedSource(ChurningSource):
    """Notes when it was asked for its head."""

    busy_seconds = 0.0

    async def offer(self) -> Offer:
        self.asked.append(asyncio.get_running_loop().time())
        if self.busy_seconds:
            raise SourceBusy("busy", self.busy_seconds)
        return Offer({}, ())


def test_questions_for_heads_keep_the_limit_in_all() -> None:
    async def ask() -> list[float]:
        sources = [AskedSource(f"source {number}", random.Random(1)) for number in range(20)]
        pool = Pool(sources, in_all=4, per_source=10)
        async with pool.running():
            await asyncio.gather(*(pool.offer(source.name) for source in sources))
        return sorted(time for source in sources for time in source.asked)

    check_second(run_virtual(ask()), 4)


def test_a_source_that_wants_to_be_left_alone_is_not_asked_for_its_head() -> None:
    async def ask() -> list[float]:
        source = AskedSource("source", random.Random(1))
        source.busy_seconds = 40.0
        pool = Pool([source], in_all=100, per_source=10)
        async with pool.running():
            for _ in range(3):
                with contextlib.suppress(SourceBusy):
                    await pool.offer(source.name)
        assert pool.standings["source"].limited == 3
        return source.asked

    first, second, third = run_virtual(ask())
    assert second - first >= 40
    assert third - second >= 40
