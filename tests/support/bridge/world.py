"""A small chain and nodes that stand on it, for tests of the bridge's faults."""

from __future__ import annotations

from typing import Any

from blockstore.memory import MemoryStore
from chain.index.chain_index import (
    ChainIndex,
)
from chain.ipld.objects import Objects
from chain.tipset import Tipset
from leader_bridge.bridge import Bridge
from tests.support.bridge.chain import SmallChain
from tests.support.bridge.node import TestNode


class World:
    """A small chain of 12 tipsets, and nodes that stand at its 8th."""

    def __init__(self) -> None:
        self.chain = SmallChain(7)
        self.tips = self.chain.line(self.chain.genesis, 12)
        self.nodes: list[TestNode] = []
        self.store = MemoryStore()

    async def node(self, at: int = 7, **options: Any) -> TestNode:
        node = TestNode(dict(self.chain.objects), self.chain.genesis.key, self.tips[at].key, **options)
        self.nodes.append(await node.start())
        return node


def at_head(bridge: Bridge, tipset: Tipset) -> bool:
    return bridge.head is not None and bridge.head.head.key == tipset.key


async def held(store: MemoryStore, tipset: Tipset) -> int:
    return await ChainIndex(store, Objects(store)).held(tipset.key)
