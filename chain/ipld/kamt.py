"""KAMT: the map in which an EVM contract keeps its storage. Its key is the 256-bit slot itself.

A node is `[bitfield, pointers]`, the bitfield big endian without leading zeros. A pointer is a bucket of one
entry, `{"v": [[key, value]]}`, or a link, `{"l": [link, length, path]}`. A link skips `length` bits (a multiple of the
bit width) that all keys below it have in common; `path` holds these bits, padded with zeros. Each level takes the next
5 bits of the key, from the top; the 52nd level takes the last bit. Keys and values are 256-bit numbers, big endian
without leading zeros. A slot with value 0 is not written.
Source: ref-fvm `ipld/kamt`, builtin-actors `actors/evm/src/interpreter/system.rs`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from typing import Any, Final

from blockstore.cid import Cid
from chain.errors import BadObject
from chain.ipld.dag_cbor import decode
from chain.ipld.objects import ObjectReader, let_others_go_on
from chain.ipld.tree_nodes import WALK_BATCH, NodeCache, Put, check_link, store_node

BIT_WIDTH: Final = 5
KEY_BITS: Final = 256
_KIND: Final = b"K"

#: (bitfield, pointers); a pointer is (key, value), numbers both, or (link, bits of extension, its path)
Pointer = tuple[int, int] | tuple[Cid, int, int]
Node = tuple[int, list[Pointer]]


def _number(value: object) -> int:
    if type(value) is not bytes or len(value) > 32:
        raise BadObject("a KAMT key or value is a byte string of up to 32")
    return int.from_bytes(value, "big")


def _pointer(value: Any) -> Pointer:
    if type(value) is not dict or len(value) != 1:
        raise BadObject("a KAMT pointer is a map of one entry")
    bucket = value.get("v")
    if type(bucket) is list:
        if len(bucket) != 1 or type(bucket[0]) is not list or len(bucket[0]) != 2:
            raise BadObject("a KAMT bucket is one [key, value]")
        return _number(bucket[0][0]), _number(bucket[0][1])
    link = value.get("l")
    if type(link) is not list or len(link) != 3:
        raise BadObject("a KAMT link is [link, length, path]")
    cid, length, path = link
    if type(cid) is not bytes or type(length) is not int or type(path) is not bytes:
        raise BadObject("a KAMT link is [link, length, path]")
    if not 0 <= length < KEY_BITS or length % BIT_WIDTH:
        raise BadObject(f"a KAMT extension of {length} bits")
    if len(path) != (length + 7) // 8:
        raise BadObject(f"a KAMT extension of {length} bits in {len(path)} bytes")
    return check_link(cid), length, int.from_bytes(path, "big") >> (-length % 8)


def decode_node(data: bytes) -> Node:
    """Errors: BadObject."""
    value = decode(data)
    if type(value) is not list or len(value) != 2 or type(value[0]) is not bytes or type(value[1]) is not list:
        raise BadObject("a KAMT node is [byte string, list]")
    bits = int.from_bytes(value[0], "big")
    if bits >> (1 << BIT_WIDTH) or bits.bit_count() != len(value[1]):
        raise BadObject("KAMT node was malformed: bitfield and pointers do not agree")
    return bits, [_pointer(pointer) for pointer in value[1]]


class Kamt:
    """A reader of one contract's storage. `await kamt` reads the root now."""

    __slots__ = ("_cache", "reader", "root")

    def __init__(self, reader: ObjectReader, root: bytes, cache: NodeCache | None = None) -> None:
        self.reader = reader
        self.root = check_link(root)
        self._cache = cache

    @classmethod
    def load(cls, reader: ObjectReader, root: bytes, cache: NodeCache | None = None) -> Kamt:
        """The storage under `root`. Reads nothing yet. Errors: BadObject."""
        return cls(reader, root, cache)

    def __await__(self) -> Generator[Any, None, Kamt]:
        yield from self._node(self.root).__await__()
        return self

    async def _node(self, cid: bytes) -> Node:
        cache = self._cache
        if cache is None:
            return decode_node(await self.reader.get(cid))
        key = _KIND + cid
        node: Node | None = cache.get(key)
        if node is None:
            data = await self.reader.get(cid)
            node = decode_node(data)
            cache.put(key, node, len(data))
        return node

    async def get(self, key: int | bytes) -> int:
        """The value of a slot (a number, or 32 bytes); 0 for a slot that is not set. One read a level.

        Errors: BadObject (also a key of more than 256 bits), Missing.
        """
        slot = int.from_bytes(key, "big") if isinstance(key, bytes) else key
        if slot < 0 or slot >> KEY_BITS:
            raise BadObject("a KAMT key has 256 bits")
        left = KEY_BITS
        cid = self.root
        while left:
            bits, pointers = await self._node(cid)
            width = min(BIT_WIDTH, left)
            left -= width
            place = slot >> left & ((1 << width) - 1)
            if not bits >> place & 1:
                return 0
            pointer = pointers[(bits & ((1 << place) - 1)).bit_count()]
            if len(pointer) == 2:
                return pointer[1] if pointer[0] == slot else 0
            cid, length, path = pointer
            if length >= left:
                raise BadObject("a KAMT extension that passes the end of the key")
            left -= length
            if slot >> left & ((1 << length) - 1) != path:
                return 0
        raise BadObject("attempted to traverse KAMT beyond max-depth")

    async def items(self) -> AsyncIterator[tuple[int, int]]:
        """Every (slot, value) that is set, ascending by slot. Memory is bounded by the depth and `WALK_BATCH`.
        Errors: BadObject, Missing."""
        # one list a level, the next pointer last; with each pointer the number of key bits that are left below it
        stack: list[list[tuple[int, Pointer]]] = [_behind(decode_node(await self.reader.get(self.root)), KEY_BITS)]
        while stack:
            frame = stack[-1]
            while frame and len(frame[-1][1]) == 2:
                key, value = frame.pop()[1][:2]
                yield int(key), value
            if not frame:
                stack.pop()
                continue
            run: list[tuple[int, Cid]] = []
            while frame and len(run) < WALK_BATCH:
                left, pointer = frame[-1]
                if len(pointer) == 2:
                    break
                cid, length, _ = pointer
                if length >= left:
                    raise BadObject("a KAMT extension that passes the end of the key")
                run.append((left - length, cid))
                frame.pop()
            found = await self.reader.get_many([cid for _, cid in run])
            await let_others_go_on(self.reader)
            below: list[tuple[int, Pointer]] = []
            for (left, _), data in zip(reversed(run), reversed(found), strict=True):
                below += _behind(decode_node(data), left)
            stack.append(below)

    def __aiter__(self) -> AsyncIterator[tuple[int, int]]:
        return self.items()


