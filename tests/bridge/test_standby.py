"""Two bridges over one store: a lease that was just taken holds, and a leader that cannot lead lets go.

In memory, on a clock that jumps; tests/blockstore/test_lease.py has the lease on a real Cassandra.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from blockstore.cassandra.head import Lease
from blockstore.errors import Fenced
from blockstore.memory import MemoryStore
from blockstore.store import FLEET
from leader_bridge.bridge import Bridge
from leader_bridge.follow.lease import LeaseStore, lead
from leader_bridge.follow.standby import STEP_DOWN, StandbyNodes
from rpc.client.node_info import parse_node_info
from tests.support.bridge.node import TestNode
from tests.support.bridge.running import quick, replay_log
from tests.support.bridge.world import World
from tests.support.virtual_time import run_virtual, virtual_ms

LEASE_SECONDS = 2.0


class LeasedStore(MemoryStore):
    """A store in memory with a lease; each of its calls gives way to others, as those of a server do."""

    def __init__(self) -> None:
        super().__init__()
        self._owner = ""
        self._renewals = 0

    async def lease(self) -> Lease:
        found = Lease(self._term, self._owner, self._renewals)
        await asyncio.sleep(0.01)
        return found

    async def new_term(self, owner: str, after: int | None = None) -> int:
        await asyncio.sleep(0.01)
        term = await super().new_term(owner, after)
        self._owner, self._renewals = owner, 0
        return term

    async def renew_lease(self, term: int, renewals: int) -> None:
        await asyncio.sleep(0.01)
        if term != self._term:
            raise Fenced(f"term {term} has ended")
        self._renewals = renewals

    async def clock_ms(self) -> int:
        return virtual_ms()

    def epsilon_ms(self) -> int:
        return 100


class Fleet:
    """Bridges that stand over one store, each with a node of its own."""

    def __init__(self) -> None:
        self.world = World()
        self.store = LeasedStore()
        assert isinstance(self.store, LeaseStore)
        self.led: list[tuple[str, int]] = []
        self.bridges: dict[str, Bridge] = {}

    @contextlib.asynccontextmanager
    async def bridge(self, name: str, node: TestNode) -> AsyncIterator[None]:
        infos = parse_node_info(node.url)
        stop = asyncio.Event()
        fleet = self

        class Watched(Bridge):
            async def run(self) -> None:
                fleet.bridges[name] = self
                await super().run()

            async def _run(self, owner: str) -> None:
                try:
                    await super()._run(owner)
                finally:
                    fleet.led.append((name, self.term))

        def make(after_term: int) -> Bridge:
            return Watched(self.store, infos, quick(owner=name, fetch_concurrency=1), after_term=after_term)

        async with contextlib.aclosing(StandbyNodes(infos)) as nodes:
            task = asyncio.create_task(lead(self.store, make, name, LEASE_SECONDS, stop, nodes=nodes, wall=virtual_ms))
            try:
                yield
            finally:
                stop.set()
                await task

    async def until(self, condition: Callable[[], object], seconds: float = 300.0) -> float:
        """Wait for it; the seconds that took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not condition():
            assert loop.time() - began < seconds, f"not within {seconds} s; led: {self.led}"
            await asyncio.sleep(0.05)
        return loop.time() - began

    def head_is(self, number: int) -> bool:
        return bool(self.store._heads) and self.store._heads[-1].head.key == self.world.tips[number].key


@pytest.mark.parametrize("count", [2, 5])
def test_bridges_that_start_together_on_an_empty_store_leave_the_lease_to_the_first(count: int) -> None:
    async def run() -> None:
        fleet = Fleet()
        node = await fleet.world.node(at=7)
        async with contextlib.AsyncExitStack() as stack:
            for number in range(count):
                await stack.enter_async_context(fleet.bridge(f"bridge {number}", node))
            await fleet.until(lambda: fleet.head_is(7))
            await asyncio.sleep(20 * LEASE_SECONDS)
            assert (await fleet.store.lease()).term == 1
            assert all(term == 0 for _, term in fleet.led), "who came late led nothing"
        await node.stop()

    run_virtual(run())


