"""Frames on the executor's socket: cut anywhere, too long, no CBOR; what is packed comes out equal."""

from __future__ import annotations

import cbor2
import pytest

from blockstore.cid import Cid
from chain.address import Address, from_id
from chain.message import Message, encode_message
from chain.tipset import TipsetKey
from follower.executor.wire import (
    MAX_FRAME,
    BadFrame,
    FrameBuffer,
    frame,
    pack_call,
    pack_place,
    unpack_call,
    unpack_place,
)
from rpc.execution.bare_call import _SIGNATURE_BYTES
from rpc.execution.call import chain_length
from rpc.executor import Call, Place

ROOT = Cid(bytes.fromhex("01711220") + bytes(32))


def test_frames_may_be_cut_anywhere() -> None:
    values = [[1, "call", b"\x00" * 300], [2, None, "text"], []]
    data = b"".join(map(frame, values))
    for size in (1, 2, 3, 5, 7, 64, len(data)):
        buffer, found = FrameBuffer(), []
        for at in range(0, len(data), size):
            found += buffer.feed(data[at : at + size])
        assert found == values, size


@pytest.mark.parametrize("data", [(MAX_FRAME + 1).to_bytes(4, "big"), b"\x00\x00\x00\x01\xff"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(BadFrame):
        list(FrameBuffer().feed(frame([1]) + data))


def test_places_and_calls_come_out_equal() -> None:
    place = Place(ROOT, 7, 8, 9, 10, 11, TipsetKey.of([ROOT]), False, None)
    packed = cbor2.dumps(pack_place(place))
    assert unpack_place(cbor2.loads(packed)) == place
    call = Call(b"message", 69, 10**10, True)
    assert unpack_call(pack_call(packed, call)) == (packed, call)
    with pytest.raises(BadFrame):
        unpack_call([packed, "message", 69, 1, True])


def test_the_bytes_of_a_signature_are_those_of_a_signed_message() -> None:
    for protocol, size in _SIGNATURE_BYTES.items():
        for nonce in (0, 23, 24, 1 << 40):
            message = Message(0, from_id(1), from_id(2), nonce, 3, 4, 5, 6, 7, b"params")
            assert chain_length(message, Address(bytes([protocol]))) == len(encode_message(message)) + size
