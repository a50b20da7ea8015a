"""Traces of calls that nest as deep as the virtual machine allows, and of as many entries as are built."""

from __future__ import annotations

from typing import Any

import orjson

from blockstore.cid import Cid
from chain.address import from_id
from chain.checkpoint import no_checkpoint
from rpc.execution.call_frames import in_levels
from rpc.executor import pack_trace, trace_parts
from rpc.json_wire import encoder
from rpc.lookup.eth.parity_traces import traces_of
from rpc.lookup.execution_trace import call_tree, trace_json

#: the machine's limit, and the message itself
DEPTH = 1025
#: entries that are read between two checkpoints, at most
STEP = 500
ENCODE = encoder("f")


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


class Steps:
    """A checkpoint that counts how often it is called."""

    def __init__(self) -> None:
        self.taken = 0

    async def __call__(self) -> None:
        self.taken += 1


async def text_of(events: list[Any], steps: Any = no_checkpoint) -> bytes:
    return ENCODE(await trace_json(pack_trace(events), ENCODE, steps))


async def test_a_deep_trace_is_built_and_encoded() -> None:
    text = await text_of(nested(DEPTH))
    assert text.count(b'"ExitCode":') == DEPTH
    # each level encloses the next one: limits fall, exit codes rise
    positions = [text.index(b'"GasLimit":%d,' % (1000 - level)) for level in range(DEPTH)]
    assert positions == sorted(positions)
    assert text.count(b"{") == text.count(b"}")


async def test_what_surrounds_a_call_stays_in_order() -> None:
    trace = orjson.loads(await text_of(nested(3)))
    for level in range(3):
        charges = [(one["Name"], one["tg"]) for one in trace["GasCharges"]]
        # what the callee costs at its end is the caller's
        after = [("after", level + 1)] if level < 2 else []
        first = [("OnChainMessage", 1), ("OnMethodInvocation", 0), *after, ("after", 0)]
        assert charges == (first if level == 0 else [("OnMethodInvocation", level), *after])
        assert trace["MsgRct"]["ExitCode"] == level
        assert list(trace) == ["Msg", "MsgRct", "InvokedActor", "GasCharges", "Subcalls"]
        trace = (trace["Subcalls"] or [None])[0]
    assert trace is None


async def test_calls_beside_each_other_and_all_that_they_note() -> None:
    link = bytes.fromhex("01711220") + bytes(32)
    begin = ("call", 1, bytes(from_id(2)), 0, None, "7", 5, True)
    events = [
        ("gas", "first", 1, 1, 0), begin,
        begin, ("log", "one"), ("log", "<two>"), ("return", 0, (81, b"\x01")),
        begin, ("ipld", "Get", link, 9), ("error", 5, "no"),
        ("return", 33, None), ("gas", "last", 3, 2, 1),
    ]  # fmt: skip
    trace = orjson.loads(await text_of(events))
    one, other = trace["Subcalls"]
    assert [charge["Name"] for charge in trace["GasCharges"]] == ["first", "last"]
    assert trace["MsgRct"] == {"ExitCode": 33, "Return": None, "ReturnCodec": 0}
    assert one["Logs"] == ["one", "<two>"]
    assert one["MsgRct"] == {"ExitCode": 0, "Return": "AQ==", "ReturnCodec": 81}
    assert other["IpldOps"] == [{"Op": "Get", "Cid": {"/": str(Cid(link))}, "Size": 9}]
    assert other["MsgRct"]["ExitCode"] == 6
    assert [list(call) for call in (one, other)] == [
        ["Msg", "MsgRct", "GasCharges", "Subcalls", "Logs"],
        ["Msg", "MsgRct", "GasCharges", "Subcalls", "IpldOps"],
    ]
    tree = await call_tree(pack_trace(events), no_checkpoint)
    assert tree is not None
    assert [tree["GasUsed"], *(call["GasUsed"] for call in tree["Subcalls"])] == [4, 0, 0]


async def test_a_message_that_called_nothing() -> None:
    trace = orjson.loads(await text_of([("gas", "OnChainMessage", 1, 1, 0)]))
    assert trace["Msg"]["From"] == "<empty>"
    assert [charge["Name"] for charge in trace["GasCharges"]] == ["OnChainMessage"]
    assert orjson.loads(await text_of([]))["GasCharges"] is None
    assert await call_tree((), no_checkpoint) is None


async def test_others_go_on_while_a_long_trace_is_built() -> None:
    begin = ("call", 1, bytes(from_id(2)), 0, None, "7", 5, True)
    charges = [begin, *[("gas", "OnSomething", 1, 1, 0)] * 50_000, ("return", 0, None)]
    calls = [begin, *[begin, ("return", 0, None)] * 25_000, ("return", 0, None)]
    for events in (charges, calls):
        assert max(map(len, trace_parts(pack_trace(events)))) <= STEP
        for read in (trace_json(pack_trace(events), ENCODE, steps := Steps()), call_tree(pack_trace(events), steps)):
            steps.taken = 0
            await read
            assert steps.taken >= len(events) / STEP
    steps = Steps()
    assert not await traces_of(b"\x01" * 20, pack_trace(calls), steps)
    assert steps.taken >= len(calls) / STEP


async def test_ethereum_s_traces_of_deep_calls() -> None:
    # calls that end with 6 or 10 are not shown
    events = [("return", 33, None) if event[0] == "return" else event for event in nested(DEPTH)]
    traces = await traces_of(b"\x01" * 20, pack_trace(events), no_checkpoint)
    assert len(traces) == DEPTH
    assert [one["subtraces"] for one in traces] == [1] * (DEPTH - 1) + [0]
    assert traces[3]["traceAddress"] == [0, 0, 0]


def test_levels_do_not_change_the_text_of_frames() -> None:
    for depth in (1, 49, 50, 51, 99, 101, 120):
        whole = ENCODE(frames(depth))
        assert ENCODE(in_levels(frames(depth), ENCODE)) == whole
    assert ENCODE(in_levels(frames(DEPTH), ENCODE)).count(b'"level"') == DEPTH


def frames(depth: int) -> dict[str, Any]:
    """A frame with frames below it."""
    top: dict[str, Any] = {"level": depth}
    for level in reversed(range(1, depth)):
        top = {"level": level, "calls": [top]}
    return top
