"""A CBOR reader for parameters: it keeps links apart from byte strings and stops where the value ends.

Message parameters are whatever their sender wrote, so the fast decoder is not for them: it takes a byte string
for a link, and refuses bytes behind the value, which Lotus' reader never looks at. Source: cbor-gen (minimal
heads, limits); maps and floats are in no parameter type and are refused.
"""

from __future__ import annotations

from typing import Any, Final

from blockstore.cid import Cid, cid_parts
from blockstore.errors import BadCid
from chain.actors.leaves import Octets
from chain.errors import BadObject

_MAX_DEPTH: Final = 64
_MAX_LENGTH: Final = 2 << 20


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    if at >= len(data):
        raise BadObject("unexpected EOF" if at else "EOF")
    major, low = data[at] >> 5, data[at] & 31
    at += 1
    if low < 24:
        return major, low, at
    if low > 27:
        raise BadObject(f"invalid header: ({major << 5 | low:x})")
    size = 1 << (low - 24)
    if at + size > len(data):
        raise BadObject("unexpected EOF")
    number = int.from_bytes(data[at : at + size], "big")
    if number < (24, 0x100, 0x10000, 0x100000000)[low - 24]:
        raise BadObject(f"cbor input was not canonical (lval {low} with value {number})")
    return major, number, at + size


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > _MAX_DEPTH:
        raise BadObject("cbor input is nested too deeply")
    major, number, at = _head(data, at)
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major in (2, 3):
        if number > _MAX_LENGTH:
            raise BadObject(f"byte array too large ({number})")
        if at + number > len(data):
            raise BadObject("unexpected EOF")
        part = data[at : at + number]
        if major == 2:
            return Octets(part), at + number
        try:
            return part.decode(), at + number
        except UnicodeDecodeError:
            raise BadObject("string is not valid UTF-8") from None
    if major == 4:
        if number > len(data) - at:
            raise BadObject("unexpected EOF")
        items = []
        for _ in range(number):
            item, at = _read(data, at, depth + 1)
            items.append(item)
        return items, at
    if major == 6 and number == 42:
        item, at = _read(data, at, depth + 1)
        if type(item) is not Octets or item[:1] != b"\0":
            raise BadObject("invalid link")
        try:
            cid_parts(item[1:])
        except BadCid as error:
            raise BadObject(str(error)) from None
        return Cid(item[1:]), at
    if major == 7 and number in (20, 21, 22) and data[at - 1] & 31 == number:
        return (False, True, None)[number - 20], at
    raise BadObject(f"cbor major type {major} has no place in parameters")


def read_cbor(data: bytes) -> Any:
    """The value at the start of `data`: links as `Cid`, byte strings as `Octets`. Errors: BadObject."""
    return _read(data, 0, 0)[0]
