"""Walks over whole trees let other requests go on, end with the request's time, and hold little memory."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from chain.address import from_id
from devnode.sim_chain import SimSettings
from devnode.simulate import SimulatedNode
from rpc.context import Context
from rpc.json_wire import JsonText, encoder
from rpc.lookup.long_answers import list_of, object_of
from rpc.pacer import LoopPacer
from rpc.registry import REGISTRY, V1, Cost
from rpc.server.dispatch import Dispatcher
from rpc.server.limits import ServerSettings

ACTORS = 1500
SIM = SimSettings(accounts=ACTORS, miners=40, miner_updates=2, messages=4, deals=400)


@pytest.fixture(scope="module")
def node() -> SimulatedNode:
    async def make() -> SimulatedNode:
        made = SimulatedNode(SIM)
        await made.prepare()
        for _ in range(12):
            await made.extend()
        return made

    return asyncio.run(make())


def body(name: str, *params: Any) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": f"Filecoin.{name}", "params": params})


async def turns(node: SimulatedNode, name: str, *params: Any) -> tuple[int, dict[str, Any]]:
    """How many turns of the loop others got during a call, where each checkpoint gives one away; the answer."""
    services = replace(node._services, pacer=LoopPacer(slice_seconds=0))
    dispatcher = Dispatcher(services)
    count = 0

    async def other() -> None:
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    _, answer = await dispatcher.http(1, body(name, *params))
    beside.cancel()
    found: dict[str, Any] = orjson.loads(answer)
    return count, found


def root(node: SimulatedNode, epochs_back: int) -> dict[str, str]:
    tipset = node.head if not epochs_back else node.chain._canonical[0]
    return {"/": str(tipset.parent_state_root)}


@pytest.mark.parametrize(
    ("name", "params", "least"),
    [
        ("StateListActors", [[]], ACTORS // 64 + 20),
        ("StateCirculatingSupply", [[]], ACTORS),
        ("StateListMiners", [[]], 3),
        ("StateMarketDeals", [[]], 400 // 64 + 20),
        ("StateMarketParticipants", [[]], 5),
        ("StateGetAllClaims", [[]], 300 // 64 + 20),
        ("StateLookupRobustAddress", ["t0999999", []], 10),
        ("StateListMessages", [{"To": "t01000"}, [], 0], 12),
        ("StateMinerActiveSectors", ["t01000", []], 5),
        ("StateMinerSectorCount", ["t01000", []], 4),
    ],
)
async def test_a_walk_gives_turns_of_the_loop_away(
    node: SimulatedNode, name: str, params: list[Any], least: int
) -> None:
    count, _ = await turns(node, name, *params)
    assert count >= least


async def test_a_comparison_of_states_gives_turns_of_the_loop_away(node: SimulatedNode) -> None:
    count, answer = await turns(node, "StateChangedActors", root(node, 1), root(node, 0))
    # at each read, and behind each 64 entries
    assert count >= 10
    assert len(answer["result"]) > 64


@pytest.mark.parametrize("name", ["StateListActors", "StateCirculatingSupply"])
async def test_a_walk_ends_when_the_time_of_its_request_is_over(node: SimulatedNode, name: str) -> None:
    services = replace(node._services, pacer=LoopPacer(slice_seconds=0))
    dispatcher = Dispatcher(services, settings=ServerSettings(request_seconds=0.0))
    _, answer = await dispatcher.http(1, body(name, []))
    assert orjson.loads(answer)["error"]["code"] == -32005


async def test_freeing_what_a_long_answer_was_made_of_is_a_turn_of_its_own(node: SimulatedNode) -> None:
    dispatcher = Dispatcher(replace(node._services, pacer=LoopPacer(slice_seconds=0)))
    count = last = 0

    async def other() -> None:
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    encode = dispatcher.encode

    def noted(value: Any) -> bytes:
        nonlocal last
        last = count
        return encode(value)

    dispatcher.encode = noted
    beside = asyncio.create_task(other())
    _, answer = await dispatcher.answer_http(1, body("StateMarketDeals", []))
    beside.cancel()
    assert isinstance(answer, JsonText)
    assert len(orjson.loads(bytes(answer))["result"]) == 400
    # two turns each: behind the last piece, the closing bracket, and what it was made of
    assert count - last >= 6


async def test_walks_are_declared_as_what_they_cost() -> None:
    costs = {method.field: method.cost for method in REGISTRY.names(V1).values()}
    assert {costs[name] for name in ("StateListActors", "StateListMiners", "StateMarketDeals")} == {Cost.HEAVY}
    assert {costs[name] for name in ("StateCirculatingSupply", "StateGetAllClaims", "ChainStatObj")} == {Cost.HEAVY}
    scans = ("StateListMessages", "StateMarketParticipants", "StateGetClaims", "StateMinerSectors", "ChainGetPath")
    assert {costs[name] for name in scans} == {Cost.SCAN}
    assert costs["StateWaitMsg"] is Cost.WAIT


async def test_a_long_list_takes_little_more_than_its_text(node: SimulatedNode) -> None:
    ctx = Context(node._services)
    gc.collect()
    tracemalloc.start()
    found = await list_of(ctx, addresses(100_000), from_id)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    text = encoder("t")(found)
    assert orjson.loads(text) == [f"t0{number}" for number in range(100_000)]
    assert peak < 2 * len(text)


async def addresses(count: int) -> AsyncIterator[list[int]]:
    for number in range(0, count, 10):
        yield list(range(number, number + 10))


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 128, 1000])
async def test_a_list_reads_as_it_was_walked(node: SimulatedNode, count: int) -> None:
    async def values() -> AsyncIterator[list[int]]:
        for first in range(0, count, 7):
            yield list(range(first, min(count, first + 7)))

    found = await list_of(Context(node._services), values(), lambda number: {"at": number, "text": "<&>"})
    assert orjson.loads(encoder("t")(found)) == [{"at": n, "text": "<&>"} for n in range(count)]


async def test_an_object_reads_as_it_was_walked(node: SimulatedNode) -> None:
    async def entries() -> AsyncIterator[list[int]]:
        for first in range(0, 300, 100):
            yield list(range(first, first + 100))

    def show(number: int) -> tuple[str, Any]:
        return f"k<{number}", {"address": from_id(number)}

    found = orjson.loads(encoder("t")(await object_of(Context(node._services), entries(), show)))
    assert found == {f"k<{n}": {"address": f"t0{n}"} for n in range(300)}
