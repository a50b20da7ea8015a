"""From an ID address to a robust one: the judge is the walk of the whole address map, which is what Lotus does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.cid import Cid, cid_of
from chain.address import Address, actor, bls, delegated, from_id, secp256k1
from chain.ipld.dag_cbor import encode
from chain.state.state_tree import Actor, StateTree
from tests.chain.test_state_tree import code_of, write
from tests.chain.tree_tools import Heap

#: what an actor may be, and with which addresses in the map
KINDS = (
    "account", "bls account", "account of an ID", "account without an entry", "account of another's key",
    "broken account", "ethaccount", "placeholder", "evm", "multisig", "nobody", "ended",
)  # fmt: skip


class World:
    """Actors of given kinds with IDs from 100 on, and the entries that a chain would have for them."""

    def __init__(self, kinds: list[str]) -> None:
        self.heap = Heap()
        self.actors: dict[Address, Actor] = {}
        self.entries: dict[Address, int] = {}
        for actor_id, kind in enumerate(kinds, 100):
            self._add(actor_id, kind)
        self.root = write(self.heap, self.actors, self.entries)[0]

    def _add(self, actor_id: int, kind: str) -> None:
        seed = actor_id.to_bytes(4, "big")
        key = bls(seed * 12) if kind == "bls account" else secp256k1(seed)
        ethereum, created = delegated(10, seed * 5), actor(seed)
        known_as = {
            "account of an ID": [], "account without an entry": [], "nobody": [], "ethaccount": [ethereum],
            "placeholder": [ethereum], "evm": [ethereum, created], "multisig": [created], "ended": [created],
        }.get(kind, [key])  # fmt: skip
        self.entries.update(dict.fromkeys(known_as, actor_id))
        if kind in ("nobody", "ended"):
            return
        own: Any = {"account of an ID": from_id(actor_id), "account of another's key": secp256k1(b"other")}.get(
            kind, key
        )
        if kind == "account of another's key":
            self.entries[own] = 99
        name = "account" if "account" in kind and kind != "ethaccount" else kind
        head = self._state(7 if kind == "broken account" else [bytes(own)])
        self.actors[from_id(actor_id)] = Actor(code_of(name), head, 0, 0, ethereum if ethereum in known_as else None)

    def _state(self, value: Any) -> Cid:
        data = encode(value)
        self.heap.put(cid_of(data), data)
        return cid_of(data)


async def walked(tree: StateTree, address: Address) -> Address | None:
    return await anext(aiter(tree.robust_addresses(address)), None)


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
async def test_it_is_the_one_that_a_walk_finds(kinds: list[str]) -> None:
    world = World(kinds)
    tree = await StateTree.load(world.heap, world.root)
    for actor_id in (0, 1, 99, *range(100, 101 + len(kinds))):
        address = from_id(actor_id)
        assert await tree.first_robust_address(address) == await walked(tree, address), kinds[actor_id - 100]


@pytest.mark.parametrize("kind", ["account", "bls account", "ethaccount", "placeholder"])
async def test_who_has_one_only_is_told_without_a_walk(kind: str) -> None:
    world = World([kind] * 3000)
    tree = await StateTree.load(world.heap, world.root)
    await tree.first_robust_address(from_id(100))
    before, world.heap.peak = world.heap.trips, 0
    assert await tree.first_robust_address(from_id(2345)) is not None
    # the actor and the entry are two or three levels deep, an account's state is one object more
    assert world.heap.trips - before <= 8
    assert world.heap.peak == 1
