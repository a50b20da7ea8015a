"""Content identifiers in their binary form, and the check that bytes are what their CID says.

A `Cid` *is* its bytes (a `bytes` subclass), so it is a dictionary key and a store key at no cost, and the
type keeps links apart from byte strings. Stores are keyed by multihash, as Lotus does, so that one object
under two codecs is held once. Source: https://github.com/multiformats/cid
"""

from __future__ import annotations

import hashlib
from typing import Final

import libipld

from blockstore.errors import BadCid, HashMismatch

DAG_CBOR: Final = 0x71
RAW: Final = 0x55
DAG_PB: Final = 0x70
IDENTITY: Final = 0x00
SHA2_256: Final = 0x12
BLAKE2B_256: Final = 0xB220

#: version 1, dag-cbor, blake2b-256, 32 bytes: what nearly every Filecoin CID starts with
_CBOR_BLAKE_PREFIX: Final = b"\x01\x71\xa0\xe4\x02\x20"
_RAW_BLAKE_PREFIX: Final = b"\x01\x55\xa0\xe4\x02\x20"
_BLAKE_MULTIHASH: Final = b"\xa0\xe4\x02\x20"
_B32: Final = b"abcdefghijklmnopqrstuvwxyz234567"


def read_uvarint(data: bytes, offset: int) -> tuple[int, int]:
    """The unsigned varint at `offset`, and the offset behind it. Errors: BadCid (cut, or over 9 bytes)."""
    value = shift = 0
    while True:
        if offset >= len(data):
            raise BadCid("varint is cut short")
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
        if shift > 56:
            raise BadCid("varint is longer than 9 bytes")


