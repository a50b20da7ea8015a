"""Execution traces: the machine's events, in their order, as Lotus' JSON or as a tree of calls.

A trace may hold a hundred thousand events, and calls nest up to 1,025 deep. So events are read in parts, with a
checkpoint after each, and JSON becomes text as soon as it can: no large tree is ever built, and none has to be freed.

Sources: Lotus `chain/types/execresult.go`; filecoin-ffi `rust/src/fvm/machine.rs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

import orjson

from blockstore.cid import Cid
from chain.address import Address, from_id
from chain.checkpoint import Checkpoint
from rpc.executor import trace_parts

Encode = Callable[[Any], bytes]
Event = Sequence[Any]

#: exit codes of calls that could not be dispatched, by the machine's error number; all others are 10
_UNDISPATCHED: Final = {5: 6, 6: 5}
_ASSERTION_FAILED: Final = 10
#: entries of one call that become text together
_PIECE: Final = 256
#: what stands in the place of a call, for a message that called nothing
_NO_CALL: Final = {
    "Msg": {
        "From": "<empty>", "To": "<empty>", "Value": "0", "Method": 0, "Params": None, "ParamsCodec": 0,
        "GasLimit": 0, "ReadOnly": False,
    },
    "MsgRct": {"ExitCode": 0, "Return": None, "ReturnCodec": 0},
}  # fmt: skip


async def trace_json(trace: Sequence[bytes], encode: Encode, checkpoint: Checkpoint) -> orjson.Fragment:
    """types.ExecutionTrace, as `encode` writes it. Charges before the first call stand first in it, as in the node's.

    `trace`: as in `rpc.executor.Applied`.
    """
    walk = await _walked(trace, lambda event: _CallText(event, encode), checkpoint)
    if walk.top is None:
        charges = _Entries(encode)
        for event in walk.before:
            charges.add(_charge(event))
        front = encode(_NO_CALL)[:-1]
        return orjson.Fragment(b"".join((front, b',"GasCharges":', charges.text() or b"null", b',"Subcalls":null}')))
    pieces: list[bytes] = []
    for piece in walk.top.pieces():
        pieces.append(piece)
        if len(pieces) % _PIECE == 0:
            await checkpoint()
    return orjson.Fragment(b"".join(pieces))


async def call_tree(trace: Sequence[bytes], checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The calls of a trace, as types.ExecutionTrace has them: None for a message that called nothing.

    Of the charges each has its sum, `GasUsed`; logs and objects are left out.
    """
    top = (await _walked(trace, _CallNode, checkpoint)).top
    return None if top is None else top.fields


class _Call:
    """A call, as it unfolds. `fields`: what types.ExecutionTrace has of it."""

    def __init__(self, event: Event) -> None:
        _, sender, to, method, params, value, gas_limit, read_only = event
        codec, data = params or (0, b"")
        self.calls: list[Any] = []
        self.fields: dict[str, Any] = {
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
        }

    def add(self, call: _Call) -> None:
        """It made a call."""

    def charge(self, event: Event) -> None:
        """Gas was charged."""

    def note(self, event: Event) -> None:
        """A log, or an object read or written."""

    def invoke(self, event: Event) -> None:
        """The called actor was loaded."""
        _, actor, code, head, nonce, balance, delegated = event
        state = {
            "Code": Cid(code),
            "Head": Cid(head),
            "Nonce": nonce,
            "Balance": balance,
            "DelegatedAddress": None if delegated is None else Address(delegated),
        }
        self.fields["InvokedActor"] = {"Id": actor, "State": state}

    def end(self, event: Event) -> None:
        """It returned, or could not be dispatched."""
        if event[0] == "error":
            self.fields["MsgRct"]["ExitCode"] = _UNDISPATCHED.get(event[1], _ASSERTION_FAILED)
            return
        codec, data = event[2] or (0, b"")
        self.fields["MsgRct"] = {"ExitCode": event[1], "Return": data or None, "ReturnCodec": codec}

    def close(self) -> None:
        """Nothing follows."""


class _CallNode(_Call):
    """A call with the calls below it."""

    def __init__(self, event: Event) -> None:
        super().__init__(event)
        self.fields["GasUsed"] = 0
        self.fields["Subcalls"] = self.calls

    def add(self, call: _Call) -> None:
        self.calls.append(call.fields)

    def charge(self, event: Event) -> None:
        self.fields["GasUsed"] += event[2]


