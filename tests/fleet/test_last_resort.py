"""Followers that are whole but behind: real HAProxy and nginx use them when there is no better one."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from blockstore.memory import MemoryStore
from loadbalancer.agent import AgentCheck, Condition
from loadbalancer.fleet import Member
from loadbalancer.haproxy import MONITOR
from loadbalancer.nginx import nginx_config
from loadbalancer.watch import Watcher
from rpc.server.server import Server
from rpc.services import CheckResult
from tests.fleet.fleet_processes import HEAD, fill
from tests.support.proxies import KINDS, Proxy
from tests.support.served import served


class Follower:
    """A real server whose readiness the test sets. It counts the calls that it answers."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_whole = self.is_fresh = True
        self.calls = 0
        checks = server._services.checks
        checks.ready["head"] = self._whole
        checks.fresh["node"] = self._fresh
        original = server.dispatcher.answer_http

        def counting(*arguments):  # type: ignore[no-untyped-def]
            self.calls += 1
            return original(*arguments)

        # kept answers do not come so far
        server.dispatcher.answers = None
        server.dispatcher.answer_http = counting

    async def _whole(self) -> CheckResult:
        return CheckResult(self.is_whole, "told by the test")

    async def _fresh(self) -> CheckResult:
        return CheckResult(self.is_fresh, "9 epochs behind the node")

    async def condition(self) -> Condition:
        return Condition(self.is_whole and self.is_fresh, reason="behind or worse", behind=self.is_whole)


