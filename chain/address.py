"""Filecoin addresses: an `Address` *is* its bytes, the protocol byte and the payload.

| protocol | text | payload |
|---|---|---|
| 0 ID | `f01234` | the actor ID as a minimal varint |
| 1 secp256k1 | `f1…` | blake2b-160 of the public key |
| 2 actor | `f2…` | blake2b-160 of what the actor was made from |
| 3 BLS | `f3…` | the public key, 48 bytes |
| 4 delegated | `f410f…` | the managing actor's ID as a varint, then up to 54 bytes |

The empty address is Go's undefined address, written `<empty>`. A text starts with a network prefix, "f" (main) or "t"
(test). The prefix is no part of the address: both are accepted on every network. The checks, their order and their
error texts are those of go-address. Source: https://spec.filecoin.io/appendix/address and go-address.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import libipld

from blockstore.cid import uvarint
from chain.errors import BadAddress

ID: Final = 0
SECP256K1: Final = 1
ACTOR: Final = 2
BLS: Final = 3
DELEGATED: Final = 4

#: the ID of the actor under which Ethereum addresses are delegated
EAM_ID: Final = 10

_HASH_LENGTH: Final = 20
_CHECKSUM_LENGTH: Final = 4
_BLS_LENGTH: Final = 48
_MAX_SUBADDRESS: Final = 54
_MAX_INT64_TEXT: Final = 19
_MAX_TEXT: Final = 2 + _MAX_INT64_TEXT + 1 + 93
_MAX_ID: Final = (1 << 63) - 1
_EMPTY_TEXT: Final = "<empty>"

_BASE32: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz234567")
_DIGITS: Final = frozenset(b"0123456789")

_LENGTH: Final = "invalid address length"
_PAYLOAD: Final = "invalid address payload"
_PROTOCOL: Final = "unknown address protocol"


class Address(bytes):
    """An address in its binary form. Not validated: see `checked` and `parse`."""

    __slots__ = ()

    @classmethod
    def checked(cls, data: bytes) -> Address:
        """The address that these bytes are. No bytes: the undefined address. Errors: BadAddress."""
        if data:
            _check(data)
        return cls(data)

    @property
    def protocol(self) -> int:
        """0 to 4; 255 for the undefined address."""
        return self[0] if self else 255

    @property
    def payload(self) -> bytes:
        """The bytes after the protocol byte."""
        return bytes(self[1:])

    @property
    def is_id(self) -> bool:
        """Whether the address is an actor ID."""
        return self[:1] == b"\0"

    @property
    def id(self) -> int:
        """The actor ID. Errors: BadAddress (of another protocol, or a bad varint)."""
        if self[:1] != b"\0":
            raise BadAddress("cannot get id from non id address")
        return _varint(self, 1, "cannot get id: ")[0]

    @property
    def namespace(self) -> int:
        """The ID of the actor that manages a delegated address. Errors: BadAddress (of another protocol)."""
        if self[:1] != b"\4":
            raise BadAddress("not a delegated address")
        return _varint(self, 1, "")[0]

    @property
    def subaddress(self) -> bytes:
        """The bytes after the namespace of a delegated address. Errors: BadAddress (of another protocol)."""
        if self[:1] != b"\4":
            raise BadAddress("not a delegated address")
        return bytes(self[_varint(self, 1, "")[1] :])

    def text(self, prefix: str = "f") -> str:
        """The text form. `prefix`: of the network, "f" or "t". Errors: BadAddress (the bytes are no address)."""
        if not self:
            return _EMPTY_TEXT
        protocol = self[0]
        if protocol == ID:
            value, end = _varint(self, 1, "could not decode varint: ")
            if end != len(self):
                raise BadAddress("payload contains additional bytes")
            return f"{prefix}0{value}"
        if protocol > DELEGATED:
            raise BadAddress(_PROTOCOL)
        checksum = hashlib.blake2b(self, digest_size=_CHECKSUM_LENGTH).digest()
        if protocol == DELEGATED:
            value, end = _varint(self, 1, "could not decode delegated address namespace: ")
            return f"{prefix}4{value}f{_encode32(self[end:] + checksum)}"
        return f"{prefix}{protocol}{_encode32(self[1:] + checksum)}"

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        try:
            return f"Address({self.text()})"
        except BadAddress:
            return f"Address(bytes {self.hex()})"


def from_id(actor_id: int) -> Address:
    """The ID address of an actor. Errors: BadAddress (negative, or 2^63 and more)."""
    if not 0 <= actor_id <= _MAX_ID:
        raise BadAddress("IDs must be less than 2^63")
    return Address(b"\0" + uvarint(actor_id))


def secp256k1(public_key: bytes) -> Address:
    """The address of an uncompressed secp256k1 public key (65 bytes)."""
    return Address(b"\1" + _hash(public_key))


def actor(seed: bytes) -> Address:
    """The address of an actor made from `seed` (its creator, the nonce and the like)."""
    return Address(b"\2" + _hash(seed))


def bls(public_key: bytes) -> Address:
    """The address of a BLS public key (48 bytes). Errors: BadAddress."""
    return Address.checked(b"\3" + public_key)


def delegated(namespace: int, subaddress: bytes) -> Address:
    """An address managed by the actor `namespace`. Errors: BadAddress."""
    if not 0 <= namespace <= _MAX_ID:
        raise BadAddress("namespace must be less than 2^63")
    if len(subaddress) > _MAX_SUBADDRESS:
        raise BadAddress(_LENGTH)
    return Address(b"\4" + uvarint(namespace) + subaddress)


def parse(text: str) -> Address:
    """The address of a text. "" and "<empty>": the undefined address. Errors: BadAddress."""
    raw = text.encode("utf-8", "replace")
    if not raw or text == _EMPTY_TEXT:
        return Address()
    if not 3 <= len(raw) <= _MAX_TEXT:
        raise BadAddress(_LENGTH)
    if raw[:1] not in (b"f", b"t"):
        raise BadAddress("unknown address network")
    protocol = raw[1] - 0x30
    if not ID <= protocol <= DELEGATED:
        raise BadAddress(_PROTOCOL)
    body = raw[2:]
    if protocol == ID:
        return Address(b"\0" + uvarint(_decimal(body)))
    head = b""
    if protocol == DELEGATED:
        namespace, found, body = body.partition(b"f")
        if not found:
            raise BadAddress(_PAYLOAD)
        head = uvarint(_decimal(namespace))
    decoded = _decode32(body)
    if len(decoded) < _CHECKSUM_LENGTH:
        raise BadAddress(_LENGTH)
    payload, checksum = decoded[:-_CHECKSUM_LENGTH], decoded[-_CHECKSUM_LENGTH:]
    _check_length(protocol, len(payload))
    address = Address(bytes((protocol,)) + head + payload)
    if hashlib.blake2b(address, digest_size=_CHECKSUM_LENGTH).digest() != checksum:
        raise BadAddress("invalid address checksum")
    return address


def _check(data: bytes) -> None:
    if len(data) == 1:
        raise BadAddress(_LENGTH)
    protocol = data[0]
    if protocol > DELEGATED:
        raise BadAddress(_PROTOCOL)
    if protocol == ID:
        _, end = _varint(data, 1, "could not decode: ", f": {_PAYLOAD}")
        if end != len(data):
            raise BadAddress(f"different varint length (v:{end - 1} != p:{len(data) - 1}): {_LENGTH}")
    elif protocol == DELEGATED:
        _, end = _varint(data, 1, "could not decode delegated address namespace: ", f": {_PAYLOAD}")
        _check_length(protocol, len(data) - end)
    else:
        _check_length(protocol, len(data) - 1)


def _check_length(protocol: int, length: int) -> None:
    if protocol == DELEGATED:
        good = length <= _MAX_SUBADDRESS
    else:
        good = length == (_BLS_LENGTH if protocol == BLS else _HASH_LENGTH)
    if not good:
        raise BadAddress(_LENGTH)


def _varint(data: bytes, at: int, before: str, behind: str = "") -> tuple[int, int]:
    """A minimal varint under 2^63, and the offset after it. The error texts are those of go-varint."""
    value = shift = 0
    for end in range(at, len(data)):
        byte = data[end]
        if byte < 0x80:
            if not byte and shift:
                raise BadAddress(f"{before}varint not minimally encoded{behind}")
            return value | byte << shift, end + 1
        if shift == 56:
            raise BadAddress(f"{before}varints larger than uint63 not supported{behind}")
        value |= (byte & 0x7F) << shift
        shift += 7
    raise BadAddress(f"{before}varints malformed, could not reach the end{behind}")


def _decimal(digits: bytes) -> int:
    if len(digits) > _MAX_INT64_TEXT:
        raise BadAddress(_LENGTH)
    if not digits or not _DIGITS.issuperset(digits) or (value := int(digits)) > _MAX_ID:
        raise BadAddress(_PAYLOAD)
    return value


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_HASH_LENGTH).digest()


def _encode32(data: bytes) -> str:
    # 0.3 µs; Python's own base32 takes 5
    text: str = libipld.encode_multibase("b", data)
    return text[1:]


def _decode32(text: bytes) -> bytes:
    if not _BASE32.issuperset(text):
        # Go's decoder drops line ends first, and the text then differs from its own re-encoding
        for at, char in enumerate(text.translate(None, b"\r\n")):
            if char not in _BASE32:
                raise BadAddress(f"illegal base32 data at input byte {at}")
        raise BadAddress("invalid encoding")
    if len(text) % 8 in (1, 3, 6):
        raise BadAddress("invalid encoding")
    decoded = base64.b32decode(text.upper() + b"=" * (-len(text) % 8))
    if _encode32(decoded) != text.decode():
        raise BadAddress("invalid encoding")
    return decoded
