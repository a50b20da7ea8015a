"""Maps and arrays of typed values, as actor states hold them.

Keys of maps: an address is its bytes, an ID address that counts as a number its payload, a number its varint.
Source: go-state-types `abi/keyer.go`, `builtin/v*/util/adt`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from blockstore.cid import Cid, read_uvarint, uvarint
from blockstore.errors import BadCid
from chain.actors.leaves import Type
from chain.address import Address
from chain.errors import BadObject, ChainError
from chain.ipld.amt import Amt
from chain.ipld.hamt import Hamt
from chain.ipld.objects import ObjectReader
from chain.ipld.tree_nodes import NodeCache

#: the bit width of most maps in actor states
HAMT_BITS: Final = 5
#: values that are decoded together, at most
_PART: Final = 64


class NotAnId(ChainError, ValueError):
    """A robust address where an ID address is needed."""

    def __init__(self) -> None:
        super().__init__("can only look up ID addresses")


def id_key(address: Address) -> bytes:
    """The key of maps by actor ID. Errors: NotAnId."""
    if address[:1] != b"\0":
        raise NotAnId
    return bytes(address[1:])


def uint_key(number: int) -> bytes:
    """The key of maps by number."""
    return uvarint(number)


def read_uint_key(key: bytes) -> int:
    """The number that a key is. Errors: BadObject."""
    try:
        number, end = read_uvarint(key, 0)
    except BadCid as error:
        raise BadObject(f"map key is no varint: {error}") from None
    if end != len(key):
        raise BadObject("map key has bytes behind its varint")
    return number


def read_int_key(key: bytes) -> int:
    """The signed number that a key is (zigzag). Errors: BadObject."""
    number = read_uint_key(key)
    return number >> 1 ^ -(number & 1)


async def map_get(
    reader: ObjectReader, root: bytes, key: bytes, of: Type, bits: int = HAMT_BITS, cache: NodeCache | None = None
) -> Any:
    """The value under `key`, or None. `cache`: for decoded nodes. Errors: Missing, BadObject."""
    found = await Hamt.load(reader, Cid(root), bits, cache).get(key)
    return None if found is None else of.decode(found)


async def map_parts(
    reader: ObjectReader, root: bytes, of: Type, bits: int = HAMT_BITS
) -> AsyncIterator[list[tuple[bytes, Any]]]:
    """Every (key, value), in the order of the keys' hashes, some at a time. Errors: Missing, BadObject."""
    tree = await Hamt.load(reader, Cid(root), bit_width=bits)
    async for part in tree.parts():
        for at in range(0, len(part), _PART):
            yield [(key, of.decode(item)) for key, item in part[at : at + _PART]]


async def array_get(reader: ObjectReader, root: bytes, at: int, of: Type, bits: int) -> Any:
    """The value at an index, or None. Errors: Missing, BadObject."""
    tree = await Amt.load(reader, Cid(root), version=3, bit_width=bits)
    found = await tree.get(at)
    return None if found is None else of.decode(found)


async def array_items(reader: ObjectReader, root: bytes, of: Type, bits: int) -> AsyncIterator[tuple[int, Any]]:
    """Every (index, value), rising; each is decoded when it is asked for. Errors: Missing, BadObject."""
    tree = await Amt.load(reader, Cid(root), version=3, bit_width=bits)
    async for part in tree.parts():
        for at, item in part:
            yield at, of.decode(item)


async def array_parts(reader: ObjectReader, root: bytes, of: Type, bits: int) -> AsyncIterator[list[tuple[int, Any]]]:
    """As `array_items`, some at a time."""
    tree = await Amt.load(reader, Cid(root), version=3, bit_width=bits)
    async for part in tree.parts():
        for first in range(0, len(part), _PART):
            yield [(at, of.decode(item)) for at, item in part[first : first + _PART]]


async def array_count(reader: ObjectReader, root: bytes, bits: int) -> int:
    """The number of values, from an array's root. Errors: Missing, BadObject."""
    return (await Amt.load(reader, Cid(root), version=3, bit_width=bits)).count


class _Ahead:
    """An ObjectReader that holds some objects."""

    def __init__(self, reader: ObjectReader, held: dict[bytes, bytes]) -> None:
        self._reader = reader
        self._held = held

    async def get(self, cid: bytes) -> bytes:
        found = self._held.get(cid)
        return await self._reader.get(cid) if found is None else found

    async def get_many(self, cids: Sequence[bytes]) -> list[bytes]:
        if all(cid in self._held for cid in cids):
            return [self._held[cid] for cid in cids]
        return await self._reader.get_many(cids)


async def read_ahead(reader: ObjectReader, cids: Sequence[bytes]) -> ObjectReader:
    """`reader`, with these few small objects already read in one round trip. Errors: Missing."""
    wanted = list(dict.fromkeys(bytes(cid) for cid in cids))
    return _Ahead(reader, dict(zip(wanted, await reader.get_many(wanted), strict=True)))