class FixedFleet:
    """The registry, as the watcher reads it."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members

    async def look(self) -> list[Member]:
        return self.members


class Balanced:
    """Three followers behind one balancer."""

    def __init__(self, kind: str, followers: list[Follower], session: aiohttp.ClientSession) -> None:
        self.followers = followers
        self.session = session
        self.proxy = Proxy(kind)
        self.failed: collections.Counter[int] = collections.Counter()

    async def run(self, members: list[Member]) -> None:
        """Start the balancer; the watcher keeps nginx informed, HAProxy asks by itself."""
        self.proxy.file.write_text(self.proxy.balancer.config(members, ()))
        await self.proxy.balancer.check(self.proxy.file)
        await asyncio.to_thread(self.proxy.start)
        self.stop = asyncio.Event()
        watcher = Watcher(FixedFleet(members), self.proxy.balancer, self.proxy.file)  # type: ignore[arg-type]
        self.watching = asyncio.create_task(watcher.run(self.stop, 0.2))

    async def close(self) -> None:
        self.stop.set()
        await self.watching
        await asyncio.to_thread(self.proxy.stop)

    async def ask(self, count: int) -> list[int]:
        """Statuses of some calls, each with the age of its head."""
        statuses = []
        for _ in range(count):
            async with self.session.post(self.proxy.url, data=HEAD) as response:
                await response.read()
                statuses.append(response.status)
                if response.status == 200:
                    assert abs(int(response.headers["X-Filecoin-Head-Age"]) - time.time() + GENESIS_TIME) < 60
        return statuses

    async def answer(self, *wanted: int) -> None:
        """Wait until these followers, and no others, answer; no call fails meanwhile."""
        async with asyncio.timeout(30):
            while True:
                for follower in self.followers:
                    follower.calls = 0
                assert await self.ask(6) == [200] * 6
                if {n for n, follower in enumerate(self.followers) if follower.calls} == set(wanted):
                    return
                await asyncio.sleep(0.05)


#: the timestamp of the head that `fill` stores
GENESIS_TIME = 0


@contextlib.asynccontextmanager
async def balanced(kind: str, *, agents: bool = False) -> AsyncIterator[Balanced]:
    store = MemoryStore("balanced")
    await fill(store)
    async with contextlib.AsyncExitStack() as stack:
        followers = [Follower(await stack.enter_async_context(served(store))) for _ in range(3)]
        members = []
        for follower in followers:
            port = 0
            if agents:
                agent = AgentCheck(follower.condition)
                await agent.listen("127.0.0.1", 0)
                stack.push_async_callback(agent.close)
                port = agent.port
            members.append(Member(f"127.0.0.1:{follower.server.port}", agent_port=port))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        one = Balanced(kind, followers, session)
        await one.run(members)
        stack.push_async_callback(one.close)
        yield one


@pytest.mark.parametrize(("kind", "agents"), [("haproxy", False), ("haproxy", True), ("nginx", False)])
async def test_lag_alone_never_empties_a_balancer(kind: str, agents: bool) -> None:
    async with balanced(kind, agents=agents) as one:
        await one.answer(0, 1, 2)
        # all fall behind, as where a leader was killed
        for follower in one.followers:
            follower.is_fresh = False
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - began < 4:  # two checks and two looks of the watcher
            assert await one.ask(3) == [200] * 3
        await one.answer(0, 1, 2)
        # one is fresh again: it gets all
        one.followers[1].is_fresh = True
        await one.answer(1)
        # the fresh one is lost: those that are behind answer
        one.followers[1].is_whole = False
        await one.answer(0, 2)
        for follower in one.followers:
            follower.is_whole = follower.is_fresh = True
        await one.answer(0, 1, 2)
        # one behind is used no more, one that is not whole neither
        one.followers[0].is_fresh = False
        one.followers[2].is_whole = False
        await one.answer(1)


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_whole_is_nobody(kind: str) -> None:
    async with balanced(kind) as one:
        await one.answer(0, 1, 2)
        for follower in one.followers:
            follower.is_whole = follower.is_fresh = False
        async with asyncio.timeout(30):
            while await one.ask(1) != [503]:
                await asyncio.sleep(0.05)
        if kind == "haproxy":
            url = one.proxy.url.replace("/rpc/v1", MONITOR)
            async with one.session.get(url) as response:
                assert response.status == 503
            one.followers[0].is_whole = True  # behind: better than nobody
            async with asyncio.timeout(30):
                while True:
                    async with one.session.get(url) as response:
                        if response.status == 200:
                            break
                    await asyncio.sleep(0.05)


async def test_an_agent_check_alone_keeps_those_that_are_behind_for_last() -> None:
    """A configuration of somebody's own: weights by agent checks, no health path."""
    async with balanced("haproxy", agents=True) as one:
        one.stop.set()
        await one.watching
        await asyncio.to_thread(one.proxy.process.terminate)  # type: ignore[union-attr]
        await asyncio.to_thread(one.proxy.process.wait)  # type: ignore[union-attr]
        ours = one.proxy.file.read_text().splitlines(keepends=True)
        dropped = ("use_backend", "option httpchk", "http-check")
        one.proxy.file.write_text("".join(line for line in ours if not line.strip().startswith(dropped)))
        await asyncio.to_thread(one.proxy.start)
        for follower in one.followers:
            follower.is_fresh = False
        await asyncio.sleep(2.5)  # two checks
        await one.answer(0, 1, 2)
        one.followers[1].is_fresh = True
        await one.answer(1)
        # not whole is down, whatever the weights
        for follower in one.followers:
            follower.is_whole = follower is one.followers[2]
        await one.answer(2)


def test_nginx_has_backups_only_beside_better_ones() -> None:
    members = [Member("10.0.0.1:1"), Member("10.0.0.2:1")]
    text = nginx_config(members, behind={"10.0.0.2:1"})
    assert "server 10.0.0.1:1 max_fails=1 fail_timeout=2s;" in text
    assert "# 10.0.0.2:1 (behind)\n        server 10.0.0.2:1 max_fails=1 fail_timeout=2s backup;" in text
    text = nginx_config(members, behind={"10.0.0.2:1"}, down={"10.0.0.1:1"})
    assert "server 10.0.0.1:1 down;" in text
    assert "server 10.0.0.2:1 max_fails=1 fail_timeout=2s;" in text
    assert "backup;" not in text
