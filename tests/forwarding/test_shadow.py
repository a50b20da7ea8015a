"""Answers that are compared with a full node's."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import orjson
import pytest

from chain.tipset import Tipset
from devnode.replay import start_replay
from follower.forwarding.node import ForwardNode
from follower.forwarding.route import ForwardRoute
from follower.forwarding.shadow import Shadow, first_difference
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from rpc.server.dispatch import Dispatcher
from tests.support.recorded import recorded

RECORDING = recorded("devnet/chain.car.zst").parent
ADDRESS = "0xff00000000000000000000000000000000000001"


class Lying:
    """A node whose answers are changed by `change`."""

    def __init__(self, route: ForwardRoute) -> None:
        self._route = route
        self.asked: list[tuple[str, list[Any]]] = []
        self.lies = False

    async def call(self, method: str, params: list[Any], at: Tipset | None = None) -> Any:
        self.asked.append((method, params))
        found = copy.deepcopy(await self._route.call(method, params, at))
        if self.lies:
            found["Nonce"] += 1
        return found


async def test_equal_answers_are_counted_and_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    # the node goes on while answers are compared: they are compared at the tipset that they were given for
    node = await start_replay(RECORDING, at_end=True)
    local = await start_replay(RECORDING)
    local.advance(len(local.chain.changes) - 3)
    route = ForwardRoute([ForwardNode.of(NodeClient(parse_node_info(node.base)[0], timeout=10))])
    lying = Lying(route)
    shadow = Shadow(lying, 1.0)
    dispatcher = Dispatcher(replace(local._services))
    dispatcher.shadow = shadow

    async def ask(method: str, *params: Any) -> Any:
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        answer = orjson.loads((await dispatcher.http(1, body))[1])
        await shadow.settle()
        return answer["result"]

    block = {"/": str(local.head.key.cids[0])}
    key = [{"/": str(cid)} for cid in local.head.key.cids]
    compared: list[tuple[str, list[Any]]] = [
        ("Filecoin.StateGetActor", ["f01", []]),
        ("Filecoin.StateMinerPower", ["f01000", None]),
        ("Filecoin.StateNetworkVersion", [key]),
        ("Filecoin.ChainGetTipSetByHeight", [local.head.height - 4, []]),
        ("Filecoin.ChainGetBlock", [block]),
        ("eth_getBalance", [ADDRESS, "latest"]),
        ("eth_getTransactionCount", [ADDRESS, hex(local.head.height - 4)]),
    ]
    for method, params in compared:
        await ask(method, *params)
    assert (shadow.compared, shadow.different, shadow.unanswered) == (len(compared), 0, 0)
    # the empty key became the head's, `latest` the hash of a block
    assert lying.asked[0] == ("Filecoin.StateGetActor", ["f01", key])
    assert list(lying.asked[-2][1][1]) == ["blockHash"]
    # what moves by itself, and what the process knows by itself, is not compared
    for method in ("Filecoin.ChainHead", "Filecoin.Version", "eth_chainId", "eth_blockNumber"):
        await ask(method)
    assert shadow.compared == len(compared)
    lying.lies = True
    nonce = (await ask("Filecoin.StateGetActor", "f02", []))["Nonce"]
    assert shadow.different == 1
    assert f"differs from a full node's answer: .Nonce: {nonce}, theirs {nonce + 1}" in caplog.text
    await node.stop()
    await ask("Filecoin.StateGetActor", "f03", [])
    assert shadow.unanswered == 1
    await shadow.close()
    await route.close()
    await local.stop()


@pytest.mark.long
async def test_the_share_is_kept() -> None:
    local = await start_replay(RECORDING, at_end=True)

    class Counting:
        asked = 0

        async def call(self, method: str, params: list[Any], at: Tipset | None = None) -> Any:
            self.asked += 1
            return None

    counting = Counting()
    dispatcher = Dispatcher(replace(local._services))
    shadow = dispatcher.shadow = Shadow(counting, 0.1, random.Random(18))
    count = local.head.height
    for height in range(count):
        # each another question: kept answers are not compared
        question = {"jsonrpc": "2.0", "id": 1, "method": "Filecoin.ChainGetTipSetByHeight", "params": [height, []]}
        await dispatcher.http(1, orjson.dumps(question))
        await shadow.settle()
    assert count > 100
    assert 0.03 * count < counting.asked < 0.2 * count
    assert shadow.different == counting.asked
    await local.stop()


def test_where_values_differ() -> None:
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == ".a[1].b: 2, theirs 3"
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == ".b is theirs alone"
    assert first_difference([1], [1, 2]) == " has 1 items, theirs 2"
