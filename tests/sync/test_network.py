"""The network is cut, a source is started again, full nodes give too; and 72 hours of churn in virtual time."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections.abc import Collection
from itertools import pairwise

import pytest

from blockstore.cid import Cid, cid_of
from blockstore.lmdb.store import LmdbStore
from blockstore.store import Store
from chain.tipset import TipsetKey
from devnode.replay import start_replay
from leader_bridge.sync.discovery import looking_for_sources
from leader_bridge.sync.pool import Pool
from leader_bridge.sync.requests import Closed, NotHeldAnywhere
from leader_bridge.sync.run import SyncOptions, sync_store
from leader_bridge.sync.sources.node import NodeSource
from leader_bridge.sync.sources.source import (
    Answer,
    LyingSource,
    NotHeldThere,
    ObjectWork,
    RangeWork,
    SourceBusy,
    SourceUnavailable,
    Work,
)
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from rpc.server.ranges.wire import HEADERS, Offer
from tests.support.recorded import recorded
from tests.support.virtual_time import run_virtual
from tests.sync.conftest import assert_whole, fill, giving, peer

SOME = SyncOptions(from_epoch=1000, states=20)


@pytest.mark.recorded
async def test_the_network_is_cut_and_every_source_is_started_again(devnet: Store, target: LmdbStore) -> None:
    async with giving(devnet) as (first, pages):
        port = first.port
        source = peer(first)
        pool = Pool([source], in_all=100_000, per_source=10_000)
        async with pool.running():
            filling = asyncio.create_task(sync_store(target, pool, SyncOptions(states=20)))
            while pages.given.objects < 1000:
                assert not filling.done()
                await asyncio.sleep(0.01)
            first.abort_connections()
            await first.stop(0.1)
            while not pool.standings[source.name].errors:
                await asyncio.sleep(0.01)
            assert not filling.done()
            async with giving(devnet, port=port):
                done = await asyncio.wait_for(filling, 60)
    assert done.height == 1108
    # whoever cannot be reached has done nothing wrong
    assert pool.standings[source.name].bad == 0
    await assert_whole(target)


@pytest.mark.recorded
async def test_a_full_node_gives_what_followers_give(devnet: Store, target: LmdbStore) -> None:
    node = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    client = NodeClient(parse_node_info(node.url)[0])
    async with giving(devnet) as (server, _):
        source = NodeSource(client, requests_per_second=1000)
        _, pool = await fill(target, [peer(server), source], SOME)  # type: ignore[list-item]
    assert pool.standings[source.name].objects > 0
    await assert_whole(target)
    await node.stop()


@pytest.mark.recorded
async def test_every_request_to_a_full_node_counts_not_every_piece_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    node = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    client = NodeClient(parse_node_info(node.url)[0])
    sent: list[float] = []
    post = client.post

    async def noted(body: bytes, *, timeout: float | None = None) -> object:
        sent.append(asyncio.get_running_loop().time())
        return await post(body, timeout=timeout)

    monkeypatch.setattr(client, "post", noted)
    source = NodeSource(client, requests_per_second=3)
    try:
        offer = await source.offer()
        height, key = offer.chain[0]
        for high in (height, height - 10):
            work = RangeWork(TipsetKey(key), high - 9, high, frozenset((HEADERS,)))
            assert len((await source.ask(work)).found) >= 10
        # two for the head, and two for each range: its tipsets, and their blocks
        assert len(sent) == 6
        check_second(sent, 3)
    finally:
        await source.close()
        await node.stop()


@pytest.mark.recorded
async def test_full_nodes_alone_fill_a_store(target: LmdbStore) -> None:
    node = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    client = NodeClient(parse_node_info(node.url)[0])
    source = NodeSource(client, requests_per_second=1000)
    done, _ = await fill(target, [source], SyncOptions(from_epoch=1080, states=5))  # type: ignore[list-item]
    assert done.height == 1108
    await assert_whole(target)
    await node.stop()


OBJECTS = {cid_of(data): data for data in (bytes([0x19, number >> 8, number & 255]) for number in range(999))}


class ChurningSource:
    """A source that comes and goes, lies, stalls and refuses, at random; and what it was asked, in seconds."""

    votes = True
    most_objects = 256
    requests_per_second = 5

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name = name
        self._chance = chance
        self.asked: list[float] = []
        self.until = 0.0
        self.mood = "good"

    async def offer(self) -> Offer:
        return Offer({}, ())

    async def close(self) -> None:
        return

    async def ask(self, work: Work) -> Answer:
        now = asyncio.get_running_loop().time()
        self.asked.append(now)
        if now >= self.until:
            self.mood = self._chance.choice(["good", "good", "good", "gone", "busy", "lacks", "stalls", "lies"])
            self.until = now + self._chance.uniform(10, 4000)
        assert isinstance(work, ObjectWork)
        await asyncio.sleep(self._chance.uniform(0.01, 0.3))
        match self.mood:
            case "gone":
                raise SourceUnavailable("gone")
            case "busy":
                raise SourceBusy("busy", self._chance.uniform(1, 30))
            case "lacks":
                raise NotHeldThere("lacks")
            case "stalls":
                await asyncio.sleep(1000)
                raise SourceUnavailable("late")
            case "lies":
                raise LyingSource("lies")
        return Answer({cid: OBJECTS[cid] for cid in work.cids}, size=len(work.cids) * 3)


async def churn(hours: float) -> tuple[int, list[int], list[int]]:
    """Ask for objects now and then; (objects that came, tasks and live objects each hour).

    Four sources are known at the start; the others are found, as long as fewer than 16 are in use.
    """
    chance = random.Random(11)
    sources = [ChurningSource(f"source {number}", chance) for number in range(20)]
    pool = Pool(sources[:4], in_all=40, per_source=10)
    looks: list[float] = []

    def find(known: Collection[str]) -> list[ChurningSource]:
        looks.append(loop.time())
        return [source for source in sources if source.name not in known]

    loop = asyncio.get_running_loop()
    got, tasks, live = 0, [], []
    cids: list[Cid] = list(OBJECTS)
    async with pool.running(), looking_for_sources(pool, find):
        for hour in range(int(hours)):
            end = (hour + 1) * 3600.0
            while loop.time() < end:
                some = await asyncio.gather(
                    *(pool.objects(chance.sample(cids, 100)) for _ in range(8)), return_exceptions=True
                )
                for one in some:
                    if isinstance(one, BaseException):
                        assert isinstance(one, NotHeldAnywhere), one
                    else:
                        got += len(one.found)
                await asyncio.sleep(chance.uniform(0, 240))
            gc.collect()
            tasks.append(len(asyncio.all_tasks()))
            live.append(len(gc.get_objects()))
            for source in sources:
                check_second(source.asked, 5)
                source.asked.clear()
    assert len(pool.standings) == 20
    # no storm: however many sources fail at once, there is a minute between two looks
    assert all(later - earlier >= 60 for earlier, later in pairwise(looks))
    return got, tasks, live


def check_second(times: list[float], most: int) -> None:
    """No second holds more."""
    first = 0
    for at, now in enumerate(times):
        while times[first] <= now - 1:
            first += 1
        assert at - first + 1 <= most


class HangingSource(ChurningSource):
    """Never answers."""

    async def offer(self) -> Offer:
        await asyncio.Event().wait()
        raise AssertionError("it does not come here")

    async def ask(self, work: Work) -> Answer:
        await self.offer()
        raise AssertionError("nor here")


def test_closing_ends_within_100_ms_while_every_source_hangs() -> None:
    async def close_while_all_hang() -> tuple[float, list[BaseException | object], int]:
        pool = Pool([HangingSource(f"source {number}", random.Random(1)) for number in range(18)])
        before = len(asyncio.all_tasks())
        async with pool.running():
            asked = [asyncio.create_task(pool.objects(list(OBJECTS)[:100])) for _ in range(25)]
            offers = [asyncio.create_task(pool.offer(name)) for name in list(pool.standings)[:3]]
            await asyncio.sleep(10)
            assert not any(one.done() for one in (*asked, *offers))
            began = asyncio.get_running_loop().time()
        took = asyncio.get_running_loop().time() - began
        for one in offers:
            one.cancel()
        ends: list[BaseException | object] = list(await asyncio.gather(*asked, return_exceptions=True))
        await asyncio.gather(*offers, return_exceptions=True)
        return took, ends, len(asyncio.all_tasks()) - before

    took, ends, left = run_virtual(close_while_all_hang())
    assert took <= 0.1
    assert {type(one) for one in ends} == {Closed}
    assert left == 0


@pytest.mark.long
def test_72_hours_of_churn_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    # what is logged is kept by the test's runner
    caplog.set_level(logging.CRITICAL)
    got, tasks, live = run_virtual(churn(72))
    print(f"{got} objects, at most {max(tasks)} tasks, live objects each hour: {live}")
    assert got > 100_000
    # what is in flight may differ; what grows with the hours would be seen
    assert max(tasks) <= 2 * 20 + 10
    early, late = sorted(live[6:24]), sorted(live[-18:])
    assert late[9] - early[9] < 2000
