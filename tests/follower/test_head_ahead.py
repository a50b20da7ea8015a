"""Reading ahead at a head: what was asked for is in memory before it is asked again, and answers are the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from blockstore.errors import StoreUnavailable
from chain.ipld.objects import Objects
from devnode.sim_chain import SimSettings
from devnode.simulate import SimulatedNode
from follower.ahead.head_ahead import HeadAhead
from follower.head import NewestHead
from rpc.context import Context
from rpc.lookup.actor_states import RECENT_ACTORS
from rpc.lookup.decoded_cache import decoded_cache
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from rpc.server.metrics import Metrics
from rpc.services import Head, Services
from tests.support.made_chain import ask


class Slow:
    """A store whose reads wait while `gate` is closed."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.gate = asyncio.Event()
        self.gate.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get(self, key: bytes) -> Any:
        await self.gate.wait()
        return await self._store.get(key)

    async def get_many(self, keys: Sequence[bytes]) -> Any:
        await self.gate.wait()
        return await self._store.get_many(keys)


class Follower:
    """Methods over the chain of a simulated node, with caches of their own, and reading ahead."""

    def __init__(self, node: SimulatedNode, most_actors: int = 64) -> None:
        self.store = Slow(node.store)
        self.services: Services = replace(node._services, objects=Objects(self.store), caches={})
        self.ahead = HeadAhead(self.services, most_actors)
        self.dispatcher = Dispatcher(self.services)

    def begin(self, node: SimulatedNode) -> None:
        self.ahead.begin(Head(node.heads.seq, None, node.head))

    async def done(self) -> None:
        assert self.ahead._task is not None
        await asyncio.wait_for(self.ahead._task, 10)

    async def actors(self, node: SimulatedNode, count: int = 40) -> list[Any]:
        return [await ask(self.dispatcher, "StateGetActor", f"f0{1000 + at}", []) for at in range(count)]


@pytest.fixture
async def node() -> AsyncIterator[SimulatedNode]:
    register_all()
    made = SimulatedNode(SimSettings(accounts=400, miners=20, miner_updates=4, messages=20))
    await made.prepare()
    await made.advance(5)
    yield made
    await made.stop()


async def test_what_was_asked_for_is_not_read_again(node: SimulatedNode) -> None:
    follower = Follower(node)
    follower.begin(node)
    await follower.done()
    await follower.actors(node)
    for asked in ("0x%x" % (node.head.height - 1), "latest"):
        await ask(follower.dispatcher, "EthGetBlockByNumber", asked, True)
    await ask(follower.dispatcher, "EthGasPrice")
    for _ in range(4):
        await node.extend()
        follower.begin(node)
        await follower.done()
        reads = follower.services.objects.reads
        answers = await follower.actors(node)
        block = await ask(follower.dispatcher, "EthGetBlockByNumber", "latest", True)
        assert "result" in await ask(follower.dispatcher, "EthGasPrice")
        assert follower.services.objects.reads == reads
        bare = Dispatcher(replace(node._services, objects=Objects(node.store), caches={}))
        assert answers == [await ask(bare, "StateGetActor", f"f0{1000 + at}", []) for at in range(40)]
        assert block == await ask(bare, "EthGetBlockByNumber", "latest", True)
    recent = follower.ahead._recent
    assert recent.read == recent.used == 4 * 40


async def test_what_nobody_asks_for_is_forgotten(node: SimulatedNode) -> None:
    follower = Follower(node)
    follower.begin(node)
    await follower.actors(node)
    read = []
    for _ in range(6):
        await node.extend()
        follower.begin(node)
        await follower.done()
        read.append(follower.ahead._recent.read)
    assert read == [40, 80, 120, 120, 120, 120]


async def test_memory_is_bounded(node: SimulatedNode) -> None:
    follower = Follower(node)
    follower.begin(node)
    await follower.actors(node, 200)
    await node.extend()
    follower.begin(node)
    await follower.done()
    assert follower.ahead._recent.read == 64