class _CallText(_Call):
    """A call as JSON. When it is closed it becomes text, but for the calls below it."""

    def __init__(self, event: Event, encode: Encode) -> None:
        super().__init__(event)
        self._encode = encode
        self._charges = _Entries(encode)
        self._logs = _Entries(encode)
        self._objects = _Entries(encode)
        self._front = self._back = b""

    def add(self, call: _Call) -> None:
        self.calls.append(call)

    def charge(self, event: Event) -> None:
        self._charges.add(_charge(event))

    def note(self, event: Event) -> None:
        if event[0] == "log":
            self._logs.add(event[1])
        elif event[0] == "ipld":
            self._objects.add({"Op": event[1], "Cid": Cid(event[2]), "Size": event[3]})

    def close(self) -> None:
        charges, logs, objects = self._charges.text(), self._logs.text(), self._objects.text()
        front = self._encode(self.fields)[:-1], b',"GasCharges":', charges or b"null", b',"Subcalls":'
        self._front = b"".join(front)
        self._back = b"".join((b',"Logs":' + logs if logs else b"", b',"IpldOps":' + objects if objects else b"", b"}"))
        self.fields = {}

    def pieces(self) -> Iterator[bytes]:
        """The text of a closed call, with those below it."""
        yield self._front
        levels: list[tuple[_CallText, Iterator[_CallText], bytes]] = [(self, iter(self.calls), b"[")]
        while levels:
            call, below, before = levels.pop()
            one = next(below, None)
            if one is None:
                yield (b"]" if call.calls else b"null") + call._back
                continue
            levels += [(call, below, b","), (one, iter(one.calls), b"[")]
            yield before + one._front


class _Entries:
    """Entries of a list, which become text some hundred at a time."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._waiting: list[Any] = []
        self._texts: list[bytes] = []

    def add(self, entry: Any) -> None:
        self._waiting.append(entry)
        if len(self._waiting) == _PIECE:
            self._write()

    def text(self) -> bytes:
        """The list as JSON; empty for an empty one."""
        if self._waiting:
            self._write()
        return b"[%b]" % b",".join(self._texts) if self._texts else b""

    def _write(self) -> None:
        self._texts.append(self._encode(self._waiting)[1:-1])
        self._waiting = []


C = TypeVar("C", bound=_Call)


class _Walk(Generic[C]):
    """Makes calls of events, which it is given in their order.

    `before` holds the charges before the first call, unless a call begins: then they are the call's.
    """

    def __init__(self, make: Callable[[Event], C]) -> None:
        self._make = make
        self._open: list[C] = []
        self.before: list[Event] = []
        self.top: C | None = None

    def feed(self, events: Sequence[Event]) -> bool:
        """Take events. False: a second call begins at the top, which a trace leaves out with all that follows."""
        under_way = self._open
        for event in events:
            kind = event[0]
            if kind == "gas":
                if under_way:
                    under_way[-1].charge(event)
                elif self.top is None:
                    self.before.append(event)
                else:
                    self.top.charge(event)
            elif kind == "call":
                if not under_way and self.top is not None:
                    return False
                call = self._make(event)
                if under_way:
                    under_way[-1].add(call)
                else:
                    self.top = call
                    for charge in self.before:
                        call.charge(charge)
                under_way.append(call)
            elif not under_way:
                continue
            elif kind == "return" or kind == "error":
                ended = under_way.pop()
                ended.end(event)
                if ended is not self.top:
                    ended.close()
            elif kind == "actor":
                under_way[-1].invoke(event)
            else:
                under_way[-1].note(event)
        return True

    def close(self) -> C | None:
        """The top call, when all events have been taken."""
        # those that an abort left open, the innermost first
        for call in reversed(self._open):
            if call is not self.top:
                call.close()
        if self.top is not None:
            self.top.close()
        return self.top


async def _walked(trace: Sequence[bytes], make: Callable[[Event], C], checkpoint: Checkpoint) -> _Walk[C]:
    walk = _Walk(make)
    for events in trace_parts(trace):
        if not walk.feed(events):
            break
        await checkpoint()
    walk.close()
    return walk


def _charge(event: Event) -> dict[str, Any]:
    _, name, total, compute, storage = event
    return {"Name": name, "tg": total, "cg": compute, "sg": storage, "tt": 0}
