"""Verification of the three kinds of signatures: secp256k1 over blake2b, BLS, and delegated (secp256k1 over keccak256).

A secp256k1 signature is verified by recovering its public key. Libraries: `coincurve` (secp256k1), `pycryptodome`
(keccak256), `blspy` (BLS: signatures in G2, the basic scheme). Source: Lotus `lib/sigs`.
"""

from __future__ import annotations

import hashlib
from typing import Final

import blspy
from coincurve import PublicKey

# bandit takes it for pyCrypto, which nobody maintains; it is pycryptodome
from Crypto.Hash import keccak  # nosec B413

from chain.address import BLS, DELEGATED, EAM_ID, Address, delegated, secp256k1

SIG_SECP256K1: Final = 1
SIG_BLS: Final = 2
SIG_DELEGATED: Final = 3


def recover_public_key(digest: bytes, signature: bytes) -> bytes | None:
    """The uncompressed public key (65 bytes) that made the signature `r || s || v` over a 32-byte digest, or None."""
    if len(signature) != 65 or len(digest) != 32 or signature[64] > 3:
        return None
    try:
        return PublicKey.from_signature_and_message(signature, digest, hasher=None).format(compressed=False)
    except Exception:  # coincurve raises the bare class for a point that is not on the curve
        return None


def keccak256(data: bytes) -> bytes:
    """Ethereum's hash, 32 bytes."""
    return keccak.new(digest_bits=256, data=data).digest()


def _verify_bls(signer: Address, message: bytes, signature: bytes) -> bool:
    try:
        key = blspy.G1Element.from_bytes(signer.payload)
        point = blspy.G2Element.from_bytes(signature)
    except (ValueError, RuntimeError):
        return False
    return bool(blspy.BasicSchemeMPL.verify(key, message, point))


def verify_signature(kind: int, signature: bytes, signer: Address, message: bytes) -> bool:
    """Whether `signer` (a key or delegated address) signed the message. False for a malformed signature."""
    if kind == SIG_SECP256K1:
        key = recover_public_key(hashlib.blake2b(message, digest_size=32).digest(), signature)
        return key is not None and secp256k1(key) == signer
    if kind == SIG_DELEGATED:
        key = recover_public_key(keccak256(message), signature)
        if key is None or signer.protocol != DELEGATED:
            return False
        return delegated(EAM_ID, keccak256(key[1:])[12:]) == signer
    if kind == SIG_BLS:
        return signer.protocol == BLS and len(signature) == 96 and _verify_bls(signer, message, signature)
    return False
