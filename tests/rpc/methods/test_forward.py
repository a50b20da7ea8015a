"""What goes to a full node: pinned to the request's head, and a clear error where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

import rpc.methods.node.forward as forwarding
from blockstore.memory import MemoryStore
from chain.tipset import Tipset
from devnode.node_heads import NodeHeads
from devnode.replay import start_replay
from follower.forwarding.node import ForwardNode
from follower.forwarding.route import ForwardRoute, Times
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from rpc.errors import NEEDS_NODE, UNAVAILABLE
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from rpc.services import Services
from tests.chain.test_chain_index import Built
from tests.support.recorded import recorded


class Asked:
    """A node that notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        self.at: list[Any] = []

    async def call(self, method: str, params: list[Any], at: Any = None) -> Any:
        self.calls.append((method, params))
        self.at.append(at)
        return "done"


async def _dispatcher(node: Any) -> tuple[Dispatcher, Services]:
    from chain.network import NetworkRecord

    built = Built()
    top = await built.add(await built.add(None, 0), 1)
    network = NetworkRecord("made", top.key.cids[0], "f", 314, 30, ((-1, 29),))
    services = Services(
        store=MemoryStore(),
        index=built.index,
        objects=built.index._objects,  # type: ignore[arg-type]
        network=network,
        head_source=NodeHeads(top),
        node=node,
    )
    return Dispatcher(services), services


async def _ask(dispatcher: Dispatcher, name: str, params: list[Any]) -> dict[str, Any]:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": name, "params": params})
    answer: dict[str, Any] = orjson.loads((await dispatcher.http(1, body))[1])
    return answer


async def test_an_empty_key_becomes_the_pinned_heads() -> None:
    register_all()
    node = Asked()
    dispatcher, services = await _dispatcher(node)
    key = [{"/": str(cid)} for cid in (await services.head_source.current()).tipset.key.cids]
    assert (await _ask(dispatcher, "Filecoin.MpoolSelect", [[], 0.5]))["result"] == "done"
    assert (await _ask(dispatcher, "Filecoin.MpoolSelect", [None, 0.5]))["result"] == "done"
    assert (await _ask(dispatcher, "Filecoin.MpoolGetNonce", ["f01"]))["result"] == "done"
    assert node.calls == [
        ("Filecoin.MpoolSelect", [key, 0.5]),
        ("Filecoin.MpoolSelect", [key, 0.5]),
        ("Filecoin.MpoolGetNonce", ["f01"]),
    ]


async def test_what_tipset_a_node_must_hold() -> None:
    register_all()
    node = Asked()
    dispatcher, services = await _dispatcher(node)
    head = (await services.head_source.current()).tipset
    parent = await services.index.parent(head)
    of_parent = [{"/": str(cid)} for cid in parent.key.cids]
    of_nobody = [{"/": "bafy2bzacecnamqgqmifpluoeldx7zzglxcljo6oja4vrmtj7432rphldpdmm2"}]
    for name, params, at in (
        ("Filecoin.MpoolGetNonce", ["f01"], head),
        ("Filecoin.MpoolPending", [[]], head),
        ("Filecoin.MpoolPending", [of_parent], parent),
        # one that is not held here: any node may say what is wrong with it
        ("Filecoin.MpoolPending", [of_nobody], None),
        ("Filecoin.F3GetManifest", [], None),
        # also a node that is behind says how far it is
        ("eth_syncing", [], None),
        ("eth_sendRawTransaction", ["0x00"], None),
    ):
        assert (await _ask(dispatcher, name, params))["result"] == "done"
        found = node.at[-1]
        assert (found and found.key) == (at and at.key), name


async def test_a_message_to_execute_is_passed_on_whole() -> None:
    register_all()
    node = Asked()
    dispatcher, services = await _dispatcher(node)
    key = [{"/": str(cid)} for cid in (await services.head_source.current()).tipset.key.cids]
    given = {"To": "f01", "From": "f02", "Value": "5", "Method": 7, "Params": "AQI="}
    assert (await _ask(dispatcher, "Filecoin.StateCall", [given, []]))["result"] == "done"
    ((name, (message, at)),) = node.calls
    assert (name, at) == ("Filecoin.StateCall", key)
    assert {field: message[field] for field in given} == given


@pytest.mark.parametrize("line", forwarding.FORWARDED, ids=lambda line: line.name)
async def test_without_a_node_it_is_a_clear_error(line: forwarding.Forwarded) -> None:
    register_all()
    dispatcher, _ = await _dispatcher(None)
    answer = await _ask(dispatcher, line.name, [[], [], []])
    if line.perm == "read":
        assert answer["error"]["code"] == NEEDS_NODE
        assert line.name in answer["error"]["message"]
    else:
        assert "error" in answer


async def test_a_real_nodes_errors_are_the_clients() -> None:
    register_all()
    node = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    client = NodeClient(parse_node_info(node.base)[0], timeout=5)
    dispatcher, _ = await _dispatcher(ForwardRoute([ForwardNode.of(client)], Times(wait=0.1)))
    refused = await _ask(dispatcher, "Filecoin.MpoolGetConfig", [])
    assert refused["error"]["code"] == NEEDS_NODE  # the played node has no node behind it either
    # it holds another chain than this head's
    refused = await _ask(dispatcher, "Filecoin.MpoolGetNonce", ["f01"])
    assert refused["error"]["code"] == UNAVAILABLE
    assert "no full node behind this follower holds the tipset at epoch 1" in refused["error"]["message"]
    await node.stop()
    gone = await _ask(dispatcher, "Filecoin.MpoolGetConfig", [])
    assert gone["error"]["code"] == UNAVAILABLE
    await client.close()


async def test_a_key_goes_as_it_came_where_lotus_does_not_take_an_empty_one_for_the_head() -> None:
    node = Asked()
    dispatcher, _ = await _dispatcher(node)
    for name, params in (
        ("Filecoin.MinerGetBaseInfo", ["f01000", 5, []]),
        ("Filecoin.F3GetECPowerTable", [[]]),
    ):
        assert (await _ask(dispatcher, name, params))["result"] == "done"
        assert node.calls[-1] == (name, params)


async def test_a_replay_with_an_empty_key_is_of_the_tipset_that_includes_the_message() -> None:
    node = await start_replay(recorded("devnet/chain.car.zst").parent, at_end=True)
    asked = Asked()
    dispatcher = Dispatcher(replace(node._services, node=asked))
    height = node.head.height
    while True:
        tipset = await node.index.at_height(node.head, height)
        found = await _ask(dispatcher, "Filecoin.ChainGetMessagesInTipset", [_links(tipset)])
        if found["result"]:
            break
        height = tipset.height - 1
    message = found["result"][0]["Cid"]
    assert (await _ask(dispatcher, "Filecoin.StateReplay", [[], message]))["result"] == "done"
    assert asked.calls[-1] == ("Filecoin.StateReplay", [_links(tipset), message])
    given = [_links(node.head), message]
    assert (await _ask(dispatcher, "Filecoin.StateReplay", given))["result"] == "done"
    assert asked.calls[-1] == ("Filecoin.StateReplay", given)
    # a block is no message: Lotus says so before anything is executed
    block = _links(tipset)[0]
    refused = await _ask(dispatcher, "Filecoin.StateReplay", [None, block])
    assert refused["error"]["message"].startswith(f"searching for msg {block['/']}: ")
    assert len(asked.calls) == 2


def _links(tipset: Tipset) -> list[dict[str, str]]:
    return [{"/": str(cid)} for cid in tipset.key.cids]
