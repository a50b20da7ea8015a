"""Over a network version that this release does not know, no answer that needs a state of an actor is made up.

The simulated chain's actors are in no bundle of Lotus': only the network version tells their actors version.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from blockstore.cid import Cid, cid_of
from chain.actors.load import DATACAP, MARKET, VERIFREG
from chain.actors.versions import LAST_NETWORK_VERSION, LAST_VERSION
from chain.address import Address
from chain.block import encode_header
from chain.ipld.bigint import encode_bigint
from chain.ipld.dag_cbor import decode, encode
from chain.ipld.hamt import hamt_set
from chain.ipld.objects import Objects
from chain.tipset import Tipset
from devnode.sim_chain import NETWORK_VERSION, SimSettings
from devnode.simulate import SimulatedNode
from rpc.methods import register_all
from rpc.params import Param
from rpc.registry import REGISTRY, V1, Method
from rpc.server.dispatch import Dispatcher
from rpc.services import Head
from tests.support.made_chain import ask
from tests.support.wire_node import Heads

SMALL = SimSettings(accounts=12, miners=4, miner_updates=2, messages=3)
NOT_HELD = f"not held: actors version {LAST_VERSION + 1} "

#: what is asked for by hand below, or needs nothing of a state but an actor's own record
PLAIN = {
    "StateGetActor", "StateListActors", "StateAllMinerFaults", "StateNetworkVersion", "WalletBalance", "EthGetBalance",
}  # fmt: skip
#: of actors whose state is asked for at two tipsets, or that are named by their code
CALLS: tuple[tuple[str, list[Any]], ...] = (
    ("MsigGetVested", ["{miner}", ["{old}"], []]),
    ("StateGetActor", ["{account_key}", []]),
    ("StateLookupID", ["{account_key}", []]),
    ("PaychStatus", ["{account_key}"]),
    ("StateActorCodeCIDs", [LAST_NETWORK_VERSION + 1]),
    ("StateActorManifestCID", [LAST_NETWORK_VERSION + 1]),
    ("StateEncodeParams", ["{code}", 2, {}]),
    ("EthGetCode", ["{eth}", "{eth_block}"]),
    ("EthGetStorageAt", ["{eth}", "0x0", "{eth_block}"]),
    ("EthGetTransactionCount", ["{eth}", "{eth_block}"]),
    ("FilecoinAddressToEthAddress", ["{account_key}", "{eth_block}"]),
)


@pytest.fixture
async def node() -> AsyncIterator[SimulatedNode]:
    register_all()
    made = SimulatedNode(SMALL)
    await made.prepare()
    for _ in range(6):
        await made.extend()
    yield made
    await made.stop()


def dispatcher_at(node: SimulatedNode, height: int, heads: Heads | None = None) -> Dispatcher:
    """The node's methods, with a network version that this release does not know from `height` on."""
    network = replace(node.network, upgrades=(*node.network.upgrades, (height, LAST_NETWORK_VERSION + 1)))
    source = heads or node._services.head_source
    return Dispatcher(replace(node._services, network=network, head_source=source))


async def with_all_actors(node: SimulatedNode) -> Heads:
    """The node's head over a state that has the singletons, too, which the simulated chain goes without."""
    head = node.head.blocks[0]
    root = decode(await node.store.get(head.parent_state_root.multihash))
    made: list[tuple[Cid, bytes]] = []
    code = node.chain._maker.codes["account"]
    record = [code, cid_of(b"unread"), 0, encode_bigint(1), None]
    actors = await hamt_set(
        Objects(node.store), lambda cid, raw: made.append((cid, raw)), root[1],
        {bytes(address): record for address in (MARKET, VERIFREG, DATACAP)},
    )  # fmt: skip
    raw = encode([root[0], actors, Cid(root[2])])
    made.append((cid_of(raw), raw))
    await node.store.put_many([(cid.multihash, data) for cid, data in made], closed=True)
    header = replace(head, parent_state_root=cid_of(raw))
    tipset = Tipset.of([replace(header, cid=cid_of(encode_header(header)))])
    heads = Heads()
    heads.head = Head(1, None, tipset)
    return heads


