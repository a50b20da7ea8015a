"""The calls of an execution as geth's `callTracer` shows them: frames within frames.

Which calls are shown, and their input, output and error, are those of the `trace_*` methods. The first frame has the
message's gas limit and gas used. Source: go-ethereum `eth/tracers/native/call.go`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import accumulate
from typing import Any, Final

import orjson

from chain.address import Address, from_id
from chain.checkpoint import Checkpoint
from chain.errors import BadObject, NotHeld
from chain.eth.transaction import EAM, cbor_bytes
from chain.eth.types import EthAddressError, eth_address, log_of
from chain.message import EventEntry, Message
from rpc import eth_json
from rpc.execution.revert import geth_reason
from rpc.executor import Applied, trace_parts
from rpc.lookup.eth.parity_traces import ShownCall, address_of, exit_error, shown_calls
from rpc.lookup.execution_trace import call_tree

_REVERTED: Final = "Reverted"
_CREATE2: Final = 3
_CONSTRUCTOR: Final = 1
_INIT: Final = from_id(1)
#: levels of frames that are encoded as one; the encoder takes 254 levels of JSON, and a frame has two
_LEVELS: Final = 50
#: frames between two checkpoints
_STEP: Final = 64
#: the charge that goes before each event: fvm 4, and 3
_EVENT_CHARGES: Final = frozenset({"OnActorEvent", "OnActorEventAccept"})


async def call_frame(
    caller: bytes,
    message: Message,
    applied: Applied,
    checkpoint: Checkpoint,
    *,
    only_top: bool = False,
    with_log: bool = False,
) -> dict[str, Any]:
    """The frame of a message. `caller`: its sender's address. Errors: BadObject, NotHeld (logs that cannot be told).

    Frames nest up to 1,025 deep: `in_levels` makes of it what can be encoded.
    """
    top = await call_tree(applied.trace, checkpoint)
    logs = _Logs(applied, top, await _marks(applied, checkpoint)) if with_log else None
    frames: dict[int, dict[str, Any]] = {}
    first: dict[str, Any] | None = None
    shown: list[ShownCall] = []
    for one in shown_calls(caller, top):
        frame = frames[id(one)] = _frame(one)
        shown.append(one)  # ids are of living objects
        if len(shown) % _STEP == 0:
            await checkpoint()
        if first is None or one.above is None:
            first = frame
            if only_top:
                break
        else:
            frames[id(one.above)].setdefault("calls", []).append(frame)
    if first is None:
        first = _uncalled(caller, message, applied)
    first |= {"gas": hex(message.gas_limit), "gasUsed": hex(applied.gas_used)}
    if logs is not None:
        logs.add_to(shown, frames)
    return first


def in_levels(frame: dict[str, Any], encode: Callable[[Any], bytes]) -> dict[str, Any]:
    """The frame with deep calls as their JSON text, as `encode` writes it: for the encoder alone. Changes `frame`."""
    places: list[tuple[list[Any], int]] = []
    waiting = [(frame, 1)]
    while waiting:
        one, level = waiting.pop()
        calls = one.get("calls") or []
        if level % _LEVELS == 0:
            places += [(calls, at) for at in range(len(calls))]
        waiting += [(call, level + 1) for call in calls]
    for calls, at in reversed(places):
        calls[at] = orjson.Fragment(encode(calls[at]))
    return frame


def _uncalled(caller: bytes, message: Message, applied: Applied) -> dict[str, Any]:
    """The frame of a message that ended before it called its receiver, or before it made a contract."""
    is_create = message.to == EAM
    frame = {"from": eth_json.data(caller), "gas": "0x0", "gasUsed": "0x0"}
    if not is_create:
        with contextlib.suppress(EthAddressError):
            frame["to"] = eth_json.data(eth_address(Address(message.to)))
    data = b""
    with contextlib.suppress(BadObject):
        data = cbor_bytes(message.params)[0] if message.params else b""
    frame["input"] = eth_json.data(data)
    if applied.exit_code:
        frame["error"] = exit_error(applied.exit_code)
    return frame | {"value": hex(message.value), "type": "CREATE" if is_create else "CALL"}


def _frame(one: ShownCall) -> dict[str, Any]:
    trace, action = one.trace, one.trace["action"]
    result = trace["result"]
    error = trace.get("error")
    is_create = trace["type"] == "create"
    if is_create:
        kind = "CREATE2" if one.call["Msg"]["Method"] == _CREATE2 else "CREATE"
    else:
        kind = action["callType"].upper()
    frame: dict[str, Any] = {"from": action["from"], "gas": action["gas"], "gasUsed": result["gasUsed"]}
    to = result["address"] if is_create else action["to"]
    if to is not None and not (is_create and error):
        frame["to"] = to
    frame["input"] = action["init"] if is_create else action["input"]
    output = result["code"] if is_create else result["output"]
    if output != "0x" and (not error or error == _REVERTED):
        frame["output"] = output
    if error:
        frame["error"] = "execution reverted" if error == _REVERTED else error
        reason = geth_reason(bytes.fromhex(output[2:])) if error == _REVERTED else None
        if reason is not None:
            frame["revertReason"] = reason
    if kind != "STATICCALL":
        frame["value"] = action["value"]
    frame["type"] = kind
    return frame


class _Logs:
    """Which call emitted which event: the machine charges for each one, and drops those of calls that failed."""

    def __init__(self, applied: Applied, top: dict[str, Any] | None, marks: list[tuple[int, int]]) -> None:
        self._events = applied.events
        #: of each event: the call that emitted it, by its place among all calls, and how many calls it had made by then
        self._marks = marks
        self._number_of: dict[int, int] = {}
        waiting = [] if top is None else [top]
        while waiting:
            call = waiting.pop()
            self._number_of[id(call)] = len(self._number_of)
            waiting += reversed(call["Subcalls"] or ())
        if len(self._marks) != len(self._events):
            raise NotHeld("which calls emitted the events of this message")

    def add_to(self, shown: list[ShownCall], frames: dict[int, dict[str, Any]]) -> None:
        """Add the logs to the frames of the calls that emitted them."""
        by_call: dict[int, list[tuple[int, Any]]] = {}
        for (call, calls_before), event in zip(self._marks, self._events, strict=True):
            by_call.setdefault(call, []).append((calls_before, event))
        are_shown = {id(one.call) for one in shown}
        for one in shown:
            inner = _emitter(one)
            found = by_call.get(self._number_of[id(inner)])
            if not found:
                continue
            below = inner["Subcalls"] or ()
            #: how many of the calls that it had made are shown
            positions = list(accumulate((id(call) in are_shown for call in below), initial=0))
            address = eth_json.data(address_of(inner["InvokedActor"]))
            logs = []
            for calls_before, event in found:
                entries = [EventEntry(*entry) for entry in event[1]]
                log = log_of(entries)
                # one without entries is no log in receipts either
                if log is not None and entries:
                    logs.append(_log(address, *log, positions[calls_before]))
            if logs:
                frames[id(one)]["logs"] = logs


def _emitter(one: ShownCall) -> dict[str, Any]:
    """The call that emits the events of a shown one: of a creation, the constructor's that the init actor makes."""
    if one.trace["type"] == "create":
        for call in one.call["Subcalls"] or ():
            if call["Msg"]["To"] == _INIT:
                for made in call["Subcalls"] or ():
                    if made["Msg"]["Method"] == _CONSTRUCTOR and made.get("InvokedActor") is not None:
                        return made  # type: ignore[no-any-return]
    return one.inner


def _log(address: str, data: bytes, topics: list[bytes], position: int) -> dict[str, Any]:
    return {
        "address": address,
        "topics": [eth_json.data(topic) for topic in topics],
        "data": eth_json.data(data),
        "position": hex(position),
    }


async def _marks(applied: Applied, checkpoint: Checkpoint) -> list[tuple[int, int]]:
    """Of each event that was kept: the call that emitted it, and how many calls it had made by then."""
    marks: list[tuple[int, int]] = []
    #: of the calls that are under way: number, calls made, events before it
    under_way: list[list[int]] = []
    calls = 0
    for events in trace_parts(applied.trace):
        for event in events:
            kind = event[0]
            if kind == "call":
                if under_way:
                    under_way[-1][1] += 1
                under_way.append([calls, 0, len(marks)])
                calls += 1
            elif kind == "gas" and event[1] in _EVENT_CHARGES and under_way:
                marks.append((under_way[-1][0], under_way[-1][1]))
            elif kind in ("return", "error") and under_way:
                _, _, start = under_way.pop()
                if kind == "error" or event[1]:
                    del marks[start:]
        await checkpoint()
    return marks
