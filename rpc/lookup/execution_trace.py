"""Execution traces in Lotus' JSON: the machine's events, in their order, as a tree of calls.

Sources: Lotus `chain/types/execresult.go`; filecoin-ffi `rust/src/fvm/machine.rs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import orjson

from blockstore.cid import Cid
from chain.address import Address, from_id

#: exit codes of calls that could not be dispatched, by the machine's error number; all others are 10
_UNDISPATCHED: Final = {5: 6, 6: 5}
_ASSERTION_FAILED: Final = 10


#: levels of calls that are encoded as one; a JSON encoder takes 254 levels, and a call has two
_LEVELS: Final = 50


def lotus_trace(events: Sequence[Any]) -> dict[str, Any]:
    """types.ExecutionTrace. Charges before the first call stand first in it, as the node has them.

    Calls nest up to 1,025 deep. `in_levels` makes of it what can be encoded.
    """
    before: list[dict[str, Any]] = []
    top: dict[str, Any] | None = None
    open_calls: list[dict[str, Any]] = []
    for event in events:
        if event[0] == "call":
            call = _call(event)
            if open_calls:
                open_calls[-1]["Subcalls"].append(call)
            elif top is None:
                top = call
                call["GasCharges"] = before
            else:
                break
            open_calls.append(call)
        elif open_calls:
            _note(open_calls, event)
        elif event[0] == "gas":
            (before if top is None else top["GasCharges"]).append(_charge(event))
    if top is None:
        return _empty(before)
    for call in _calls(top):
        _leave_out_empty(call)
    return top


def in_levels(trace: dict[str, Any], encode: Callable[[Any], bytes], below: str = "Subcalls") -> dict[str, Any]:
    """The trace with deep calls as their JSON text, as `encode` writes it: for the encoder alone. Changes `trace`.

    `below` names the field that holds the calls of a call.
    """
    places: list[tuple[list[Any], int]] = []
    waiting = [(trace, 1)]
    while waiting:
        call, level = waiting.pop()
        calls = call.get(below) or []
        if level % _LEVELS == 0:
            places += [(calls, at) for at in range(len(calls))]
        waiting += [(one, level + 1) for one in calls]
    for calls, at in reversed(places):
        calls[at] = orjson.Fragment(encode(calls[at]))
    return trace


def _empty(charges: list[dict[str, Any]]) -> dict[str, Any]:
    """The trace of a message that called nothing."""
    message = {
        "From": "<empty>", "To": "<empty>", "Value": "0", "Method": 0, "Params": None, "ParamsCodec": 0,
        "GasLimit": 0, "ReadOnly": False,
    }  # fmt: skip
    returned = {"ExitCode": 0, "Return": None, "ReturnCodec": 0}
    return {"Msg": message, "MsgRct": returned, "GasCharges": charges or None, "Subcalls": None}


def _call(event: Sequence[Any]) -> dict[str, Any]:
    _, sender, to, method, params, value, gas_limit, read_only = event
    codec, data = params or (0, b"")
    return {
        "Msg": {
            "From": from_id(sender),
            "To": Address(to),
            "Value": value,
            "Method": method,
            "Params": data or None,
            "ParamsCodec": codec,
            "GasLimit": gas_limit,
            "ReadOnly": read_only,
        },
        "MsgRct": {"ExitCode": 0, "Return": None, "ReturnCodec": 0},
        "InvokedActor": None,
        "GasCharges": [],
        "Subcalls": [],
        "Logs": [],
        "IpldOps": [],
    }


def _note(open_calls: list[dict[str, Any]], event: Sequence[Any]) -> None:
    """Note what happened in the innermost call; its end closes it."""
    call = open_calls[-1]
    kind = event[0]
    if kind == "gas":
        call["GasCharges"].append(_charge(event))
    elif kind == "actor":
        call["InvokedActor"] = _actor(event)
    elif kind == "log":
        call["Logs"].append(event[1])
    elif kind == "ipld":
        call["IpldOps"].append({"Op": event[1], "Cid": Cid(event[2]), "Size": event[3]})
    elif kind == "return":
        codec, data = event[2] or (0, b"")
        call["MsgRct"] = {"ExitCode": event[1], "Return": data or None, "ReturnCodec": codec}
        open_calls.pop()
    elif kind == "error":
        call["MsgRct"]["ExitCode"] = _UNDISPATCHED.get(event[1], _ASSERTION_FAILED)
        open_calls.pop()


def _calls(top: dict[str, Any]) -> Iterator[dict[str, Any]]:
    waiting = [top]
    while waiting:
        call = waiting.pop()
        waiting += call["Subcalls"]
        yield call


def _leave_out_empty(call: dict[str, Any]) -> None:
    for name in ("InvokedActor", "Logs", "IpldOps"):
        if not call[name]:
            del call[name]
    for name in ("GasCharges", "Subcalls"):
        call[name] = call[name] or None


def _charge(event: Sequence[Any]) -> dict[str, Any]:
    _, name, total, compute, storage = event
    return {"Name": name, "tg": total, "cg": compute, "sg": storage, "tt": 0}


def _actor(event: Sequence[Any]) -> dict[str, Any]:
    _, actor, code, head, nonce, balance, delegated = event
    state = {
        "Code": Cid(code),
        "Head": Cid(head),
        "Nonce": nonce,
        "Balance": balance,
        "DelegatedAddress": None if delegated is None else Address(delegated),
    }
    return {"Id": actor, "State": state}
