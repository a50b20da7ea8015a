"""Where a transaction was executed is kept: an answer is still that of the request's head, through reorgs."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from devnode.sim_chain import SimSettings
from devnode.simulate import SimulatedNode
from rpc.lookup.eth.paid_fees import Paid
from rpc.methods import register_all
from rpc.server.dispatch import Dispatcher
from tests.support.made_chain import ask

METHODS = ("EthGetTransactionReceipt", "EthGetTransactionByHash")


@pytest.fixture
async def node() -> AsyncIterator[SimulatedNode]:
    register_all()
    made = SimulatedNode(SimSettings(accounts=40, miners=3, miner_updates=1, messages=6))
    await made.prepare()
    await made.advance(8)
    yield made
    await made.stop()


async def _answers(dispatcher: Dispatcher, hashes: list[str]) -> list[object]:
    return [(await ask(dispatcher, method, one)).get("result") for method in METHODS for one in hashes]


async def test_kept_places_follow_the_head(node: SimulatedNode) -> None:
    keeping = Dispatcher(node._services)
    hashes: dict[str, None] = {}
    seen_gone = False
    for step in range(14):
        change = await (node.reorg(2) if step % 3 == 2 else node.extend())
        for tipset in change.applies:
            block = await ask(keeping, "EthGetBlockByNumber", hex(tipset.height - 1), False)
            hashes.update(dict.fromkeys(block["result"]["transactions"]))
        asked = list(hashes)
        kept = await _answers(keeping, asked)
        # what has been kept so far is forgotten, and everything is looked for anew
        known = dict(node._services.caches)
        node._services.caches.clear()
        assert kept == await _answers(Dispatcher(node._services), asked), f"step {step}"
        node._services.caches.update(known)
        seen_gone = seen_gone or None in kept
    assert seen_gone, "no transaction left the chain: nothing was tried"


def test_rewards_are_those_of_a_walk_over_the_messages() -> None:
    dice = random.Random(7)
    for _ in range(300):
        paid = [(dice.randrange(5), dice.choice((0, 0, 1, 7, 100))) for _ in range(dice.randrange(6))]
        percentiles = sorted(dice.choice((0.0, 12.5, 50.0, 99.9, 100.0)) for _ in range(3))
        assert Paid.of(paid).rewards(percentiles) == _walked(paid, percentiles), (paid, percentiles)


def _walked(paid: list[tuple[int, int]], percentiles: list[float]) -> list[int]:
    """As Lotus goes about it."""
    if not paid:
        return [100_000] * len(percentiles)
    ordered = sorted(paid, key=lambda one: one[0])
    total = sum(gas for _, gas in ordered)
    found = []
    at = used = 0
    for percentile in percentiles:
        while used < int(total * percentile / 100) and at < len(ordered) - 1:
            used += ordered[at][1]
            at += 1
        found.append(ordered[at][0])
    return found
