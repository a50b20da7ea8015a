"""Readiness has an age: a follower whose bridge and node have stopped says so, and stays a last resort."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from blockstore.errors import StoreUnavailable
from blockstore.memory import MemoryStore
from chain.network import load_network
from follower.head import StoreHeads
from follower.membership import Membership
from follower.readiness import Freshness, ReadinessWatch, build_checks
from follower.settings import load_settings
from rpc.server.server import Server, serve
from tests.fleet.fleet_processes import fill
from tests.support.served import services_over

EPOCHS, DELAY = 10, 30


class Aging:
    """A server over a store to which nobody publishes any more, at a time that the test sets."""

    def __init__(self, server: Server, heads: StoreHeads, store: MemoryStore) -> None:
        self.server, self.heads, self.store = server, heads, store
        self.now = 0.0

    async def status(self, path: str) -> int:
        path, _, query = path.partition("?")
        answer = await self.server.health.answer(path, verbose=False, last_resort=query == "last-resort")
        assert answer is not None
        return answer[0]

    async def verbose(self) -> str:
        answer = await self.server.health.answer("/readyz", verbose=True)
        assert answer is not None
        return answer[1]


async def aging(most_epochs: int) -> AsyncIterator[Aging]:
    store = MemoryStore("aging")
    await fill(store)
    services = await services_over(store)
    assert isinstance(services.head_source, StoreHeads)
    server = await serve(services, "127.0.0.1", 0)
    one = Aging(server, services.head_source, store)
    network = await load_network(store)
    assert network is not None
    one.now = (await services.head_source.current()).timestamp
    checks = build_checks(one.heads, None, Freshness(5, most_epochs, DELAY), lambda: one.now)
    services.checks.live, services.checks.ready, services.checks.fresh = checks.live, checks.ready, checks.fresh
    yield one
    await server.stop(0)


@pytest.fixture
async def follower() -> AsyncIterator[Aging]:
    async for one in aging(EPOCHS):
        yield one


@pytest.fixture
async def archive() -> AsyncIterator[Aging]:
    async for one in aging(0):
        yield one


async def test_a_head_that_grows_old_is_not_ready_but_a_last_resort(follower: Aging) -> None:
    follower.now += EPOCHS * DELAY
    assert await follower.status("/readyz") == 200
    assert "[+] age: the head is 300 s old" in await follower.verbose()
    follower.now += 1
    assert await follower.status("/readyz") == 503
    assert await follower.status("/healthz") == 503
    assert "[!] age: the head is 301 s old, more than 10 epochs (300 s)" in await follower.verbose()
    # nothing that a restart would mend, and nothing that makes an answer wrong
    assert await follower.status("/livez") == 200
    assert await follower.status("/readyz?last-resort") == 200


async def test_the_agent_check_asks_for_little_or_says_why(follower: Aging, monkeypatch: pytest.MonkeyPatch) -> None:
    membership = Membership(load_settings(None, {}, {}), follower.server, follower.store, None)
    assert (await membership.condition()).line() == b"up ready 100%\n"
    follower.now += EPOCHS * DELAY + 1
    assert (await membership.condition()).line() == b"up ready 1%\n"

    async def gone() -> None:
        raise StoreUnavailable("the store is gone")

    monkeypatch.setattr(follower.store, "head", gone)
    assert (await membership.condition()).line().startswith(b"down #store: the store is gone")


async def test_a_head_from_the_future_is_young(follower: Aging) -> None:
    follower.now -= 1000
    assert "[+] age: the head is 0 s old" in await follower.verbose()


async def test_an_archive_is_ready_at_any_age(archive: Aging) -> None:
    archive.now += 10**9
    assert await archive.status("/readyz") == 200
    assert "any age is fresh here" in await archive.verbose()


async def test_the_watch_logs_changes_and_gives_metrics(
    follower: Aging, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "follower.readiness")
    watch = ReadinessWatch(follower.server.health, follower.heads, lambda: follower.now)
    watch.register(follower.server.metrics)
    await watch.look()
    assert not caplog.records
    follower.now += EPOCHS * DELAY + 1
    for _ in range(3):
        await watch.look()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "last resort: age: the head is 301 s old" in caplog.text
    text = follower.server.metrics.text().decode()
    for line in ("fresh 0.0", "whole 1.0", "head_age_seconds 301.0", "head_height 0.0"):
        assert f"follower_{line}\n" in text

    async def gone() -> None:
        raise StoreUnavailable("the store is gone")

    monkeypatch.setattr(follower.store, "head", gone)
    await watch.look()
    assert caplog.records[-1].levelname == "ERROR"
    assert "the store is gone" in caplog.records[-1].message
    assert "follower_whole 0.0\n" in follower.server.metrics.text().decode()
