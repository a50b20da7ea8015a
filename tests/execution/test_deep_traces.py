"""Traces of calls that nest as deep as the virtual machine allows."""

from __future__ import annotations

from typing import Any

import orjson

from chain.address import from_id
from rpc.json_wire import encoder
from rpc.lookup.eth.parity_traces import traces_of
from rpc.lookup.execution_trace import in_levels, lotus_trace

#: the machine's limit, and the message itself
DEPTH = 1025


def nested(depth: int) -> list[Any]:
    """The machine's events of calls of `f01234` to itself, a charge on each level before and after."""
    code = bytes.fromhex("01711220") + bytes(32)
    events: list[Any] = [("gas", "OnChainMessage", 1, 1, 0)]
    for level in range(depth):
        events.append(("call", 1234, bytes(from_id(1234)), 3844450837, (81, b"\x40"), "0", 1000 - level, False))
        events.append(("actor", 1234, code, code, level, "0", None))
        events.append(("gas", "OnMethodInvocation", level, level, 0))
    for level in reversed(range(depth)):
        events.append(("return", level, None))
        events.append(("gas", "after", level, 0, 0))
    return events


def test_a_deep_trace_is_built_and_encoded() -> None:
    encode = encoder("f")
    text = encode(in_levels(lotus_trace(nested(DEPTH)), encode))
    assert text.count(b'"ExitCode":') == DEPTH
    # each level encloses the next one: limits fall, exit codes rise
    positions = [text.index(b'"GasLimit":%d,' % (1000 - level)) for level in range(DEPTH)]
    assert positions == sorted(positions)
    assert text.count(b"{") == text.count(b"}")


def test_levels_do_not_change_the_text() -> None:
    encode = encoder("f")
    for depth in (1, 49, 50, 51, 99, 101, 120):
        whole = encode(lotus_trace(nested(depth)))
        assert encode(in_levels(lotus_trace(nested(depth)), encode)) == whole
        top = orjson.loads(whole)
        assert [one["Name"] for one in top["GasCharges"]][:2] == ["OnChainMessage", "OnMethodInvocation"]
        assert top["GasCharges"][-1]["tg"] == 0


def test_what_surrounds_a_call_stays_in_order() -> None:
    trace = lotus_trace(nested(3))
    for level in range(3):
        charges = [(one["Name"], one["tg"]) for one in trace["GasCharges"]]
        # what the callee costs at its end is the caller's
        after = [("after", level + 1)] if level < 2 else []
        first = [("OnChainMessage", 1), ("OnMethodInvocation", 0), *after, ("after", 0)]
        assert charges == (first if level == 0 else [("OnMethodInvocation", level), *after])
        assert trace["MsgRct"]["ExitCode"] == level
        trace = (trace["Subcalls"] or [None])[0]


def test_ethereum_s_traces_of_deep_calls() -> None:
    # calls that end with 6 or 10 are not shown
    events = [("return", 33, None) if event[0] == "return" else event for event in nested(DEPTH)]
    traces = traces_of(b"\x01" * 20, lotus_trace(events))
    assert len(traces) == DEPTH
    assert [one["subtraces"] for one in traces] == [1] * (DEPTH - 1) + [0]
    assert traces[3]["traceAddress"] == [0, 0, 0]