async def test_the_next_head_ends_what_is_not_done_and_requests_do_not_wait(node: SimulatedNode) -> None:
    follower = Follower(node)
    follower.begin(node)
    await follower.actors(node)
    follower.store.gate.clear()
    for _ in range(3):
        await node.extend()
        follower.begin(node)
        # nothing is read while the gate is closed, and the head is served all the same
        for _ in range(10):
            await asyncio.sleep(0)
        answer = await ask(follower.dispatcher, "ChainHead")
        assert answer["result"]["Height"] == node.head.height
    follower.store.gate.set()
    await follower.done()
    assert follower.ahead.outcomes == {"done": 2, "next head": 2, "time": 0, "error": 0}
    metrics = Metrics()
    follower.ahead.register(metrics)
    text = metrics.text().decode()
    assert 'follower_read_ahead_heads_total{outcome="next head"} 2.0' in text
    assert "follower_read_ahead_actors_used_total" in text


async def test_a_store_that_fails_ends_no_more_than_what_needs_it(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    follower = Follower(node)
    follower.begin(node)
    await follower.actors(node)
    await ask(follower.dispatcher, "EthGasPrice")
    await node.extend()
    seen: list[str] = []

    async def failing(*_: Any) -> Any:
        seen.append("actors")
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr("chain.state.state_tree.StateTree.get_many", failing)
    follower.begin(node)
    await follower.done()
    assert len(seen) > 1, "one group is no test of several"
    assert follower.ahead.outcomes["error"] == 0
    reads = follower.services.objects.reads
    assert "result" in await ask(follower.dispatcher, "EthGasPrice")
    assert follower.services.objects.reads == reads
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_a_process_that_nobody_asks_reads_nothing(node: SimulatedNode) -> None:
    follower = Follower(node)
    for _ in range(3):
        await node.extend()
        follower.begin(node)
        await follower.done()
    # the head's parent alone: the header that `latest` needs
    assert follower.services.objects.reads <= 3 * 4
    assert follower.ahead._recent.read == 0


async def test_without_actors_the_blocks_are_read_ahead_all_the_same(node: SimulatedNode) -> None:
    """A follower over its machine's disk remembers no actors; the messages of the head wait for its block."""
    follower = Follower(node, most_actors=0)
    follower.begin(node)
    await follower.actors(node)
    await ask(follower.dispatcher, "EthGetBlockByNumber", "latest", True)
    for _ in range(3):
        await node.extend()
        follower.begin(node)
        await follower.done()
        assert decoded_cache(Context(follower.services), "included").get(node.head.key) is not None
        reads = follower.services.objects.reads
        block = await ask(follower.dispatcher, "EthGetBlockByNumber", "latest", True)
        assert follower.services.objects.reads == reads
        bare = Dispatcher(replace(node._services, objects=Objects(node.store), caches={}))
        assert block == await ask(bare, "EthGetBlockByNumber", "latest", True)
    assert follower.ahead._recent.read == 0
    assert RECENT_ACTORS not in follower.services.caches


async def test_it_follows_heads_without_requests(node: SimulatedNode) -> None:
    follower = Follower(node)
    newest = NewestHead(follower.services.index)
    newest.after_new_head = follower.ahead.begin

    class Source:
        """The node's heads, as a process sees those of its store."""

        def subscribe(self, after: int | None = None) -> AsyncIterator[Any]:
            return node.heads.subscribe(after)

        async def current(self) -> Head:
            entry = node.heads._log[-1]
            return await newest.of(entry)

    follower.ahead._services.head_source = Source()
    running = asyncio.create_task(follower.ahead.run())
    while not node.heads.subscribers:
        await asyncio.sleep(0)
    for number in range(3):
        await node.extend()
        async with asyncio.timeout(10):
            while follower.ahead.outcomes["done"] <= number:
                await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not node.heads.subscribers
