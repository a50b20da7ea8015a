"""Signatures of the three kinds: secp256k1 over blake2b, BLS, and Ethereum's secp256k1 over keccak.

Verifying a secp256k1 signature is recovering its public key, in plain Python (some 10 ms): it happens once a
request that asks for it. BLS is `blspy` (signatures in G2, the basic scheme). Source: Lotus `lib/sigs`.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import Any, Final

from chain.address import BLS, DELEGATED, EAM_ID, Address, delegated, secp256k1
from chain.errors import ChainError

SIG_SECP256K1: Final = 1
SIG_BLS: Final = 2
SIG_DELEGATED: Final = 3

_P: Final = 2**256 - 2**32 - 977
_N: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_G: Final = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)


class NoBls(ChainError):
    """The library for BLS signatures is not there."""


_Point = tuple[int, int] | None


def _add(a: _Point, b: _Point) -> _Point:
    if a is None:
        return b
    if b is None:
        return a
    if a[0] == b[0]:
        if (a[1] + b[1]) % _P == 0:
            return None
        slope = 3 * a[0] * a[0] * pow(2 * a[1], -1, _P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, _P)
    x = (slope * slope - a[0] - b[0]) % _P
    return x, (slope * (a[0] - x) - a[1]) % _P


def _times(point: _Point, factor: int) -> _Point:
    total: _Point = None
    while factor:
        if factor & 1:
            total = _add(total, point)
        point = _add(point, point)
        factor >>= 1
    return total


def recover(digest: bytes, signature: bytes) -> bytes | None:
    """The uncompressed public key (65 bytes) behind a signature `r || s || v` over a 32-byte digest, or None."""
    if len(signature) != 65 or len(digest) != 32 or signature[64] > 3:
        return None
    r, s, v = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
    if not 0 < r < _N or not 0 < s < _N:
        return None
    x = r + _N if v & 2 else r
    if x >= _P:
        return None
    square = (x * x * x + 7) % _P
    y = pow(square, (_P + 1) // 4, _P)
    if y * y % _P != square:
        return None
    if y & 1 != v & 1:
        y = _P - y
    inverse = pow(r, -1, _N)
    message = int.from_bytes(digest, "big")
    key = _add(_times((x, y), s * inverse % _N), _times(_G, -message * inverse % _N))
    return None if key is None else b"\4" + key[0].to_bytes(32, "big") + key[1].to_bytes(32, "big")


_MASK: Final = (1 << 64) - 1
_RATE: Final = 136


def _round_constants() -> list[int]:
    constants = []
    register = 1
    for _ in range(24):
        constant = 0
        for at in range(7):
            if register & 1:
                constant |= 1 << ((1 << at) - 1)
            register <<= 1
            if register & 0x100:
                register ^= 0x171
        constants.append(constant)
    return constants


_ROUNDS: Final = _round_constants()


def _rotate(lane: int, by: int) -> int:
    by %= 64
    return (lane << by | lane >> (64 - by)) & _MASK


def _permute(lanes: list[int]) -> list[int]:
    """Keccak-f[1600]; lane (x, y) stands at x + 5 y."""
    for constant in _ROUNDS:
        column = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
        for x in range(5):
            change = column[x - 1] ^ _rotate(column[(x + 1) % 5], 1)
            for y in range(0, 25, 5):
                lanes[x + y] ^= change
        x, y, lane = 1, 0, lanes[1]
        for step in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            lane, lanes[x + 5 * y] = lanes[x + 5 * y], _rotate(lane, (step + 1) * (step + 2) // 2)
        for y in range(0, 25, 5):
            row = lanes[y : y + 5]
            for x in range(5):
                lanes[x + y] = row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5])
        lanes[0] ^= constant
    return lanes


def keccak256(data: bytes) -> bytes:
    """Ethereum's hash. Some 0.3 ms for each 136 bytes: not for many or large inputs."""
    padded = bytearray(data + b"\1" + bytes(-(len(data) + 1) % _RATE))
    padded[-1] |= 0x80
    lanes = [0] * 25
    for start in range(0, len(padded), _RATE):
        for at in range(_RATE // 8):
            lanes[at] ^= int.from_bytes(padded[start + 8 * at : start + 8 * at + 8], "little")
        lanes = _permute(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


def _verify_bls(signer: Address, message: bytes, signature: bytes) -> bool:
    try:
        blspy: Any = import_module("blspy")  # loaded at first use; it has no type stubs
    except ModuleNotFoundError:
        raise NoBls("BLS signatures are not verified here: blspy is not installed") from None
    try:
        key = blspy.G1Element.from_bytes(signer.payload)
        point = blspy.G2Element.from_bytes(signature)
    except (ValueError, RuntimeError):
        return False
    return bool(blspy.BasicSchemeMPL.verify(key, message, point))


def verify(kind: int, signature: bytes, signer: Address, message: bytes) -> bool:
    """Whether `signer` (a key or delegated address) signed the message. Anything malformed is a no.

    Errors: NoBls.
    """
    if kind == SIG_SECP256K1:
        key = recover(hashlib.blake2b(message, digest_size=32).digest(), signature)
        return key is not None and secp256k1(key) == signer
    if kind == SIG_DELEGATED:
        key = recover(keccak256(message), signature)
        if key is None or signer.protocol != DELEGATED:
            return False
        return delegated(EAM_ID, keccak256(key[1:])[12:]) == signer
    if kind == SIG_BLS:
        return signer.protocol == BLS and len(signature) == 96 and _verify_bls(signer, message, signature)
    return False
