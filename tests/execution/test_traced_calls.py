"""`debug_traceCall` and `trace_call`: what they show of the calls that a real Lotus answered; what they refuse."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import islice
from typing import Any

import pytest
from web3 import Web3

from rpc.server.dispatch import Dispatcher
from rpc.server.server import serve
from tests.attack.hostile_code import CODE, numbered
from tests.execution.geth_forms import check_call_frame, check_difference, check_prestate
from tests.execution.machine import engine, executing, import_recorded
from tests.execution.recorded_calls import ask, calls

_BAD_REQUEST = 1
_TOO_MUCH = -32005


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    engine()
    return import_recorded("busy", tmp_path_factory.mktemp("calls"))


async def result_of(dispatcher: Dispatcher, method: str, *params: Any) -> Any:
    answer = await ask(dispatcher, method, params)
    assert "result" in answer, (method, params, answer)
    return answer["result"]


@pytest.mark.recorded
@pytest.mark.timeout(900)
async def test_traced_calls_return_what_eth_call_returned(store: str) -> None:
    seen: Counter[str] = Counter()
    async with executing(store) as services:
        dispatcher = Dispatcher(services)
        for one in islice(calls("busy/vm.jsonl.zst", r"^eth_call "), 0, None, 6):
            call, block = one["params"]
            if "error" in one and one["error"]["code"] != 3:
                answer = await ask(dispatcher, "debug_traceCall", [call, block, {"tracer": "callTracer"}])
                assert answer["error"] == one["error"]
                continue
            frame = await result_of(dispatcher, "debug_traceCall", call, block, {"tracer": "callTracer"})
            check_call_frame(frame)
            traced = await result_of(dispatcher, "trace_call", call, ["trace", "stateDiff"], block)
            if not traced["trace"]:
                # more value than the sender has, or a creation that was refused: nothing was called
                assert frame["error"].startswith(("vm error: ", "actor error: "))
                assert frame["input"] == call.get("data", call.get("input", "0x"))
                seen["not called"] += 1
                continue
            top = traced["trace"][0]
            assert (top["action"]["from"], top["traceAddress"]) == (frame["from"], [])
            if "error" in one:
                seen["failed"] += 1
                assert frame["error"]
                reverted = one["error"]["data"] if frame["error"] == "execution reverted" else "0x"
                assert frame.get("output", "0x") == reverted
            elif call.get("to") is None:
                seen["created"] += 1
                assert frame["type"] == "CREATE"
                assert traced["output"] == "0x"
                assert traced["stateDiff"][frame["to"]]["nonce"] == {"+": "0x1"}
            else:
                seen["returned"] += 1
                assert frame.get("output", "0x") == traced["output"] == one["result"]
                assert "error" not in frame
            config = {"tracer": "prestateTracer", "tracerConfig": {"diffMode": True}}
            difference = await result_of(dispatcher, "debug_traceCall", call, block, config)
            check_difference(difference)
            check_prestate(await result_of(dispatcher, "debug_traceCall", call, block, {"tracer": "prestateTracer"}))
            assert_same_changes(traced["stateDiff"], difference)
            seen["slots"] += sum(len(account["storage"]) for account in traced["stateDiff"].values())
    print(dict(seen))
    assert min(seen["failed"], seen["created"], seen["returned"], seen["slots"]) >= 5


def assert_same_changes(parity: dict[str, Any], geth: dict[str, Any]) -> None:
    """The two forms say the same of every account."""
    assert parity.keys() == geth["pre"].keys() | geth["post"].keys()
    for address, shown in parity.items():
        pre, post = geth["pre"].get(address, {}), geth["post"].get(address, {})
        if isinstance(shown["balance"], dict) and "*" in shown["balance"]:
            assert shown["balance"]["*"] == {"from": pre["balance"], "to": post.get("balance", "0x0")}
        elif shown["balance"] == "=":
            assert "balance" not in post
        for slot, change in shown["storage"].items():
            zero = "0x" + "00" * 32
            old, new = pre.get("storage", {}).get(slot, zero), post.get("storage", {}).get(slot, zero)
            assert change == ({"*": {"from": old, "to": new}} if pre else {"+": new})


@pytest.mark.recorded
@pytest.mark.timeout(900)
async def test_what_cannot_be_had_is_said(store: str) -> None:
    transaction = next(one["params"][0] for one in calls("busy/vm.jsonl.zst", r"^trace_transaction "))
    call = {"to": None, "data": "0x00"}
    cases: list[tuple[str, list[Any], str]] = [
        ("debug_traceTransaction", [transaction], "does not show single instructions"),
        ("debug_traceTransaction", [transaction, {"disableStack": True}], "callTracer, flatCallTracer"),
        ("debug_traceTransaction", [transaction, {"tracer": "{data: [], fault: function(log) {}}"}], "cannot be had"),
        ("debug_traceTransaction", [transaction, {"tracer": "callTracer", "tracerConfig": 7}], "is an object"),
        (
            "debug_traceTransaction",
            [transaction, {"tracer": "callTracer", "tracerConfig": {"withLog": "yes"}}],
            "withLog is true or false",
        ),
        ("debug_traceTransaction", ["0x" + "11" * 32, {"tracer": "callTracer"}], "transaction not found"),
        ("debug_traceTransaction", ["0x11", {"tracer": "callTracer"}], "decoding params"),
        ("debug_traceTransaction", [], "decoding params: expected 1 or 2"),
        ("debug_traceCall", [call, "latest"], "does not show single instructions"),
        ("debug_traceCall", [call, "earliest", {"tracer": "callTracer"}], "not supported"),
        (
            "debug_traceCall",
            [call, "latest", {"tracer": "callTracer", "stateOverrides": {"0x" + "11" * 20: {"nonce": "0x1"}}}],
            "stateOverrides cannot be had",
        ),
        ("trace_call", [call, ["vmTrace"]], "vmTrace cannot be had"),
        ("trace_call", [call, ["replay"]], "unknown kind"),
        ("trace_call", [call, []], "list of kinds"),
    ]
    async with executing(store, trace_entries=40_000) as services:
        dispatcher = Dispatcher(services)
        for method, params, text in cases:
            error = (await ask(dispatcher, method, params))["error"]
            assert (error["code"], text in error["message"]) == (_BAD_REQUEST, True), error
        assert await result_of(dispatcher, "debug_traceTransaction", transaction, {"tracer": "noopTracer"}) == {}
        # a trace too long, and more gas than is allowed
        storm = {"to": None, "data": "0x" + CODE["20,000 empty events, and an end"]}
        error = (await ask(dispatcher, "debug_traceCall", [storm, "latest", {"tracer": "callTracer"}]))["error"]
        assert (error["code"], "entries" in error["message"]) == (_TOO_MUCH, True), error
        services.extra["execution_gas_cap"] = 100_000_000
        loop = {"to": None, "data": "0x" + numbered(CODE["empty loop"], 3)}
        error = (await ask(dispatcher, "trace_call", [loop, ["trace"]]))["error"]
        assert (error["code"], "more than 100000000 gas" in error["message"]) == (_TOO_MUCH, True), error
        del services.extra["execution_gas_cap"]
        # without the machine and without a node
        services.executor = None
        for method, params in (
            ("debug_traceCall", [call, "latest", {"tracer": "callTracer"}]),
            ("trace_call", [call, ["trace"], "latest"]),
            ("debug_traceTransaction", [transaction, {"tracer": "callTracer"}]),
        ):
            error = (await ask(dispatcher, method, params))["error"]
            assert (error["code"], "make execution" in error["message"]) == (-32010, True), error


@pytest.mark.recorded
@pytest.mark.timeout(900)
async def test_web3_py_reads_them(store: str) -> None:
    recorded = next(
        one for one in calls("busy/vm.jsonl.zst", r"^trace_transaction ") if len(one.get("result") or ()) > 1
    )
    (digest,), traces = recorded["params"], recorded["result"]
    async with executing(store) as services:
        server = await serve(services, "127.0.0.1", 0)
        web3 = Web3(Web3.HTTPProvider(f"http://127.0.0.1:{server.port}/rpc/v1", request_kwargs={"timeout": 120}))

        def read() -> tuple[Any, Any, Any]:
            frame = web3.geth.debug.trace_transaction(digest, {"tracer": "callTracer"})
            before = web3.geth.debug.trace_transaction(digest, {"tracer": "prestateTracer"})
            call = {"to": Web3.to_checksum_address("0x" + "22" * 20), "value": 0, "data": "0x"}
            return frame, before, web3.tracing.trace_call(call, ["trace", "stateDiff"], "latest")  # type: ignore

        try:
            frame, before, traced = await asyncio.to_thread(read)
        finally:
            await server.stop(0)
    assert str(frame["from"]).lower() == traces[0]["action"]["from"]
    assert len(frame["calls"]) == traces[0]["subtraces"]
    assert traces[0]["action"]["from"] in {str(address).lower() for address in before}
    assert traced["trace"][0]["type"] == "call"
    assert traced["stateDiff"] is not None