def test_a_term_that_began_meanwhile_refuses_a_late_one() -> None:
    async def run() -> None:
        store = LeasedStore()
        assert await store.new_term("one", after=0) == 1
        with pytest.raises(Fenced):
            await store.new_term("two", after=0)
        assert await store.new_term("two", after=1) == 2

    run_virtual(run())


def test_a_leader_whose_node_is_dead_lets_a_standby_with_a_healthy_one_lead() -> None:
    async def run() -> None:
        fleet = Fleet()
        mine, theirs = await fleet.world.node(at=7), await fleet.world.node(at=7)
        async with fleet.bridge("one", mine):
            await fleet.until(lambda: fleet.head_is(7))
            async with fleet.bridge("two", theirs):
                await asyncio.sleep(10 * LEASE_SECONDS)
                assert (await fleet.store.lease()).owner == "one", "a leader that is up to date leads on"
                await mine.stop()
                await asyncio.sleep(10 * LEASE_SECONDS)
                assert (await fleet.store.lease()).owner == "one", "nobody has anything newer"
                await theirs.go_to(fleet.world.tips[8].key)
                took = await fleet.until(lambda: fleet.head_is(8))
                assert STEP_DOWN * LEASE_SECONDS <= took < (STEP_DOWN + 2) * LEASE_SECONDS
                # the one that stepped down does not take it back, nor when its node is there again
                await mine.start()
                await asyncio.sleep(20 * LEASE_SECONDS)
                assert (await fleet.store.lease()).owner == "two"
                assert await fleet.store.scan(FLEET, b"standbys"), "it stands by, and says so"
                # now the other's node dies, and it is the first one's turn
                await theirs.stop()
                await mine.go_to(fleet.world.tips[9].key)
                await fleet.until(lambda: fleet.head_is(9))
                assert (await fleet.store.lease()).owner == "one"
        assert [entry.term for entry in fleet.store._heads] == [1, 2, 3]
        await replay_log(fleet.store)
        await mine.stop()

    run_virtual(run())


def test_without_a_standby_that_could_a_leader_leads_on() -> None:
    async def run() -> None:
        fleet = Fleet()
        mine, theirs = await fleet.world.node(at=7), await fleet.world.node(at=3)
        async with fleet.bridge("one", mine):
            await fleet.until(lambda: fleet.head_is(7))
            async with fleet.bridge("two", theirs):
                await mine.stop()
                await asyncio.sleep(30 * LEASE_SECONDS)
                assert (await fleet.store.lease()).term == 1, "the standby's node is behind"
            # a standby that was killed leaves its row: it does not move
            async with fleet.bridge("three", theirs):
                await theirs.go_to(fleet.world.tips[9].key)
                await asyncio.sleep(LEASE_SECONDS)
                rows = await fleet.store.scan(FLEET, b"standbys")
            await mine.start()
            await asyncio.sleep(5 * LEASE_SECONDS)
            await mine.stop()
            for key, value in rows:
                fleet.store._rows[(FLEET.name, b"standbys")].put(key, value)
            await asyncio.sleep(50 * LEASE_SECONDS)
            assert (await fleet.store.lease()).term == 1
            assert not await fleet.store.scan(FLEET, b"standbys"), "its row was removed"
        await theirs.stop()

    run_virtual(run())


def test_a_leader_that_fetches_for_long_makes_progress() -> None:
    """A first state may take an hour: nothing is published meanwhile, and the lease is kept."""

    async def run() -> None:
        fleet = Fleet()
        # a state of some hundred objects
        deep = fleet.world.chain.line(fleet.world.tips[11], 60)
        mine, theirs = await fleet.world.node(at=7), await fleet.world.node(at=7)
        mine.head, theirs.head = deep[-2].key, deep[-1].key
        mine.faults.delay_seconds = 0.25
        mine.faults.batches = 1
        async with fleet.bridge("one", mine):
            await fleet.until(lambda: "one" in fleet.bridges)
            async with fleet.bridge("two", theirs):
                took = await fleet.until(lambda: fleet.store._heads)
                assert took > 2 * STEP_DOWN * LEASE_SECONDS
                assert (await fleet.store.lease()).term == 1
        for node in fleet.world.nodes:
            await node.stop()

    run_virtual(run())
