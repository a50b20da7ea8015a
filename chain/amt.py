"""AMTs: arrays as trees of objects. Source: the IPLD specification "AMT"; go-amt-ipld v2 (here version 0) and v4 (3).

A node is [bitmap, links, values]. Version 0 roots are [height, count, node] with 8 children a node; version 3
roots are [bit width, height, count, node]. Walks go level by level: what one level needs is one read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from blockstore.cid import Cid, cid_of
from chain.dagcbor import decode, encode
from chain.errors import BadObject
from chain.objects import ObjectReader

#: nodes read at a time by a walk
_CHUNK: Final = 256
_MAX_HEIGHT: Final = 64

Put = Callable[[Cid, bytes], None]


class Amt:
    """A read-only AMT. Values are decoded DAG-CBOR (links in them come as bytes)."""

    __slots__ = ("_reader", "_root", "bit_width", "count", "height")

    def __init__(self, reader: ObjectReader, bit_width: int, height: int, count: int, node: Any) -> None:
        self._reader = reader
        self._root = node
        self.bit_width = bit_width
        self.height = height
        self.count = count

    @classmethod
    async def load(cls, reader: ObjectReader, root: bytes, version: int = 3, bit_width: int = 3) -> Amt:
        """`bit_width` is what the schema says and the root must have. Errors: Missing, BadObject."""
        return cls.decode(reader, await reader.get(root), version, bit_width)

    @classmethod
    def decode(cls, reader: ObjectReader, raw: bytes, version: int = 3, bit_width: int = 3) -> Amt:
        """From the root's bytes. Errors: BadObject."""
        fields = decode(raw)
        if not isinstance(fields, list) or len(fields) != (4 if version else 3):
            raise BadObject("not an AMT root")
        if version:
            if fields[0] != bit_width:
                raise BadObject(f"amt bitwidth mismatch: {fields[0]} is not {bit_width}")
            fields = fields[1:]
        height, count, node = fields
        if type(height) is not int or type(count) is not int or height < 0 or count < 0:
            raise BadObject("not an AMT root")
        if height * bit_width >= _MAX_HEIGHT:
            raise BadObject(f"AMT of height {height}")
        return cls(reader, bit_width, height, count, _checked(node, bit_width, height))

    async def get(self, index: int) -> Any | None:
        """The value at `index`, or None. Errors: Missing, BadObject."""
        if index < 0 or index >> (self.bit_width * (self.height + 1)):
            return None
        node, height = self._root, self.height
        while True:
            slot = index >> (self.bit_width * height) & ((1 << self.bit_width) - 1)
            bitmap, links, values = node
            if not bitmap[slot >> 3] & 1 << (slot & 7):
                return None
            place = _rank(bitmap, slot)
            if height == 0:
                return values[place]
            height -= 1
            node = _checked(decode(await self._reader.get(links[place])), self.bit_width, height)

    async def items(self, start: int = 0) -> AsyncIterator[tuple[int, Any]]:
        """(index, value) in order, from index `start` on. Errors: Missing, BadObject."""
        stack: list[tuple[int, list[tuple[int, Any]]]] = [(self.height, [(0, self._root)])]
        while stack:
            height, waiting = stack.pop()
            if height == 0:
                for base, node in await self._nodes(waiting, height):
                    for slot, value in zip(_slots(node[0]), node[2], strict=True):
                        if base + slot >= start:
                            yield base + slot, value
                continue
            if len(waiting) > _CHUNK:
                stack.append((height, waiting[_CHUNK:]))
                waiting = waiting[:_CHUNK]
            step = 1 << (self.bit_width * height)
            children: list[tuple[int, Any]] = []
            for base, node in await self._nodes(waiting, height):
                for slot, link in zip(_slots(node[0]), node[1], strict=True):
                    at = base + slot * step
                    if at + step > start:
                        children.append((at, link))
            for at in range((len(children) - 1) // _CHUNK * _CHUNK, -1, -_CHUNK):
                stack.append((height - 1, children[at : at + _CHUNK]))

    async def values(self) -> list[Any]:
        """Every value in order: for arrays known to be small."""
        return [value async for _, value in self.items()]

    async def _nodes(self, waiting: list[tuple[int, Any]], height: int) -> list[tuple[int, Any]]:
        """Nodes by base index; links are read, all at once, a node that is there already is taken as it is."""
        links = [node for _, node in waiting if type(node) is bytes]
        if not links:
            return waiting
        raws = iter(await self._reader.get_many(links))
        return [
            (base, _checked(decode(next(raws)), self.bit_width, height) if type(node) is bytes else node)
            for base, node in waiting
        ]


def _checked(node: Any, bit_width: int, height: int) -> Any:
    """The node, if it is one: a bitmap of the right size with one link or value a bit."""
    if (
        not isinstance(node, list)
        or len(node) != 3
        or type(node[0]) is not bytes
        or len(node[0]) != max(1, 1 << bit_width >> 3)
        or not isinstance(node[1], list)
        or not isinstance(node[2], list)
    ):
        raise BadObject("not an AMT node")
    bits = int.from_bytes(node[0], "little").bit_count()
    if len(node[1]) != (bits if height else 0) or len(node[2]) != (0 if height else bits):
        raise BadObject("an AMT node whose bitmap does not fit its content")
    if height and not all(type(link) is bytes for link in node[1]):
        raise BadObject("an AMT node with something else than links")
    return node


def _slots(bitmap: bytes) -> list[int]:
    return [8 * at + bit for at, byte in enumerate(bitmap) for bit in range(8) if byte & 1 << bit]


def _rank(bitmap: bytes, slot: int) -> int:
    return (int.from_bytes(bitmap, "little") & ((1 << slot) - 1)).bit_count()


def amt_build(put: Put, values: Sequence[Any] | dict[int, Any], version: int = 3, bit_width: int = 3) -> Cid:
    """Write an AMT of `values` (a list, or by index) with `put`; the root's CID. For chains made here."""
    items = dict(enumerate(values)) if not isinstance(values, dict) else values
    height = 0
    while items and max(items) >> (bit_width * (height + 1)):
        height += 1
    node = _build(put, sorted(items.items()), bit_width, height)
    root = [height, len(items), node]
    raw = encode([bit_width, *root] if version else root)
    cid = cid_of(raw)
    put(cid, raw)
    return cid


def _build(put: Put, items: list[tuple[int, Any]], bit_width: int, height: int) -> list[Any]:
    bits = 0
    links: list[Any] = []
    values: list[Any] = []
    shift = bit_width * height
    at = 0
    while at < len(items):
        slot = items[at][0] >> shift
        end = at
        while end < len(items) and items[end][0] >> shift == slot:
            end += 1
        bits |= 1 << slot
        if height == 0:
            values.append(items[at][1])
        else:
            part = [(index - (slot << shift), value) for index, value in items[at:end]]
            raw = encode(_build(put, part, bit_width, height - 1))
            cid = cid_of(raw)
            put(cid, raw)
            links.append(cid)
        at = end
    return [bits.to_bytes(max(1, 1 << bit_width >> 3), "little"), links, values]
