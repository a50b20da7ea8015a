"""Frames between workers and the executor: a length of four bytes, then CBOR. One machine, one user, one release."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any, Final, NoReturn

import cbor2

from blockstore.cid import Cid
from blockstore.errors import Missing
from chain.errors import NotHeld
from chain.tipset import TipsetKey
from rpc.errors import CannotExecute, ExecutionRefused, Unavailable
from rpc.executor import Applied, Call, Outcome, Place, Reward, Run, Step

#: bytes of a frame, at most: a trace of a message that used all the gas it may
MAX_FRAME: Final = 256 << 20
_LENGTH: Final = 4
#: kinds of error; the extension writes the last four too (`execution/src/calls.rs`)
MISSING: Final = "missing"
NOT_HELD: Final = "not held"
UNAVAILABLE: Final = "unavailable"
REFUSED: Final = "refused"
CANNOT: Final = "cannot"
_NOT_HELD_PREFIX: Final = "not held: "


class BadFrame(ConnectionError):
    """The other side sends what is no frame."""


async def read_frame(reader: asyncio.StreamReader) -> Any:
    """The next frame. Errors: BadFrame, asyncio.IncompleteReadError (the other side has gone)."""
    length = _checked_length(int.from_bytes(await reader.readexactly(_LENGTH), "big"))
    return _decode(await reader.readexactly(length))


def frame(value: Any) -> bytes:
    """A frame. Errors: ValueError, for one that is too long."""
    data = cbor2.dumps(value)
    if len(data) > MAX_FRAME:
        raise ValueError(f"an answer of {len(data)} bytes")
    return len(data).to_bytes(_LENGTH, "big") + data


class FrameBuffer:
    """Frames out of the bytes of a stream."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The frames that `data` completes. Errors: BadFrame."""
        kept = self._bytes
        kept += data
        at = 0
        try:
            while len(kept) - at >= _LENGTH:
                end = at + _LENGTH + _checked_length(int.from_bytes(kept[at : at + _LENGTH], "big"))
                if len(kept) < end:
                    return
                value = _decode(bytes(kept[at + _LENGTH : end]))
                at = end
                yield value
        finally:
            del kept[:at]


def _checked_length(length: int) -> int:
    if length > MAX_FRAME:
        raise BadFrame(f"a frame of {length} bytes")
    return length


def _decode(data: bytes) -> Any:
    try:
        return cbor2.loads(data)
    except cbor2.CBORDecodeError as error:
        raise BadFrame(f"not CBOR: {error}") from None


def raise_error(error: str, found: Any) -> NoReturn:
    """Raise what an answer says. Errors: Missing, NotHeld, ExecutionRefused, CannotExecute, Unavailable."""
    if error == MISSING:
        raise Missing(Cid(found[0]))
    if error == NOT_HELD:
        raise NotHeld(found.removeprefix(_NOT_HELD_PREFIX))
    raise {REFUSED: ExecutionRefused, CANNOT: CannotExecute}.get(error, Unavailable)(found)


def pack_place(place: Place) -> list[Any]:
    """A place as values for CBOR."""
    return [None if value is None else bytes(value) if isinstance(value, bytes) else value for value in astuple(place)]


def unpack_place(value: list[Any]) -> Place:
    """What `pack_place` packed."""
    root, epoch, timestamp, version, chain, base_fee, anchor, tracing, supply_root = value
    return Place(
        Cid(root), epoch, timestamp, version, chain, base_fee, TipsetKey(anchor), tracing,
        None if supply_root is None else Cid(supply_root),
    )  # fmt: skip


def pack_call(packed_place: bytes, call: Call) -> list[Any]:
    """A call as values for CBOR. `packed_place`: `pack_place`'s values as CBOR, which many calls share."""
    return [packed_place, call.message, call.signature_bytes, call.gas_cap, call.skips_sender_check]


def unpack_call(value: list[Any]) -> tuple[bytes, Call]:
    """What `pack_call` packed. Errors: BadFrame, ValueError."""
    place, message, signature_bytes, gas_cap, skips = value
    if not (isinstance(place, bytes) and isinstance(message, bytes) and isinstance(skips, bool)):
        raise BadFrame("no call")
    return place, Call(message, int(signature_bytes), int(gas_cap), skips)


def unpack_outcome(value: list[Any] | None) -> Outcome | None:
    """What the extension answers to a call (`execution/src/calls.rs`)."""
    return None if value is None else Outcome(*value)


def pack_run(place: Place, steps: list[Step | Reward], keep_state: bool, objects: bool) -> list[Any]:
    """A request as values for CBOR."""
    return [pack_place(place), [[isinstance(step, Reward), *astuple(step)] for step in steps], keep_state, objects]


def unpack_run(value: list[Any]) -> tuple[Place, list[Step | Reward], bool, bool]:
    """What `pack_run` packed."""
    steps: list[Step | Reward] = [Reward(*one[1:]) if one[0] else _step(one[1:]) for one in value[1]]
    return unpack_place(value[0]), steps, value[2], value[3]


def _step(value: list[Any]) -> Step:
    message, length, implicit, cid, gas_cap, events = value
    return Step(message, length, implicit, None if cid is None else Cid(cid), gas_cap, events)


def pack_result(run: Run) -> list[Any]:
    """A result as values for CBOR."""
    return [
        [astuple(one) for one in run.applied],
        None if run.root is None else bytes(run.root),
        [astuple(step) for step in run.steps],
        [list(pair) for pair in run.objects],
    ]


def unpack_result(value: list[Any]) -> Run:
    """What `pack_result` packed."""
    applied = []
    for fields in value[0]:
        fields[11] = None if fields[11] is None else Cid(fields[11])
        applied.append(Applied(*fields))
    root = None if value[1] is None else Cid(value[1])
    objects = tuple((key, data) for key, data in value[3])
    return Run(tuple(applied), root, tuple(_step(one) for one in value[2]), objects)
