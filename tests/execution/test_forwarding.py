"""What is not executed here: it goes to the full node where there is one, else the answer says why."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from rpc.node_errors import CallFailed
from rpc.server.dispatch import Dispatcher
from tests.execution.machine import engine, executing, import_recorded
from tests.execution.recorded_calls import ask, calls

_NO_METHOD = -32601


class Node:
    """A full node that knows some methods."""

    def __init__(self, *methods: str) -> None:
        self._methods = methods
        self.asked: list[str] = []

    async def call(self, method: str, params: list[Any], at: Any = None) -> Any:
        self.asked.append(method)
        if method not in self._methods:
            raise CallFailed(_NO_METHOD, f"method '{method}' not found")
        return "of the node"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    engine()
    return import_recorded("upgrades", tmp_path_factory.mktemp("forwarding"))


@pytest.mark.recorded
@pytest.mark.timeout(600)
async def test_a_migration_is_forwarded_or_refused_with_the_reason(store: str) -> None:
    # epoch 200 brings network version 21
    call = {"to": None, "data": "0x00"}
    async with executing(store) as services:
        dispatcher = Dispatcher(services)
        error = (await ask(dispatcher, "eth_call", [call, hex(200)]))["error"]
        assert "not held: execution across the change of the state at epoch 200" in error["message"]
        error = (await ask(dispatcher, "trace_block", [hex(201)]))["error"]
        assert "execution across the change of the state at epoch 200" in error["message"]
        node = Node("Filecoin.EthCall", "Filecoin.EthTraceBlock")
        services.node = node  # type: ignore[assignment]
        assert (await ask(dispatcher, "eth_call", [call, hex(200)]))["result"] == "of the node"
        # a node without the method: the reason says more than "not found"
        params = [call, hex(200), {"tracer": "callTracer"}]
        error = (await ask(dispatcher, "debug_traceCall", params))["error"]
        assert node.asked[-1] == "debug_traceCall"
        assert "execution across the change of the state at epoch 200" in error["message"]
        # what is executed is not asked of the node
        before = len(node.asked)
        assert (await ask(dispatcher, "eth_call", [call, hex(300)]))["result"] == "0x"
        assert len(node.asked) == before


@pytest.mark.recorded
@pytest.mark.timeout(600)
async def test_the_next_nonce_says_that_no_mempool_is_here(store: str) -> None:
    (address, _) = next(
        one["params"]
        for one in calls("upgrades/rpc.jsonl.zst", r"^eth_getTransactionCount ")
        if one.get("result", "0x0") != "0x0"
    )
    async with executing(store) as services:
        dispatcher = Dispatcher(services)
        request = {"jsonrpc": "2.0", "id": 1, "method": "eth_getTransactionCount", "params": [address, "pending"]}
        ctx = dispatcher.context(1)
        answer = orjson.loads((await dispatcher.http(1, orjson.dumps(request), ctx))[1])
        assert int(answer["result"], 16) > 0
        assert "pending messages are not counted" in dict(ctx.added_headers())["X-Filecoin-Note"]
        # a process has its node from its start on: what was kept without one is not of that process
        services.node = Node("Filecoin.EthGetTransactionCount")  # type: ignore[assignment]
        answer = await ask(Dispatcher(services), "eth_getTransactionCount", [address, "pending"])
        assert answer["result"] == "of the node"
