"""Heads under the rules of each server that a store can stand on, with delays, losses and bridges that take over.

No head is served without its data, none comes twice, none goes back. The design before breaks under the two stricter
rules: that shows that the model can tell.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import pairwise

import pytest

from blockstore.cassandra.head import BUCKET, CassandraHeadLog
from blockstore.cassandra.probe import probe
from blockstore.cassandra.store import CassandraStore
from blockstore.cassandra.values import pack
from blockstore.cid import multihash_of
from blockstore.errors import Fenced, Missing, StoreError, StoreUnavailable
from blockstore.store import COVERAGE, MESSAGES, Batch, HeadEntry, Store, TipsetRef
from tests.blockstore.model.delayed_store import DelayedSession, Weather, made, store_over
from tests.blockstore.model.former_head_log import FormerHeadLog
from tests.blockstore.model.server import CASSANDRA, SCYLLADB, YCQL, Rules, Server
from tests.blockstore.model.world import DELTA, EPSILON, World
from tests.blockstore.store_contract import StoreContract, entry
from tests.support.virtual_time import run_virtual

ROUGH = {"fail": 0.002, "time_out": 0.004, "fail_reads": 0.0002}
EVERY = [pytest.param(rules, id=rules.kind.name.lower()) for rules in (CASSANDRA, YCQL, SCYLLADB)]
CALM = Weather(write_ms=0, slow_reads=0)


def calm(server: Server) -> CassandraStore:
    return store_over(DelayedSession(server, CALM, 0), DELTA, EPSILON)


@pytest.mark.parametrize("rules", EVERY)
@pytest.mark.parametrize("heads", [300, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_no_head_without_its_data_none_twice_none_backwards(rules: Rules, heads: int) -> None:
    async def run() -> World:
        async with World(11, Weather(**ROUGH), rules=rules) as world:
            await world.play(heads, take_over_every=max(25, heads // 100))
        return world

    world = run_virtual(run())
    assert world.judge.judged >= heads
    assert len(world.sessions) > 10
    assert len(set(world.seen)) > heads * 0.6
    assert world.failed > heads / 20, "the weather was not rough"


class ModelContract(StoreContract):
    """What every store must do, by the rules of a server that cannot be run here."""

    rules = CASSANDRA

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with self._opened() as store:
            yield store

    @pytest.fixture
    def store_factory(self) -> Callable[[], object]:
        return self._opened

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Store]:
        server = Server(self.rules)
        await made(server, 20, 5)
        yield store_over(DelayedSession(server, CALM, 0), 20, 5)


class TestCassandraRules(ModelContract):
    pass


class TestYcqlRules(ModelContract):
    rules = YCQL


class TestScyllaRules(ModelContract):
    rules = SCYLLADB


@pytest.mark.parametrize("rules", EVERY)
def test_every_server_passes_the_probe(rules: Rules) -> None:
    async def run() -> None:
        await probe(DelayedSession(Server(rules), Weather(write_ms=2, slow_reads=0), 1), "ks")

    run_virtual(run())


async def publish_with_the_former_log(rules: Rules, heads: int) -> int:
    """How many entries it publishes; each is trimmed to the newest thousand."""
    server = Server(rules)
    session = DelayedSession(server, CALM, 0)
    log = FormerHeadLog(session, "ks", DELTA, EPSILON, session.wall)
    await log.make()
    term = await log.new_term("one")
    for seq in range(1, heads + 1):
        try:
            await log.append(entry(seq, term))
        except StoreError:
            return seq - 1
        if seq % 1000 == 0:
            await log.trim(1000)
    return heads


def test_the_former_log_works_by_cassandras_rules() -> None:
    assert run_virtual(publish_with_the_former_log(CASSANDRA, 6000)) == 6000


def test_the_former_log_publishes_nothing_by_the_rules_of_ycql() -> None:
    assert run_virtual(publish_with_the_former_log(YCQL, 10)) == 0


def test_the_former_log_outgrows_a_partition_by_strict_limits() -> None:
    assert run_virtual(publish_with_the_former_log(SCYLLADB, 6000)) <= SCYLLADB.most_rows


def test_the_log_does_not_outgrow_a_partition() -> None:
    assert SCYLLADB.most_rows > BUCKET

    async def run() -> list[int]:
        server = Server(SCYLLADB)
        await made(server, DELTA, EPSILON)
        store = calm(server)
        term = await store.new_term("one")
        for seq in range(1, 9001):
            await store.append_head(entry(seq, term))
            if seq % 1000 == 0:
                await store.trim_head_log(1000)
        return [one.seq for one in await store.head_entries(0, 10_000)]

    assert run_virtual(run()) == list(range(8001, 9001))


@pytest.mark.parametrize("rules", [CASSANDRA, YCQL])
def test_a_former_bridge_serves_no_head_by_the_rules_of_ycql(rules: Rules) -> None:
    async def run() -> bool:
        async with World(5, Weather(), rules=rules, log=FormerHeadLog) as world:
            return await world.caught_up(120)

    assert run_virtual(run()) == (rules is CASSANDRA)


def test_an_object_of_many_megabytes_is_stored_in_small_cells() -> None:
    data = random.Random(3).randbytes(5_000_000)
    multihash = multihash_of(data)

    async def run() -> None:
        server = Server(SCYLLADB)
        store = calm(server)
        # as it was stored before
        with pytest.raises(StoreError, match="too large"):
            await store._execute(store.place(1).put_cql, [multihash, pack(data)])
        for closed in (False, True):
            await store.put_many([(multihash, data)], closed=closed)
            assert await store.get(multihash) == data
        await store.write(Batch([(MESSAGES, b"p", b"k", data)]))
        assert await store.row(MESSAGES, b"p", b"k") == data
        assert await store.scan(MESSAGES, b"p") == [(b"k", data)]
        # a value of which a part is gone is not answered cut
        held = server._tables["objects_1"]
        server._tables["objects_1"] = {key: row for key, row in held.items() if b"part" not in key}
        with pytest.raises(Missing, match="part"):
            await store.get(multihash)

    run_virtual(run())


def test_a_head_change_of_many_thousand_tipsets_is_published_in_small_cells() -> None:
    async def run() -> None:
        server = Server(SCYLLADB)
        await made(server, DELTA, EPSILON)
        store = calm(server)
        term = await store.new_term("one")
        rng = random.Random(5)
        refs = tuple(TipsetRef(height, rng.randbytes(190)) for height in range(20_000))
        long = HeadEntry(1, term, refs[:5], refs, refs[-1])
        await store.append_head(long)
        for seq in (2, 3):
            await store.append_head(entry(seq, term))
        reader = calm(server)
        found = await reader.head_entries(0)
        assert [one.seq for one in found] == [1, 2, 3]
        assert replace(found[0], visible_at=0) == long
        assert (await reader.head_tail(3)).entries == tuple(found)

    run_virtual(run())


@pytest.mark.parametrize("rules", EVERY)
def test_what_lands_late_takes_nothing_back(rules: Rules) -> None:
    """A write of a row times out, its retry and a newer value are written, and then the first one lands."""

    async def run() -> None:
        server = Server(replace(rules, lands_within_ms=60_000))
        await made(server, DELTA, EPSILON)
        for seed in range(60):
            session = DelayedSession(server, Weather(write_ms=5, time_out=0.3, slow_reads=0), seed)
            store = store_over(session, DELTA, EPSILON)
            key = b"%d" % seed
            while await store.row(COVERAGE, b"", key) != b"9":
                for number in range(10):
                    while True:
                        with suppress(StoreUnavailable):
                            await store.write(Batch([(COVERAGE, b"", key, b"%d" % number)]))
                            break
            await asyncio.sleep(61)
            assert await store.row(COVERAGE, b"", key) == b"9"

    run_virtual(run())


@pytest.mark.parametrize("rules", EVERY)
def test_leaders_that_race_publish_each_number_once(rules: Rules) -> None:
    """Several processes append as fast as they can, each with a term of its own now and then; half the writes hang."""

    async def run(seed: int) -> int:
        server = Server(rules)
        await made(server, DELTA, EPSILON)
        acknowledged: dict[int, tuple[int, bytes]] = {}

        async def leader(number: int) -> None:
            rng = random.Random(seed * 10 + number)
            weather = Weather(write_ms=40, time_out=0.15, fail=0.05, fail_reads=0.02)
            session = DelayedSession(server, weather, rng.randint(0, 9999))
            log = CassandraHeadLog(session, "ks", 20, 5, session.wall)
            while len(acknowledged) < 60:
                try:
                    term = await log.new_term(str(number))
                    for _ in range(rng.randint(1, 20)):
                        head = await log.head()
                        seq = head.seq + 1 if head else 1
                        made_here = entry(seq, term, rng.randint(1, 10**9))
                        await log.append(made_here)
                        assert seq not in acknowledged, "two leaders were told that they published it"
                        acknowledged[seq] = (term, made_here.head.key + b"%d" % made_here.head.height)
                except (Fenced, StoreUnavailable):
                    await asyncio.sleep(rng.random() * 0.2)

        await asyncio.gather(*(leader(number) for number in range(4)))
        await asyncio.sleep(61)
        found = await calm(server).head_entries(0, 10_000)
        assert [one.seq for one in found] == list(range(1, len(found) + 1))
        stamps = [one.visible_at for one in found]
        assert all(b >= a + 10 for a, b in pairwise(stamps))
        terms = [one.term for one in found]
        assert terms == sorted(terms)
        for one in found:
            if one.seq in acknowledged:
                assert acknowledged[one.seq] == (one.term, one.head.key + b"%d" % one.head.height)
        return len(found)

    for seed in range(20):
        assert run_virtual(run(seed)) >= 60
