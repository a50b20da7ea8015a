"""Over actors of an unknown version no account is called absent: no zero balance, no empty code, no nonce of 0."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chain.address import Address
from chain.eth.types import masked_id
from devnode.simulate import SimulatedNode
from rpc.methods import register_all
from tests.rpc.methods.test_unknown_actors import NOT_HELD, SMALL, dispatcher_at
from tests.support.made_chain import ask

ABSENT = "0x" + masked_id(999_999).hex()
EMPTY = {
    "EthGetBalance": "0x0",
    "EthGetCode": "0x",
    "EthGetTransactionCount": "0x0",
    "EthGetStorageAt": "0x" + "00" * 32,
}


@pytest.fixture
async def node() -> AsyncIterator[SimulatedNode]:
    register_all()
    made = SimulatedNode(SMALL)
    await made.prepare()
    for _ in range(4):
        await made.extend()
    yield made
    await made.stop()


@pytest.mark.parametrize("method", EMPTY)
async def test_an_absent_actor(node: SimulatedNode, method: str) -> None:
    block = hex(node.head.height - 1)
    params = [ABSENT, "0x0", block] if method == "EthGetStorageAt" else [ABSENT, block]
    assert (await ask(dispatcher_at(node, 100), method, *params))["result"] == EMPTY[method]
    answer = await ask(dispatcher_at(node, 0), method, *params)
    assert NOT_HELD in answer["error"]["message"]


async def test_a_balance_needs_no_state_of_an_actor(node: SimulatedNode) -> None:
    known = "0x" + masked_id(Address(node.chain._maker.account_id(2)).id).hex()
    params = [known, hex(node.head.height - 1)]
    here, there = [await ask(dispatcher_at(node, height), "EthGetBalance", *params) for height in (0, 100)]
    assert here == there
    assert int(here["result"], 16) > 0
