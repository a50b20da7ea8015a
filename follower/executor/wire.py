"""Frames between workers and the executor: a length of four bytes, then CBOR. One machine, one user, one release."""

from __future__ import annotations

import asyncio
from dataclasses import astuple
from typing import Any, Final

import cbor2

from blockstore.cid import Cid
from chain.tipset import TipsetKey
from rpc.executor import Applied, Place, Reward, Run, Step

#: bytes of a frame, at most: a trace of a message that used all the gas it may
MAX_FRAME: Final = 256 << 20
_LENGTH: Final = 4
#: kinds of error
NOT_HELD: Final = "not held"
MISSING: Final = "missing"
UNAVAILABLE: Final = "unavailable"
REFUSED: Final = "refused"
CANNOT: Final = "cannot"


class BadFrame(ConnectionError):
    """The other side sends what is no frame."""


async def read_frame(reader: asyncio.StreamReader) -> Any:
    """The next frame. Errors: BadFrame, asyncio.IncompleteReadError (the other side has gone)."""
    length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
    if length > MAX_FRAME:
        raise BadFrame(f"a frame of {length} bytes")
    try:
        return cbor2.loads(await reader.readexactly(length))
    except cbor2.CBORDecodeError as error:
        raise BadFrame(f"not CBOR: {error}") from None


def frame(value: Any) -> bytes:
    """A frame. Errors: ValueError, for one that is too long."""
    data = cbor2.dumps(value)
    if len(data) > MAX_FRAME:
        raise ValueError(f"an answer of {len(data)} bytes")
    return len(data).to_bytes(_LENGTH, "big") + data


def pack_run(place: Place, steps: list[Step | Reward], keep_state: bool, objects: bool) -> list[Any]:
    """A request as values for CBOR."""
    return [
        [None if value is None else bytes(value) if isinstance(value, bytes) else value for value in astuple(place)],
        [[isinstance(step, Reward), *astuple(step)] for step in steps],
        keep_state,
        objects,
    ]


def unpack_run(value: list[Any]) -> tuple[Place, list[Step | Reward], bool, bool]:
    """What `pack_run` packed."""
    root, epoch, timestamp, version, chain, base_fee, anchor, tracing, supply_root = value[0]
    place = Place(
        Cid(root), epoch, timestamp, version, chain, base_fee, TipsetKey(anchor), tracing,
        None if supply_root is None else Cid(supply_root),
    )  # fmt: skip
    steps: list[Step | Reward] = [Reward(*one[1:]) if one[0] else _step(one[1:]) for one in value[1]]
    return place, steps, value[2], value[3]


def _step(value: list[Any]) -> Step:
    message, length, implicit, cid, gas_cap = value
    return Step(message, length, implicit, None if cid is None else Cid(cid), gas_cap)


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
