"""A bridge that executes what it publishes: right chains, headers that lie, a machine that is wrong or gone."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from blockstore.cid import cid_of
from blockstore.errors import Missing
from blockstore.memory import MemoryStore
from blockstore.store import Store
from chain.block import encode_header
from chain.errors import NotHeld
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import load_network
from chain.tipset import Tipset, TipsetKey
from leader_bridge.bridge import Bridge
from leader_bridge.imports.importer import import_car
from rpc.errors import CannotExecute, Unavailable
from rpc.lookup.tipset_execution import execute_tipset
from tests.execution.machine import StoreExecutor, require_machine
from tests.support.bridge.chain import genesis_of, read_car
from tests.support.bridge.node import TestNode, until
from tests.support.bridge.running import entries_of, following, quick
from tests.support.recorded import recorded

pytestmark = [pytest.mark.recorded, pytest.mark.timeout(900)]


class Devnet:
    """The recorded chain, and nodes that stand on it."""

    def __init__(self) -> None:
        self.objects = read_car(recorded("devnet/chain.car.zst"))
        self.nodes: list[TestNode] = []
        self.tipsets: list[Tipset] = []
        self.store = MemoryStore()
        self.executor = StoreExecutor(self.store)

    async def read(self, head: Tipset, count: int) -> None:
        """`tipsets`: the last ones, rising."""
        self.tipsets = [head]
        node = TestNode(self.objects, head.key, head.key)
        while len(self.tipsets) < count:
            self.tipsets.insert(0, node.tipset(self.tipsets[0].parents))

    async def node(self, at: Tipset, more: dict[bytes, bytes] | None = None) -> TestNode:
        node = TestNode({**self.objects, **(more or {})}, genesis_of(self.objects, self.tipsets[0].key), at.key)
        self.nodes.append(await node.start())
        return node

    async def child(self, **changes: Any) -> tuple[Tipset, dict[bytes, bytes]]:
        """A tipset on the newest one, with the roots that the newest one gives, but for `changes`; what it adds."""
        head = self.tipsets[-1]
        network = await load_network(self.store)
        assert network is not None
        objects = Objects(self.store)
        index = ChainIndex(self.store, objects, network)

        class Chain:
            pass

        chain: Any = Chain()
        chain.index, chain.objects, chain.network = index, objects, network
        done = await execute_tipset(chain, await self.executor.inner(), head, objects=True)
        made = replace(
            head.blocks[0],
            parents=head.key.cids,
            parent_weight=head.blocks[0].parent_weight + 10,
            height=head.height + 1,
            timestamp=head.blocks[0].timestamp + 30,
            **{"parent_state_root": done.root, "parent_message_receipts": done.receipts, **changes},
        )
        raw = encode_header(made)
        header = replace(made, cid=cid_of(raw))
        return Tipset.of([header]), {**done.objects, header.cid.multihash: raw}


@pytest.fixture
async def devnet() -> AsyncIterator[Devnet]:
    """Imported into a store in memory; nodes serve it too."""
    require_machine()
    made = Devnet()
    await import_car(made.store, recorded("devnet/chain.car.zst"), network_file=recorded("devnet/network.json"))
    entry = await made.store.head()
    assert entry is not None
    index = ChainIndex(made.store, Objects(made.store))
    await made.read(await index.tipset(TipsetKey(entry.head.key)), 40)
    yield made
    for node in made.nodes:
        await node.stop()


def bridging(
    devnet: Devnet, nodes: Sequence[TestNode], store: Store, executor: StoreExecutor, **options: Any
) -> AbstractAsyncContextManager[Bridge]:
    settings = quick(**{"verify": "all", "network_file": recorded("devnet/network.json"), **options})
    return following(store, [node.url for node in nodes], settings, executor=executor)


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def is_at(bridge: Bridge, key: TipsetKey) -> bool:
    return bridge.head is not None and bridge.head.head.key == key


async def test_a_right_chain_is_verified_whole(devnet: Devnet) -> None:
    """From an empty store; one by one, and a gap of 20 as one head change."""
    store = MemoryStore()
    executor = StoreExecutor(store)
    tips = devnet.tipsets
    node = await devnet.node(tips[9])
    verified, unverified = count("follower_bridge_verified_total"), _unverified()
    async with bridging(devnet, [node], store, executor, backfill_epochs=5) as bridge:
        await until(lambda: is_at(bridge, tips[9].key))
        await until(bridge.backfill.idle.is_set)
        for tip in tips[10:20]:
            await node.go_to(tip.key)
            await until(lambda tip=tip: is_at(bridge, tip.key))  # type: ignore[misc]
        await node.cut()
        await node.go_to(tips[-1].key)
        await until(lambda: is_at(bridge, tips[-1].key))
    assert count("follower_bridge_verified_total") - verified == len(tips) - 10
    # the parent of the first head is not stored
    assert _unverified() - unverified == 1
    assert len(await entries_of(store)) < 20


async def test_a_sample_executes_some(devnet: Devnet) -> None:
    store = MemoryStore()
    executor = StoreExecutor(store)
    tips = devnet.tipsets
    node = await devnet.node(tips[9])
    options = {"verify": "sample", "verify_one_in": 3, "backfill_epochs": 5}
    async with bridging(devnet, [node], store, executor, **options) as bridge:
        await until(lambda: is_at(bridge, tips[9].key))
        await until(bridge.backfill.idle.is_set)
        for tip in tips[10:]:
            await node.go_to(tip.key)
            await until(lambda tip=tip: is_at(bridge, tip.key))  # type: ignore[misc]
    # 30 times by chance: 0 and 30 are less likely than 1 in 100,000
    assert 0 < executor.runs < 30


@pytest.mark.parametrize("wrong", ["parent_state_root", "parent_message_receipts"])
async def test_a_header_that_lies_is_not_published(
    devnet: Devnet, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The node follows a chain with a wrong header; the bridge waits, and goes on when the node is right again."""
    right, more = await devnet.child()
    before = next(one for one in devnet.tipsets[::-1] if getattr(one, wrong) != getattr(right, wrong))
    lie, lying = await devnet.child(**{wrong: getattr(before, wrong)})
    node = await devnet.node(devnet.tipsets[-1], {**more, **lying})
    differences = count("follower_bridge_execution_differences_total")
    async with bridging(devnet, [node], devnet.store, devnet.executor) as bridge:
        await until(lambda: is_at(bridge, devnet.tipsets[-1].key))
        await node.go_to(lie.key)
        await until(lambda: count("follower_bridge_execution_differences_total") > differences + 1)
        assert is_at(bridge, devnet.tipsets[-1].key)
        assert count("follower_bridge_stopped", reason="execution_differs") == 1
        height = devnet.tipsets[-1].height
        assert f"at epoch {height} gives state {right.parent_state_root}" in caplog.text
        assert f"its child has state {lie.parent_state_root}" in caplog.text
        assert caplog.text.count("not published: executing the tipset") == 1
        # what a follower would take for the state after the head is not written
        assert await ChainIndex(devnet.store, Objects(devnet.store)).post(devnet.tipsets[-1].key) is None
        await node.go_to(right.key)
        await until(lambda: is_at(bridge, right.key))
        # it is told once the head is published
        await until(lambda: count("follower_bridge_stopped", reason="execution_differs") == 0)


