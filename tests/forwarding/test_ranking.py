"""Which node is asked first."""

from __future__ import annotations

import pytest

from chain.tipset import Tipset
from follower.forwarding.breaker import CircuitBreaker
from follower.forwarding.method_rules import Kind
from follower.forwarding.node import ForwardNode
from follower.forwarding.route import ForwardRoute
from rpc.client.client import NodeClient
from rpc.client.node_info import parse_node_info
from tests.forwarding.nodes import fleet


def _node(port: int, height: int, slowness: float) -> ForwardNode:
    """A node that is asked nothing."""
    node = ForwardNode.of(NodeClient(parse_node_info(f"http://127.0.0.1:{port}")[0]))
    node.height, node.slowness = height, slowness
    return node


@pytest.fixture
async def head() -> Tipset:
    async with fleet(count=1, lag=(0,)) as one:
        return one.head


async def test_a_node_that_is_behind_but_holds_the_tipset_goes_before_a_slow_one(head: Tipset) -> None:
    slow, behind = _node(1, head.height + 5, 40.0), _node(2, head.height, 1.0)
    route = ForwardRoute([slow, behind])
    for node in route.nodes:
        node._remember(head.key)
    assert route.ranked(Kind.EXECUTE, head)[0] is behind
    # nobody says which tipset: the node at the head is nearer to what is asked
    assert route.ranked(Kind.QUICK)[0] is slow
    await route.close()


async def test_a_node_that_holds_the_tipset_goes_before_a_fast_one_that_may_lack_it(head: Tipset) -> None:
    fast, holder = _node(1, head.height - 5, 1.0), _node(2, head.height, 40.0)
    route = ForwardRoute([fast, holder])
    holder._remember(head.key)
    assert route.ranked(Kind.EXECUTE, head)[0] is holder
    await route.close()


async def test_a_trial_that_cannot_be_sent_does_not_keep_the_node_away() -> None:
    node = _node(1, 5, 1.0)
    node.breaker = CircuitBreaker(lambda: now)
    now = 0.0
    route = ForwardRoute([node])
    for _ in range(3):
        node.breaker.failed()
    now = 100.0
    assert node.passes
    with pytest.raises(TypeError):
        await route.call("Filecoin.MpoolPush", [object()])
    assert node.passes
    await route.close()