def _behind(node: Node, left: int) -> list[tuple[int, Pointer]]:
    below = left - min(BIT_WIDTH, left)
    return [(below, pointer) for pointer in reversed(node[1])]


async def diff(a: Kamt, b: Kamt) -> AsyncIterator[tuple[int, int, int]]:
    """(slot, value in `a`, value in `b`) of every slot that differs, ascending. 0: the slot is not set.

    Skips equal subtrees: reads only nodes on the way to a difference. Errors: BadObject, Missing.
    """
    # the pairs of pointers that are left, the next one last, each with the number of key bits below it
    stack: list[tuple[int, Pointer | None, Pointer | None]] = [(KEY_BITS, (a.root, 0, 0), (b.root, 0, 0))]
    while stack:
        left, one, other = stack.pop()
        if one == other:
            continue
        if _is_slot(one) and _is_slot(other):
            for slot, old, new in _slots(one, other):
                yield slot, old, new
            continue
        if not left:
            raise BadObject("attempted to traverse KAMT beyond max-depth")
        ones, others = await _below(a, one, left), await _below(b, other, left)
        below = left - min(BIT_WIDTH, left)
        stack += [(below, ones.get(at), others.get(at)) for at in sorted({*ones, *others}, reverse=True)]


def _is_slot(pointer: Pointer | None) -> bool:
    return pointer is None or len(pointer) == 2


def _slots(one: Pointer | None, other: Pointer | None) -> list[tuple[int, int, int]]:
    """The differences of two slots, or of one and none."""
    found: dict[int, list[int]] = {}
    for side, pointer in enumerate((one, other)):
        if pointer is not None:
            found.setdefault(int(pointer[0]), [0, 0])[side] = pointer[1]
    return [(slot, old, new) for slot, (old, new) in sorted(found.items())]


async def _below(kamt: Kamt, pointer: Pointer | None, left: int) -> dict[int, Pointer]:
    """The pointers below one by their place, as if no link skipped a level and each slot had a node of its own."""
    if pointer is None:
        return {}
    width = min(BIT_WIDTH, left)
    if len(pointer) == 2:
        return {pointer[0] >> (left - width) & ((1 << width) - 1): pointer}
    cid, length, path = pointer
    if length:
        if length >= left:
            raise BadObject("a KAMT extension that passes the end of the key")
        length -= BIT_WIDTH
        return {path >> length: (cid, length, path & ((1 << length) - 1))}
    bits, pointers = await kamt._node(cid)
    return dict(zip((at for at in range(1 << BIT_WIDTH) if bits >> at & 1), pointers, strict=True))


# --- writing -------------------------------------------------------------------------------------------------


def _octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def kamt_build(put: Put, slots: Mapping[int, int]) -> Cid:
    """Write a contract's storage and return its root. Skips slots whose value is 0. Errors: BadObject."""
    for key, value in slots.items():
        if key < 0 or value < 0 or key >> KEY_BITS or value >> KEY_BITS:
            raise BadObject("a KAMT holds numbers of 256 bits")
    return store_node(put, _build(put, sorted(pair for pair in slots.items() if pair[1]), KEY_BITS))


def _build(put: Put, pairs: Sequence[tuple[int, int]], left: int) -> list[Any]:
    width = min(BIT_WIDTH, left)
    left -= width
    places: dict[int, list[tuple[int, int]]] = {}
    for pair in pairs:
        places.setdefault(pair[0] >> left & ((1 << width) - 1), []).append(pair)
    bits = 0
    pointers: list[dict[str, Any]] = []
    for place, found in sorted(places.items()):
        bits |= 1 << place
        if len(found) == 1:
            key, value = found[0]
            pointers.append({"v": [[_octets(key), _octets(value)]]})
            continue
        # the keys are sorted: the bits that the first and the last have in common, all have
        apart = (found[0][0] ^ found[-1][0]).bit_length()
        length = (left - apart) // BIT_WIDTH * BIT_WIDTH
        below = left - length
        path = found[0][0] >> below & ((1 << length) - 1)
        octets = (path << (-length % 8)).to_bytes((length + 7) // 8, "big")
        pointers.append({"l": [store_node(put, _build(put, found, below)), length, octets]})
    return [_octets(bits), pointers]
