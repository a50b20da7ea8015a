"""DAG-CBOR: fast typed decoding, exact link extraction, canonical encoding.

Two libraries do the work. `libipld` decodes an object in about 2 µs, but returns links as plain byte strings: use it
where a schema says which field is a link. `cbor2` with a tag hook takes about 9 µs and keeps links apart: walks use it.
A byte string that only *contains* an encoded link, as message parameters can, must never be taken for a link.
"""

from __future__ import annotations

from typing import Any, Final

import cbor2
import libipld

from blockstore.cid import Cid
from blockstore.errors import BadCid
from chain.errors import BadObject

_LINK_TAG: Final = 42
#: how an encoded link starts: tag 42, then a byte string with a length of 1, 2 or 4 bytes
_LINK_HEADS: Final = (b"\xd8\x2a\x58", b"\xd8\x2a\x59", b"\xd8\x2a\x5a")
_MAX_DEPTH: Final = 256


def decode(data: bytes) -> Any:
    """The value of one DAG-CBOR object: int, bytes, str, bool, None, float, list, dict.

    Links are `bytes` (the binary CID): wrap them with `Cid` where the schema has a link.
    Errors: BadObject (truncated, trailing bytes, unsorted map keys, bad UTF-8).
    """
    try:
        return libipld.decode_dag_cbor(data)
    except (ValueError, RecursionError) as error:
        raise BadObject(str(error)) from None


def decode_linked(data: bytes) -> Any:
    """As `decode`, with links as `Cid`, apart from byte strings: slower, and needs no schema. Errors: BadObject."""
    return _linked(data, [])


def links(data: bytes) -> list[Cid]:
    """All links of a DAG-CBOR object, in order, with duplicates. Errors: BadObject."""
    found: list[Cid] = []
    if any(head in data for head in _LINK_HEADS) or b"\xd8\x2a" in data:
        _linked(data, found)
    return found


def _linked(data: bytes, found: list[Cid]) -> Any:
    """The object with its links as `Cid`; they go into `found` too. Errors: BadObject."""
    decode(data)  # rejects trailing bytes and bad forms, which cbor2 accepts

    def hook(tag: cbor2.CBORTag, *_: object) -> Cid:
        value = tag.value
        if tag.tag != _LINK_TAG or type(value) is not bytes or value[:1] != b"\0":
            raise BadObject("a tag that is not a link")
        found.append(Cid(value[1:]))
        return found[-1]

    try:
        return cbor2.loads(data, tag_hook=hook, max_depth=_MAX_DEPTH)
    except BadObject:
        raise
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, BadCid) as error:
        raise BadObject(str(error)) from None


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major << 5 | number,))
    if number < 0x100:
        return bytes((major << 5 | 24, number))
    if number < 0x10000:
        return bytes((major << 5 | 25,)) + number.to_bytes(2, "big")
    if number < 0x100000000:
        return bytes((major << 5 | 26,)) + number.to_bytes(4, "big")
    if number < 1 << 64:
        return bytes((major << 5 | 27,)) + number.to_bytes(8, "big")
    raise BadObject(f"integer {number} does not fit in 64 bits")


def _encode(value: object, out: list[bytes]) -> None:
    if value is None:
        out.append(b"\xf6")
    elif value is True:
        out.append(b"\xf5")
    elif value is False:
        out.append(b"\xf4")
    elif isinstance(value, int):
        out.append(_head(0, value) if value >= 0 else _head(1, -1 - value))
    elif isinstance(value, Cid):
        out.append(b"\xd8\x2a" + _head(2, len(value) + 1) + b"\0" + value)
    elif isinstance(value, bytes | bytearray | memoryview):
        out.append(_head(2, len(value)))
        out.append(bytes(value))
    elif isinstance(value, str):
        text = value.encode()
        out.append(_head(3, len(text)))
        out.append(text)
    elif isinstance(value, list | tuple):
        out.append(_head(4, len(value)))
        for item in value:
            _encode(item, out)
    elif isinstance(value, dict):
        pairs = sorted(((key.encode(), item) for key, item in value.items()), key=lambda p: (len(p[0]), p[0]))
        out.append(_head(5, len(pairs)))
        for key, item in pairs:
            out.append(_head(3, len(key)))
            out.append(key)
            _encode(item, out)
    else:
        raise BadObject(f"{type(value).__name__} has no DAG-CBOR form")


def encode(value: object) -> bytes:
    """Canonical DAG-CBOR: `Cid` becomes a link, map keys are sorted. Errors: BadObject.

    Only for objects that this project makes itself (simulated chains, tipset keys). Stored objects are never
    re-encoded.
    """
    out: list[bytes] = []
    _encode(value, out)
    return b"".join(out)