def uvarint(value: int) -> bytes:
    """`value` (0 or more) as an unsigned varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Cid(bytes):
    """A CID in its binary form (36 bytes and more for v1; 34 for v0). Not validated: see `parse`."""

    __slots__ = ()

    @property
    def codec(self) -> int:
        """The multicodec of the content, e.g. `DAG_CBOR`."""
        if self[:6] == _CBOR_BLAKE_PREFIX:
            return DAG_CBOR
        return cid_parts(self)[0]

    @property
    def multihash(self) -> bytes:
        """The multihash: what stores are keyed by."""
        if self[:2] == b"\x01\x71" or self[:2] == b"\x01\x55":
            return self[2:]
        return cid_parts(self)[1]

    @property
    def is_identity(self) -> bool:
        """Whether the CID holds its content itself."""
        return self.multihash[:1] == b"\x00"

    @property
    def identity_content(self) -> bytes:
        """The content of an identity CID. Errors: BadCid when its length is wrong."""
        mh = self.multihash
        size, start = read_uvarint(mh, 1)
        if len(mh) - start != size:
            raise BadCid(f"identity CID of {len(mh) - start} bytes says {size}")
        return mh[start:]

    def __str__(self) -> str:
        if self[:2] == b"\x12\x20":
            return base58_encode(self)
        # 0.3 µs; Python's own base32 takes 5, and answers hold many CIDs
        text: str = libipld.encode_multibase("b", self)
        return text

    def __repr__(self) -> str:
        return f"Cid({self})"


def cid_parts(data: bytes) -> tuple[int, bytes]:
    """(codec, multihash) of a binary CID. Errors: BadCid."""
    if data[:2] == b"\x12\x20":
        if len(data) != 34:
            raise BadCid(f"CIDv0 of {len(data)} bytes")
        return DAG_PB, bytes(data)
    version, at = read_uvarint(data, 0)
    if version != 1:
        raise BadCid(f"expected 1 as the cid version number, got: {version}")
    codec, at = read_uvarint(data, at)
    end = multihash_end(data, at)
    if end != len(data):
        raise BadCid(f"{len(data) - end} bytes behind the CID")
    return codec, bytes(data[at:])


def multihash_end(data: bytes, offset: int) -> int:
    """Where the multihash that starts at `offset` ends. Errors: BadCid."""
    _, at = read_uvarint(data, offset)
    size, at = read_uvarint(data, at)
    if at + size > len(data):
        raise BadCid(f"multihash says {size} bytes, {len(data) - at} are there")
    return at + size


def read_cid(data: bytes, offset: int = 0) -> tuple[Cid, int]:
    """The CID that starts at `offset`, and the offset behind it. Errors: BadCid."""
    if data[offset : offset + 6] == _CBOR_BLAKE_PREFIX and len(data) >= offset + 38:
        return Cid(data[offset : offset + 38]), offset + 38
    if data[offset : offset + 2] == b"\x12\x20":
        if len(data) < offset + 34:
            raise BadCid("CIDv0 is cut short")
        return Cid(data[offset : offset + 34]), offset + 34
    version, at = read_uvarint(data, offset)
    if version != 1:
        raise BadCid(f"expected 1 as the cid version number, got: {version}")
    _, at = read_uvarint(data, at)
    end = multihash_end(data, at)
    return Cid(data[offset:end]), end


def parse(text: str) -> Cid:
    """A CID from its text form (base32 `b…`, or base58 `Qm…`/`z…`). Errors: BadCid."""
    if len(text) < 2:
        raise BadCid("cid too short")
    if len(text) == 46 and text.startswith("Qm"):
        data = base58_decode(text)
    elif text[0] == "b":
        data = base32_decode(text[1:])
        if data[:6] == _CBOR_BLAKE_PREFIX and len(data) == 38:
            return Cid(data)
    elif text[0] == "z":
        data = base58_decode(text[1:])
    elif text[0] in "fF":
        try:
            data = bytes.fromhex(text[1:])
        except ValueError:
            raise BadCid(f"malformed base16: {text[:80]!r}") from None
    else:
        raise BadCid("selected encoding not supported")
    cid_parts(data)
    return Cid(data)


def cid_of(data: bytes, codec: int = DAG_CBOR) -> Cid:
    """The blake2b-256 CIDv1 of `data`."""
    digest = hashlib.blake2b(data, digest_size=32).digest()
    if codec == DAG_CBOR:
        return Cid(_CBOR_BLAKE_PREFIX + digest)
    if codec == RAW:
        return Cid(_RAW_BLAKE_PREFIX + digest)
    return Cid(b"\x01" + uvarint(codec) + _BLAKE_MULTIHASH + digest)


def multihash_of(data: bytes) -> bytes:
    """The blake2b-256 multihash of `data`."""
    return _BLAKE_MULTIHASH + hashlib.blake2b(data, digest_size=32).digest()


def verify(multihash: bytes, data: bytes) -> None:
    """Errors: HashMismatch when `data` is not what `multihash` names; BadCid for an unknown hash function."""
    if multihash[:4] == _BLAKE_MULTIHASH:
        if hashlib.blake2b(data, digest_size=32).digest() != multihash[4:]:
            raise HashMismatch(multihash, data)
        return
    code, at = read_uvarint(multihash, 0)
    size, at = read_uvarint(multihash, at)
    if code == IDENTITY:
        actual = data
    elif code == SHA2_256:
        actual = hashlib.sha256(data).digest()
    elif 0xB201 <= code <= 0xB240:
        actual = hashlib.blake2b(data, digest_size=code - 0xB200).digest()
    else:
        raise BadCid(f"hash function 0x{code:x} is not known here")
    if len(multihash) - at != size or actual[:size] != multihash[at:]:
        raise HashMismatch(multihash, data)


#: base32 digits (RFC 4648, either case) as those that `int` reads; everything else as what it refuses
_B32_DIGITS: Final = bytes(
    b"0123456789abcdefghijklmnopqrstuv"[place] if (place := _B32.find(bytes((char,)).lower())) >= 0 else 0x21
    for char in range(256)
)


def base32_decode(text: str) -> bytes:
    """The bytes of an unpadded base32 text, whatever its case. Errors: BadCid.

    By way of one big number: ten times faster than `base64.b32decode`, and every request with a CID does it.
    """
    size, spare = divmod(5 * len(text), 8)
    try:
        if spare >= 5:
            raise ValueError("cut short")
        return (int(text.encode("ascii").translate(_B32_DIGITS), 32) >> spare).to_bytes(size, "big")
    except ValueError:
        raise BadCid(f"selected encoding not supported or malformed: {text[:80]!r}") from None


#: characters of a base58 text that are read: its work grows with their square, and a CID of 128 bytes has 176
_LONGEST_B58: Final = 256
_B58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def base58_encode(data: bytes) -> str:
    """Bitcoin's base58, as CIDv0 is written."""
    number = int.from_bytes(data, "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = _B58[digit] + text
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + text


def base58_decode(text: str) -> bytes:
    """The bytes of a base58 text. Errors: BadCid, also for a text of more than 256 characters."""
    if len(text) > _LONGEST_B58:
        raise BadCid(f"{len(text)} characters of base58, of which {_LONGEST_B58} are read")
    number = 0
    for char in text:
        digit = _B58.find(char)
        if digit < 0:
            raise BadCid(f"malformed base58: {text[:80]!r}")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
