"""`FollowerActorCreatedAt` and `FollowerStateChangedAt`, judged by asking every epoch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from blockstore.cid import Cid, cid_of
from blockstore.memory import MemoryStore
from blockstore.store import TIPSETS, Batch
from chain.address import Address, from_id
from chain.index.chain_index import HELD_ALL, HELD_STATE, ChainIndex
from chain.index.kept import Kept, save_kept
from chain.ipld.dag_cbor import encode
from chain.ipld.hamt import hamt_build
from chain.ipld.objects import Objects
from chain.state.state_tree import StateTree
from chain.tipset import Tipset
from devnode.sim_chain import SimSettings
from devnode.simulate import SimulatedNode
from rpc.context import Context
from rpc.lookup.ancestors import ancestry_of
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from rpc.services import Head, Services
from tests.blockstore.lookup.far_store import FarStore, far_copy
from tests.blockstore.lookup.near_store import one_at_a_time
from tests.rpc.methods.test_recorded_chain import FixedHead, services_of
from tests.support.made_chain import NOWHERE, MadeChain, links
from tests.support.made_chain import ask as call
from tests.support.recorded import recorded
from tests.support.virtual_time import run_virtual

register_all()


async def tipsets_of(services: Services, low: int = 0) -> list[Tipset]:
    """The chain from epoch `low` to the head, rising."""
    ctx = Context(services)
    head = (await ctx.head()).tipset
    found = await ancestry_of(ctx).tipsets_between(head, low, head.height)
    return [await services.index.tipset(one.key) for one in found]


@dataclass
class History:
    """By actor: the epochs at which its head changed; the epoch at which it is there first. By HAMT diffs."""

    changed: dict[Address, list[int]]
    created: dict[Address, int]


async def history(services: Services, low: int = 0) -> History:
    found = History({}, {})
    before: StateTree | None = None
    for tipset in await tipsets_of(services, low):
        tree = await StateTree.load(services.objects, tipset.parent_state_root)
        if before is None:
            found.created = {address: tipset.height async for address, _ in tree.items()}
        else:
            async for address, old, new in before.diff(tree):
                if old is None:
                    found.created[address] = tipset.height
                if (old and old.head) != (new and new.head):
                    found.changed.setdefault(address, []).append(tipset.height)
        before = tree
    return found


def far_services(services: Services, head: Tipset) -> tuple[Services, FarStore]:
    """The same chain over a far store, with nothing cached."""
    assert isinstance(services.store, MemoryStore)
    store = far_copy(services.store)
    objects = Objects(store)
    index = ChainIndex(store, objects, services.network)
    return Services(
        store=store,
        index=index,
        objects=objects,
        network=services.network,
        head_source=FixedHead(Head(1, None, head)),
    ), store


async def result(dispatcher: Dispatcher, method: str, *params: Any) -> Any:
    answer = await call(dispatcher, method, *params)
    assert "error" not in answer, answer
    return answer["result"]


async def asked_one_by_one(dispatcher: Dispatcher, tipsets: Sequence[Tipset], address: str) -> list[int]:
    """What a client has to do without the method."""
    heads: list[Any] = []
    for tipset in tipsets:
        answer = await call(dispatcher, "StateGetActor", address, links(tipset.key))
        heads.append(answer["result"]["Head"] if "result" in answer else answer["error"]["message"])
    return [tipset.height for at, tipset in enumerate(tipsets) if at and heads[at] != heads[at - 1]]


def compared(services: Services, tipsets: list[Tipset], address: str) -> tuple[list[int], int, int, float]:
    """(epochs, round trips, those of asking every one, seconds): all of it over a far store, nothing cached."""
    head = tipsets[-1]

    async def all_at_once() -> tuple[list[int], int, float]:
        far, store = far_services(services, head)
        found = await result(Dispatcher(far), "FollowerStateChangedAt", address, tipsets[0].height, head.height)
        return found, store.round_trips, asyncio.get_running_loop().time()

    async def each() -> tuple[list[int], int]:
        far, store = far_services(services, head)
        return await asked_one_by_one(Dispatcher(far), tipsets, address), store.round_trips

    found, few, seconds = run_virtual(all_at_once())
    expected, many = run_virtual(each())
    assert found == expected
    return found, few, many, seconds


LONG = [pytest.param(folder, marks=pytest.mark.long) for folder in ("devnet", "busy")]


@pytest.mark.recorded
@pytest.mark.parametrize("folder", ["upgrades", *LONG])
async def test_every_actor_of_a_recorded_chain(folder: str) -> None:
    services = await services_of(folder)
    dispatcher = Dispatcher(services)
    told = await history(services)
    assert len(told.created) > 200
    for address, epoch in told.created.items():
        found = await result(dispatcher, "FollowerActorCreatedAt", str(address))
        assert (found["ID"], found["Height"]) == (str(address), epoch)
    head = (await services.head_source.current()).tipset
    some = {len(epochs): address for address, epochs in told.changed.items()}
    for address in [some[count] for count in sorted(some)][-4::3]:
        found = await result(dispatcher, "FollowerStateChangedAt", str(address), 0, head.height)
        assert found == told.changed[address]


@pytest.mark.recorded
async def test_addresses_of_every_form() -> None:
    services = await services_of("devnet")
    dispatcher = Dispatcher(services)
    head = (await services.head_source.current()).tipset
    names = json.loads(recorded("devnet/meta.json").read_text())["Addrs"]
    assert {name[:2] for name in names} >= {"f0", "f1", "f2", "f3", "f4"}
    for name in names:
        actor_id = await result(dispatcher, "StateLookupID", name, [])
        created = await result(dispatcher, "FollowerActorCreatedAt", name)
        assert created["ID"] == actor_id
        assert created == await result(dispatcher, "FollowerActorCreatedAt", actor_id)
        tipset = await services.index.at_height(head, created["Height"])
        assert created["TipSet"] == links(tipset.key)
        assert "result" in await call(dispatcher, "StateGetActor", actor_id, links(tipset.key))
        if tipset.height:
            assert "error" in await call(dispatcher, "StateGetActor", actor_id, links(tipset.parents))


@pytest.mark.recorded
async def test_an_actor_that_is_not_there() -> None:
    dispatcher = Dispatcher(await services_of("devnet"))
    answer = await call(dispatcher, "FollowerActorCreatedAt", "f099999")
    assert answer["error"]["message"] == "actor not found"
    assert await result(dispatcher, "FollowerStateChangedAt", "f099999", 0, 900) == []


@pytest.mark.recorded
async def test_ranges() -> None:
    services = await services_of("devnet")
    dispatcher = Dispatcher(services)
    head = (await services.head_source.current()).tipset
    power = "f04"
    every = await result(dispatcher, "FollowerStateChangedAt", power, 0, head.height)
    assert len(every) > 900
    parts = [
        await result(dispatcher, "FollowerStateChangedAt", power, low, min(low + 200, head.height))
        for low in range(0, head.height, 200)
    ]
    # ranges that touch have each change once, null rounds at their ends or not
    assert [epoch for part in parts for epoch in part] == every
    assert await result(dispatcher, "FollowerStateChangedAt", power, 500, 500) == []
    for since, until, text in (
        (9, 8, "the range ends at epoch 8, before it begins at epoch 9"),
        (0, 2881, "a range of 2881 epochs; at most 2880 can be asked for at once"),
        (0, head.height + 1, "looking for tipset with height greater than start point"),
        (-1, 8, "height -1 is negative"),
    ):
        answer = await call(dispatcher, "FollowerStateChangedAt", power, since, until)
        assert text in answer["error"]["message"]


@pytest.mark.recorded
def test_round_trips_on_the_recorded_chain() -> None:
    """The longest recorded chains have fewer than 2,880 epochs: all of one, an actor that changed nine times."""

    async def made() -> tuple[Services, list[Tipset], Address]:
        services = await services_of("upgrades")
        told = await history(services)
        address = next(address for address, epochs in told.changed.items() if len(epochs) == 9)
        return services, await tipsets_of(services), address

    services, tipsets, address = run_virtual(made())
    found, few, many, seconds = compared(services, tipsets, str(address))
    assert len(found) == 9
    assert few * 10 <= many
    print(f"{tipsets[-1].height} epochs: {few} round trips instead of {many}, {seconds:.1f} s at 60 ms each")


@pytest.mark.long
def test_round_trips_over_2880_simulated_epochs() -> None:
    async def made() -> tuple[Services, list[Tipset], Address]:
        node = SimulatedNode(
            SimSettings(miners=290, miner_updates=1, messages=1, max_blocks=1, accounts=10, reorg_rate=0, late_rate=0)
        )
        await node.prepare()
        while node.chain.head.height < 2880:
            await node.advance()
        head = node.chain.head
        objects = Objects(node.store)
        services = Services(
            store=node.store,
            index=ChainIndex(node.store, objects, node.network),
            objects=objects,
            network=node.network,
            head_source=FixedHead(Head(1, None, head)),
        )
        low = head.height - 2880
        told = await history(services, low)
        address = next(address for address, epochs in told.changed.items() if len(epochs) == 10)
        return services, await tipsets_of(services, low), address

    services, tipsets, address = run_virtual(made())
    assert tipsets[-1].height - tipsets[0].height >= 2879
    found, few, many, seconds = compared(services, tipsets, "t" + str(address)[1:])
    assert len(found) == 10
    assert few * 10 <= many
    print(f"2,880 epochs: {few} round trips instead of {many}, {seconds:.1f} s at 60 ms each")


# --- chains made here --------------------------------------------------------------------------------


async def chain_of(heads: Sequence[bytes | None]) -> tuple[MadeChain, list[Tipset]]:
    """A chain on which actor 101 has the heads given, tipset by tipset; None: there is no such actor."""
    chain = MadeChain()
    tipsets: list[Tipset] = []
    for epoch, head in enumerate(heads):
        made: list[tuple[bytes, bytes]] = []
        actors = {from_id(number): [NOWHERE, NOWHERE, 0, b"", None] for number in range(200, 240)}
        actors[from_id(200)] = [NOWHERE, NOWHERE, epoch, b"", None]
        if head is not None:
            actors[from_id(101)] = [NOWHERE, cid_of(head), 0, b"", None]
        root = hamt_build(lambda cid, raw, into=made: into.append((cid.multihash, raw)), actors)
        await chain.store.put_many(made, closed=True)
        state = await chain.put(encode([5, root, NOWHERE]))
        tipsets.append(await chain.add(tipsets[-1] if tipsets else None, epoch, state=state))
    chain.log.publish([], tipsets)
    return chain, tipsets


async def test_a_change_that_was_undone_is_found() -> None:
    heads: list[bytes | None] = [None] * 3 + [b"a"] * 100 + [b"b"] + [b"a"] * 100 + [None] + [b"a"] * 20
    chain, tipsets = await chain_of(heads)
    dispatcher = Dispatcher(chain.services())
    found = await result(dispatcher, "FollowerStateChangedAt", "f0101", 0, tipsets[-1].height)
    assert found == [3, 103, 104, 204, 205]
    assert await result(dispatcher, "FollowerStateChangedAt", "f0101", 4, 102) == []


async def lose_states(chain: MadeChain, tipsets: Sequence[Tipset]) -> None:
    """As a store that began above these tipsets: it has their headers."""
    batch = Batch()
    for tipset in tipsets:
        chain.store._objects.pop(tipset.parent_state_root.multihash, None)
        row = chain.rows[tipset.key]
        batch.put(TIPSETS, tipset.key.cid, b"", replace(row, held=HELD_ALL & ~HELD_STATE).encode())
    await chain.store.write(batch)


async def test_states_that_are_not_held() -> None:
    chain, tipsets = await chain_of([b"%d" % (epoch // 50) for epoch in range(400)])
    await lose_states(chain, tipsets[:120])
    dispatcher = Dispatcher(chain.services())
    assert await result(dispatcher, "FollowerStateChangedAt", "f0101", 120, 399) == [150, 200, 250, 300, 350]
    answer = await call(dispatcher, "FollowerStateChangedAt", "f0101", 119, 399)
    assert answer["error"]["message"] == "not held: state of epoch 119; held from epoch 120"
    answer = await call(dispatcher, "FollowerStateChangedAt", "f0101", 10, 399)
    assert answer["error"]["message"] == "not held: state of epoch 10; held from epoch 120"


async def test_states_that_were_dropped() -> None:
    chain, _ = await chain_of([b"a"] * 50)
    batch = Batch()
    save_kept(batch, Kept({"state": 30}, {}, {"state": 20}))
    await chain.store.write(batch)
    dispatcher = Dispatcher(chain.services())
    answer = await call(dispatcher, "FollowerStateChangedAt", "f0101", 29, 49)
    assert answer["error"]["message"] == "not held: state of epoch 29; held: states from epoch 30"
    assert await result(dispatcher, "FollowerStateChangedAt", "f0101", 30, 49) == []


@pytest.mark.recorded
async def test_an_actor_older_than_what_is_held() -> None:
    services = await services_of("devnet")
    assert isinstance(services.store, MemoryStore)
    told = await history(services)
    address, epoch = next((one, at) for one, at in told.created.items() if 300 < at < 600)
    gone: list[Cid] = [t.parent_state_root for t in await tipsets_of(services) if t.height < epoch + 50]
    for root in gone:
        services.store._objects.pop(root.multihash, None)
    objects = Objects(services.store)
    services = replace(services, objects=objects, caches={})
    answer = await call(Dispatcher(services), "FollowerActorCreatedAt", str(address))
    text = answer["error"]["message"]
    assert text.startswith("not held: state of epoch ")
    assert "where the actor may have been already; held from epoch " in text
    # a younger one is found
    younger, later = max(told.created.items(), key=lambda pair: pair[1])
    assert later > epoch + 60
    assert (await result(Dispatcher(services), "FollowerActorCreatedAt", str(younger)))["Height"] == later


@pytest.mark.recorded
def test_a_far_store_is_asked_ahead() -> None:
    async def made() -> tuple[Services, Tipset, dict[Address, int]]:
        services = await services_of("devnet")
        return services, (await services.head_source.current()).tipset, (await history(services)).created

    services, head, created = run_virtual(made())
    some = [(address, epoch) for address, epoch in created.items() if epoch > 100][:12]

    async def seconds(serial: bool) -> tuple[float, float]:
        took: list[float] = []
        trips: list[int] = []
        for address, epoch in some:
            far, store = far_services(services, head)
            if serial:
                one_at_a_time(far.lookup)
            began = asyncio.get_running_loop().time()
            found = await result(Dispatcher(far), "FollowerActorCreatedAt", str(address))
            assert found["Height"] == epoch
            took.append(asyncio.get_running_loop().time() - began)
            trips.append(store.round_trips)
            assert asyncio.all_tasks() == {asyncio.current_task()}
        return sum(took) / len(took), sum(trips) / len(trips)

    serial, few = run_virtual(seconds(True))
    ahead, many = run_virtual(seconds(False))
    print(f"{serial:.2f} s and {few:.0f} round trips; asking ahead {ahead:.2f} s and {many:.0f}")
    assert ahead * 2 <= serial
