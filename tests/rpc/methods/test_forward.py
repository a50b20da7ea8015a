"""What goes to a full node: pinned to the request's head, and a clear error where there is none."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

import rpc.methods.node.forward as forwarding
from blockstore.memory import MemoryStore
from devnode.node_heads import NodeHeads
from devnode.replay import start_replay
from follower.node_route import NodeRoute
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

    async def call(self, method: str, params: list[Any]) -> Any:
        self.calls.append((method, params))
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
    assert (await _ask(dispatcher, "Filecoin.StateCall", [{"To": "f01"}, []]))["result"] == "done"
    assert (await _ask(dispatcher, "Filecoin.StateCall", [{"To": "f01"}, None]))["result"] == "done"
    assert (await _ask(dispatcher, "Filecoin.StateReplay", [key, {"/": "x"}]))["result"] == "done"
    assert (await _ask(dispatcher, "Filecoin.MpoolGetNonce", ["f01"]))["result"] == "done"
    assert node.calls == [
        ("Filecoin.StateCall", [{"To": "f01"}, key]),
        ("Filecoin.StateCall", [{"To": "f01"}, key]),
        ("Filecoin.StateReplay", [key, {"/": "x"}]),
        ("Filecoin.MpoolGetNonce", ["f01"]),
    ]


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
    dispatcher, _ = await _dispatcher(NodeRoute([client]))
    refused = await _ask(dispatcher, "Filecoin.MpoolGetNonce", ["f01"])
    assert refused["error"]["code"] == NEEDS_NODE  # the played node has no node behind it either
    await node.stop()
    gone = await _ask(dispatcher, "Filecoin.MpoolGetNonce", ["f01"])
    assert gone["error"]["code"] == UNAVAILABLE
    await client.close()
