"""The state tree of real chains against what the node answered, of every version, and bad data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.cid import Cid, cid_of
from blockstore.cid import parse as parse_cid
from blockstore.errors import Missing
from chain.address import Address, delegated, from_id, parse, secp256k1
from chain.block import decode_header
from chain.errors import ActorNotFound, BadObject, ChainError, NotHeld
from chain.ipld.bigint import encode_bigint
from chain.ipld.dag_cbor import encode
from chain.ipld.hamt import hamt_build
from chain.ipld.tree_nodes import NodeCache
from chain.state.state_tree import INIT, SYSTEM, Actor, StateTree, UnresolvedAddress, decode_actor
from tests.chain.state_data import calls, head_of, heap_of
from tests.chain.tree_tools import Heap, dag_cbor_values

CODE = cid_of(b"code", 0x55)
HEAD = cid_of(b"\x80")


#: the actors of a test's manifest
NAMES = ("account", "ethaccount", "evm", "init", "multisig", "placeholder", "system")


def code_of(name: str) -> Cid:
    return cid_of(name.encode(), 0x55)


def actor_value(actor: Actor, version: int) -> list[Any]:
    value: list[Any] = [actor.code, actor.head, actor.nonce, encode_bigint(actor.balance)]
    return [*value, actor.delegated] if version >= 5 else value


def write(
    heap: Heap, actors: dict[Address, Actor], robust: dict[Address, int] | None = None, version: int = 5
) -> tuple[Cid, dict[Address, Actor]]:
    """A state tree with an init and a system actor beside `actors`: (root, all actors)."""

    def keep(value: Any) -> Cid:
        data = encode(value)
        heap.put(cid_of(data), data)
        return cid_of(data)

    names = {name: code_of(name) for name in NAMES}
    addresses = hamt_build(heap.put, {bytes(key): value for key, value in (robust or {}).items()})
    manifest = keep([[name, code] for name, code in names.items()])
    everyone = {
        **actors,
        INIT: Actor(names["init"], keep([addresses, 1000, "tests"]), 0, 0),
        SYSTEM: Actor(names["system"], keep([manifest]), 0, 0),
    }
    tree = hamt_build(heap.put, {bytes(key): actor_value(actor, version) for key, actor in everyone.items()})
    return (keep([version, tree, keep([])]) if version else tree), everyone


@pytest.mark.recorded
@pytest.mark.parametrize("folder", ["devnet", "upgrades"])
async def test_actors_are_those_that_the_node_listed(folder: str) -> None:
    heap = heap_of(f"{folder}/chain.car.zst")
    head = head_of(folder)
    tree = await StateTree.load(heap, head.parent_state_root)
    everyone = {address: actor async for address, actor in tree.items()}
    listed = [call for call in calls(folder, "Filecoin.StateListActors") if call["params"] == [[]]]
    assert listed
    assert [address.text() for address in everyone] == listed[0]["result"]
    seen = 0
    trees: dict[Cid, StateTree] = {head.parent_state_root: tree}
    for call in calls(folder, "Filecoin.StateGetActor"):
        text, key = call["params"]
        wanted = call.get("result")
        if call["path"] != "/rpc/v1" or wanted is None:
            continue
        block = decode_header(parse_cid(key[0]["/"]), heap.objects[parse_cid(key[0]["/"])]) if key else head
        root = block.parent_state_root
        if root not in trees:
            trees[root] = await StateTree.load(heap, root)
        actor = await trees[root].get(parse(text))
        assert str(actor.code) == wanted["Code"]["/"]
        assert str(actor.head) == wanted["Head"]["/"]
        assert (actor.nonce, str(actor.balance)) == (wanted["Nonce"], wanted["Balance"])
        assert (actor.delegated.text() if actor.delegated else None) == wanted["DelegatedAddress"]
        seen += 1
    assert seen > 1000
    assert len(trees) >= 4
    assert {tree.version for tree in trees.values()} == ({4, 5} if folder == "upgrades" else {5})


@pytest.mark.recorded
@pytest.mark.parametrize("network", ["mainnet", "calibnet"])
async def test_a_genesis_of_the_oldest_form(network: str) -> None:
    heap = heap_of(f"genesis/{network}.car.zst")
    roots = 0
    for cid, data in heap.objects.items():
        if len(data) > 3000:
            continue
        try:
            tree = await StateTree.load(heap, cid)
            init = await tree.init_state()
        except (BadObject, ActorNotFound, Missing):
            continue
        roots += 1
        assert init.network_name in ("mainnet", "calibrationnet", "testnetnet")
        everyone = {address: actor async for address, actor in tree.items()}
        assert everyone[INIT] == await tree.get(INIT)
        async for robust, actor_id in init.addresses.items():
            assert await tree.lookup_id(Address(robust)) == from_id(actor_id)
            assert await tree.get(Address(robust)) == everyone[from_id(actor_id)]
        assert everyone[INIT].code.is_identity
        assert tree.version == 0
        assert await tree.code_name(everyone[INIT].code) == "init"
    assert roots == 1


@pytest.mark.parametrize("version", range(6))
async def test_every_version_reads_back(version: int) -> None:
    heap = Heap()
    actors = {from_id(at): Actor(CODE, HEAD, at, 10**20 + at) for at in range(100, 400)}
    named = secp256k1(b"key" * 20)
    root, everyone = write(heap, actors, {named: 123}, version)
    cache = NodeCache(1 << 20)
    for _ in range(2):
        tree = await StateTree.load(heap, root, cache)
        assert tree.version == version
        assert {address: actor async for address, actor in tree.items()} == everyone
        assert await tree.get(named) == actors[from_id(123)]
        assert await tree.lookup_id(named) == from_id(123)
        assert [found async for found in tree.robust_addresses(from_id(123))] == [named]
        assert [found async for found in tree.robust_addresses(from_id(124))] == []
        assert (await tree.init_state()).network_name == "tests"
        assert (await tree.init_state()).next_id == 1000
    assert cache.hits > 0


async def test_who_is_not_there() -> None:
    heap = Heap()
    root, _ = write(heap, {})
    tree = await StateTree.load(heap, root)
    named = secp256k1(b"nobody")
    with pytest.raises(ActorNotFound, match=r"^actor not found$"):
        await tree.get(from_id(5555))
    with pytest.raises(ActorNotFound) as caught:
        await tree.get(named)
    assert str(caught.value) == f"resolution lookup failed ({named}): resolve address {named}: actor not found"
    with pytest.raises(ActorNotFound):
        await tree.lookup_id(named)
    assert await tree.lookup_id(from_id(5555)) == from_id(5555)
    with pytest.raises(ChainError, match="GetActor called on undefined address"):
        await tree.get(Address())


async def test_keys_of_accounts() -> None:
    heap = Heap()
    key, eth = secp256k1(b"a key"), delegated(10, b"\x11" * 20)
    state = encode([key])
    heap.put(cid_of(state), state)
    account = Actor(cid_of(b"account", 0x55), cid_of(state), 0, 0)
    actors = {
        from_id(100): account,
        from_id(101): replace(account, code=CODE, delegated=eth),
        from_id(102): replace(account, code=CODE),
        from_id(103): replace(account, code=cid_of(b"init", 0x55)),
    }
    tree = await StateTree.load(heap, write(heap, actors)[0])
    assert await tree.account_key(from_id(100)) == key
    assert await tree.account_key(from_id(101)) == eth
    assert await tree.account_key(key) == key
    with pytest.raises(UnresolvedAddress, match="unknown actor code"):
        await tree.account_key(from_id(102))
    with pytest.raises(UnresolvedAddress, match="actor code is not account: init"):
        await tree.account_key(from_id(103))
    with pytest.raises(ActorNotFound, match="failed to find actor: f0104"):
        await tree.account_key(from_id(104))


async def test_changed_actors() -> None:
    heap = Heap()
    actors = {from_id(at): Actor(CODE, HEAD, at, at) for at in range(100, 2000)}
    later = dict(actors)
    later[from_id(150)] = replace(actors[from_id(150)], balance=7)
    later[from_id(9999)] = Actor(CODE, HEAD, 0, 0)
    del later[from_id(200)]
    old = await StateTree.load(heap, write(heap, actors)[0])
    new = await StateTree.load(heap, write(heap, later)[0])
    heap.trips = 0
    found = {address: (was, now) async for address, was, now in old.diff(new)}
    assert found == {
        from_id(150): (actors[from_id(150)], later[from_id(150)]),
        from_id(200): (actors[from_id(200)], None),
        from_id(9999): (None, later[from_id(9999)]),
    }
    assert heap.trips <= 8


async def test_a_point_look_up_is_one_read_a_level() -> None:
    heap = Heap()
    root, _ = write(heap, {from_id(at): Actor(CODE, HEAD, 0, 0) for at in range(100, 20_000)})
    tree = await StateTree.load(heap, root)
    heap.trips = 0
    await tree.get(from_id(777))
    assert heap.trips <= 4


async def test_memory_tells_of_an_actor_what_a_read_tells() -> None:
    heap = Heap()
    robust = [secp256k1(bytes([at]) * 65) for at in range(40)]
    actors = {from_id(100 + at): Actor(CODE, HEAD, at, 10**at) for at in range(40)}
    root, everyone = write(heap, actors, {address: 100 + at for at, address in enumerate(robust)})
    tree = await StateTree.load(heap, root, NodeCache(1 << 20))
    assert tree.peek(from_id(100)) is None
    assert tree.peek(robust[0]) is None
    await tree.get(robust[0])
    known = 0
    for at, address in enumerate(robust):
        trips = heap.trips
        for one in (address, from_id(100 + at)):
            seen = tree.peek(one)
            known += seen is not None
            assert seen is None or seen == everyone[from_id(100 + at)]
        assert heap.trips == trips
        await tree.get(address)
        assert tree.peek(address) == tree.peek(from_id(100 + at)) == everyone[from_id(100 + at)]
    assert known > 40
    assert tree.peek(from_id(7)) is None


@pytest.mark.parametrize(
    "value",
    [[-1, HEAD, HEAD], [5, 5, HEAD], ["5", HEAD, HEAD], [5, b"no cid", HEAD], {"a": 1}, 7, b"x"],
    ids=repr,
)
async def test_malformed_roots(value: Any) -> None:
    heap = Heap()
    data = encode(value)
    heap.put(cid_of(data), data)
    with pytest.raises(BadObject):
        await (await StateTree.load(heap, cid_of(data))).get(from_id(1))


async def test_a_newer_version_of_the_tree_is_not_held() -> None:
    heap = Heap()
    data = encode([6, HEAD, HEAD])
    heap.put(cid_of(data), data)
    with pytest.raises(NotHeld, match=r"^not held: state tree version 6 "):
        await StateTree.load(heap, cid_of(data))


@given(dag_cbor_values() | st.lists(dag_cbor_values(2), min_size=4, max_size=5), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_any_value_is_an_actor_or_refused(value: Any, version: int) -> None:
    try:
        assert isinstance(decode_actor(value, version), Actor)
    except BadObject:
        return


@given(
    st.sampled_from(["init", "system", "account"]),
    st.one_of(
        st.binary(max_size=60), dag_cbor_values().map(encode), st.lists(dag_cbor_values(2), max_size=4).map(encode)
    ),
)
@settings(max_examples=100, deadline=None)
async def test_any_state_of_an_actor_is_read_or_refused(which: str, data: bytes) -> None:
    heap = Heap()
    actors = {from_id(100): Actor(cid_of(b"account", 0x55), HEAD, 0, 0)}
    good = await StateTree.load(heap, write(heap, actors)[0])
    address = {"init": INIT, "system": SYSTEM, "account": from_id(100)}[which]
    heap.objects[(await good.get(address)).head] = data
    tree = await StateTree.load(heap, good.root)
    for reading in (tree.lookup_id(secp256k1(b"x")), tree.actor_codes(), tree.account_key(from_id(100))):
        try:
            await reading
        except (ChainError, Missing):
            continue