def names(node: SimulatedNode) -> dict[str, Any]:
    """What the calls name."""
    maker = node.chain._maker
    return {
        "miner": Address(maker.miner_id(0)).text("t"),
        "account": Address(maker.account_id(0)).text("t"),
        "account_key": Address(maker.account_key(0)[1]).text("t"),
        "code": {"/": str(maker.codes["account"])},
        "eth": "0x" + maker.account_key(2)[1][2:].hex(),
        "eth_block": hex(node.head.height - 1),
        "old": {"/": str(node.chain.genesis.blocks[0].cid)},
    }


def filled(value: Any, known: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [filled(item, known) for item in value]
    if isinstance(value, str) and value[:1] == "{":
        return known[value[1:-1]]
    return value


def argument(method: Method, param: Param, known: dict[str, Any]) -> Any:
    """A value of a parameter's type, for which the method gets as far as the state."""
    by_type = {
        "types.TipSetKey": [],
        "address.Address": known["account" if method.name.endswith("AccountKey") else "miner"],
        "[]uint8": "",
        "bool": False,
        "cid.Cid": known["old"],
        "miner.SectorPreCommitInfo": {"SealProof": 8, "Expiration": 1000, "DealIDs": [1]},
        "*bitfield.BitField": None,
    }
    return by_type.get(param.go, 1)


def by_tipset() -> list[str]:
    """Every method that reads states at a tipset."""
    register_all()
    return sorted(
        method.field
        for method in REGISTRY
        if method.versions & V1
        and method.name.startswith(("Filecoin.State", "Filecoin.Msig", "Filecoin.ChainTipSetWeight"))
        and method.answered == "decoded"
        and any(param.go == "types.TipSetKey" for param in method.params)
        and "Randomness" not in method.name
        and method.field not in PLAIN | {name for name, _ in CALLS} | {"StateListMessages"}
    )


async def test_no_state_of_unknown_actors_is_guessed(node: SimulatedNode) -> None:
    on_chain, at_head = dispatcher_at(node, 0), dispatcher_at(node, 0, await with_all_actors(node))
    known = names(node)
    asked = by_tipset()
    calls = [(name, filled(params, known)) for name, params in CALLS]
    for name in asked:
        method = REGISTRY.names(V1)[f"Filecoin.{name}"]
        calls.append((name, [argument(method, param, known) for param in method.params]))
    wrong = []
    for name, params in calls:
        answer = await ask(on_chain if known["eth_block"] in params else at_head, name, *params)
        if NOT_HELD not in answer.get("error", {}).get("message", ""):
            wrong.append(f"{name}{params}: {answer}")
    assert not wrong, "\n".join(wrong)
    assert len(asked) > 45


async def test_what_needs_no_state_of_an_actor_is_answered(node: SimulatedNode) -> None:
    known, dispatchers = names(node), (dispatcher_at(node, 0), dispatcher_at(node, 100))
    for name, params in (
        ("ChainHead", []),
        ("StateGetActor", ["{miner}", []]),
        ("StateListActors", [[]]),
        ("ChainGetMessagesInTipset", [[]]),
        ("EthGetBlockByNumber", ["{eth_block}", False]),
    ):
        here, there = [await ask(dispatcher, name, *filled(params, known)) for dispatcher in dispatchers]
        assert "error" not in here, here
        assert here == there


async def test_states_before_the_unknown_upgrade_are_decoded(node: SimulatedNode) -> None:
    dispatcher = dispatcher_at(node, 3)
    known = names(node)
    old = [{"/": str(cid)} for cid in (await node.index.at_height(node.head, 2)).key.cids]
    before = await ask(dispatcher, "StateReadState", known["miner"], old)
    assert before["result"]["State"]["Info"]
    assert (await ask(dispatcher, "StateNetworkVersion", old))["result"] == NETWORK_VERSION
    assert (await ask(dispatcher, "StateNetworkVersion", []))["result"] == LAST_NETWORK_VERSION + 1
    after = await ask(dispatcher, "StateReadState", known["miner"], [])
    assert NOT_HELD in after["error"]["message"]