async def test_another_node_is_followed_when_one_lies(devnet: Devnet) -> None:
    right, more = await devnet.child()
    lie, lying = await devnet.child(parent_state_root=devnet.tipsets[-1].parent_state_root)
    liar, honest = [await devnet.node(devnet.tipsets[-1], {**more, **lying}) for _ in range(2)]
    async with bridging(devnet, [liar, honest], devnet.store, devnet.executor) as bridge:
        await until(lambda: is_at(bridge, devnet.tipsets[-1].key) and bridge.following)
        await liar.go_to(lie.key)
        await honest.go_to(right.key)
        await until(lambda: is_at(bridge, right.key))


async def test_a_machine_that_was_wrong_once_is_asked_again(devnet: Devnet, caplog: pytest.LogCaptureFixture) -> None:
    right, more = await devnet.child()
    node = await devnet.node(devnet.tipsets[-1], more)
    devnet.executor.root = devnet.tipsets[-1].parent_state_root
    async with bridging(devnet, [node], devnet.store, devnet.executor) as bridge:
        await until(lambda: is_at(bridge, devnet.tipsets[-1].key))
        await node.go_to(right.key)
        await until(lambda: "not published" in caplog.text)
        assert is_at(bridge, devnet.tipsets[-1].key)
        # mended
        devnet.executor.root = None
        await until(lambda: is_at(bridge, right.key))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Unavailable("the executor does not answer"), "unavailable"),
        (CannotExecute("network version 17 is unknown"), "not_executable"),
        (NotHeld("a code"), "not_held"),
        (Missing(cid_of(b"an object")), "not_held"),
    ],
)
async def test_what_cannot_be_verified_is_published_and_counted(
    devnet: Devnet, fault: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    right, more = await devnet.child()
    node = await devnet.node(devnet.tipsets[-1], more)
    devnet.executor.fault = fault
    caplog.set_level(logging.INFO)
    before = count("follower_bridge_unverified_total", reason=reason)
    async with bridging(devnet, [node], devnet.store, devnet.executor) as bridge:
        verifier = bridge.publisher.verifier
        assert verifier is not None
        verifier._wait_seconds = 0.2
        await until(lambda: is_at(bridge, devnet.tipsets[-1].key))
        await node.go_to(right.key)
        await until(lambda: is_at(bridge, right.key))
    late = count("follower_bridge_unverified_total", reason="late") if reason == "unavailable" else 0
    assert count("follower_bridge_unverified_total", reason=reason) + late > before
    assert f"epoch {right.height} is published unverified" in caplog.text


def _unverified() -> float:
    reasons = ("late", "unavailable", "not_held", "not_executable")
    return sum(count("follower_bridge_unverified_total", reason=reason) for reason in reasons)
