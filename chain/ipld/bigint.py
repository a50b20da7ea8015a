"""Filecoin's big integers: a sign byte (0 plus, 1 minus) and the magnitude, big endian; zero is empty.

Source: go-state-types `big.Int.Bytes`.
"""

from __future__ import annotations

from chain.errors import BadObject

_MAX_BYTES = 128


def decode_bigint(data: object) -> int:
    """The integer of its stored form. Errors: BadObject (not bytes, over 128 bytes, an unknown sign byte)."""
    if not isinstance(data, bytes):
        raise BadObject("big integer is not a byte string")
    if not data:
        return 0
    if len(data) > _MAX_BYTES:
        raise BadObject(f"big integer of {len(data)} bytes")
    if data[0] > 1:
        raise BadObject(f"big int prefix should be either 0 or 1, got {data[0]}")
    magnitude = int.from_bytes(data[1:], "big")
    return -magnitude if data[0] else magnitude


def encode_bigint(value: int) -> bytes:
    """The bytes of `value`."""
    if not value:
        return b""
    magnitude = abs(value)
    return (b"\1" if value < 0 else b"\0") + magnitude.to_bytes((magnitude.bit_length() + 7) // 8, "big")
