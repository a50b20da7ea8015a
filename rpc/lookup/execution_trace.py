"""Execution traces in Lotus' JSON: the machine's events, in their order, as a tree of calls.

Sources: Lotus `chain/types/execresult.go`; filecoin-ffi `rust/src/fvm/machine.rs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from blockstore.cid import Cid
from chain.address import Address, from_id

#: exit codes of calls that could not be dispatched, by the machine's error number; all others are 10
_UNDISPATCHED: Final = {5: 6, 6: 5}
_ASSERTION_FAILED: Final = 10


def lotus_trace(events: Sequence[Any]) -> dict[str, Any]:
    """types.ExecutionTrace. Charges before the first call stand first in it, as the node has them."""
    waiting = iter(events)
    before: list[dict[str, Any]] = []
    for event in waiting:
        if event[0] == "gas":
            before.append(_charge(event))
        elif event[0] == "call":
            trace = _call(event, waiting)
            trace["GasCharges"] = [*before, *(trace["GasCharges"] or [])]
            after = [_charge(one) for one in waiting if one[0] == "gas"]
            trace["GasCharges"] = (trace["GasCharges"] + after) or None
            return trace
    return _empty(before)


def _empty(charges: list[dict[str, Any]]) -> dict[str, Any]:
    """The trace of a message that called nothing."""
    message = {
        "From": "<empty>", "To": "<empty>", "Value": "0", "Method": 0, "Params": None, "ParamsCodec": 0,
        "GasLimit": 0, "ReadOnly": False,
    }  # fmt: skip
    returned = {"ExitCode": 0, "Return": None, "ReturnCodec": 0}
    return {"Msg": message, "MsgRct": returned, "GasCharges": charges or None, "Subcalls": None}


def _call(event: Sequence[Any], waiting: Iterator[Sequence[Any]]) -> dict[str, Any]:
    _, sender, to, method, params, value, gas_limit, read_only = event
    codec, data = params or (0, b"")
    charges: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    logs: list[str] = []
    objects: list[dict[str, Any]] = []
    returned: dict[str, Any] = {"ExitCode": 0, "Return": None, "ReturnCodec": 0}
    invoked: dict[str, Any] | None = None
    for one in waiting:
        kind = one[0]
        if kind == "gas":
            charges.append(_charge(one))
        elif kind == "call":
            calls.append(_call(one, waiting))
        elif kind == "actor":
            invoked = _actor(one)
        elif kind == "log":
            logs.append(one[1])
        elif kind == "ipld":
            objects.append({"Op": one[1], "Cid": Cid(one[2]), "Size": one[3]})
        elif kind == "return":
            back_codec, back = one[2] or (0, b"")
            returned = {"ExitCode": one[1], "Return": back or None, "ReturnCodec": back_codec}
            break
        elif kind == "error":
            returned["ExitCode"] = _UNDISPATCHED.get(one[1], _ASSERTION_FAILED)
            break
    trace: dict[str, Any] = {
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
        "MsgRct": returned,
    }
    if invoked is not None:
        trace["InvokedActor"] = invoked
    trace |= {"GasCharges": charges or None, "Subcalls": calls or None}
    if logs:
        trace["Logs"] = logs
    if objects:
        trace["IpldOps"] = objects
    return trace


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
