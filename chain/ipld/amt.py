"""AMT: the sparse array in which Filecoin keeps receipts, message lists, sectors and events.

A root is `[bit width, height, count, node]` (version 3: actors 3 and later), or `[height, count, node]` with
width 8 (version 0: block messages, receipts, everything older). A node is `[bitmap, links, values]`: the
bitmap says, least significant bit first, which of the 2^bit_width places are taken; nodes at height 0 hold
values, others links. The height is the least that holds the largest index.
Source: go-amt-ipld v2 (version 0) and v4 (version 3), ref-fvm `ipld/amt`.

Values are decoded, links in them are bytes (see `chain.ipld.tree_nodes`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from blockstore.cid import Cid
from chain.errors import BadObject
from chain.ipld.dag_cbor import decode
from chain.ipld.objects import ObjectReader, let_others_go_on
from chain.ipld.tree_nodes import WALK_BATCH, NodeCache, Put, check_link, store_node

T = TypeVar("T")

#: the largest index: 2^64 - 2
MAX_INDEX: Final = (1 << 64) - 2
_MAX_BIT_WIDTH: Final = 18
_MAX_HEIGHT: Final = 64
_KIND: Final = b"A"

#: (bitmap, items); items are links (bytes) above height 0, values at it
Node = tuple[int, list[Any]]


def check_node(value: object, bit_width: int, height: int) -> Node:
    """A decoded node. Errors: BadObject."""
    if type(value) is not list or len(value) != 3:
        raise BadObject("an AMT node is a list of 3")
    bitmap, links, values = value
    if type(bitmap) is not bytes or type(links) is not list or type(values) is not list:
        raise BadObject("an AMT node is [byte string, list, list]")
    if len(bitmap) != ((1 << bit_width) + 7) // 8:
        raise BadObject(f"expected bitfield to be {((1 << bit_width) + 7) // 8} bytes long, found {len(bitmap)}")
    items, others = (links, values) if height else (values, links)
    if others:
        raise BadObject(f"an AMT node at height {height} with {'values' if height else 'links'}")
    bits = int.from_bytes(bitmap, "little")
    if bits >> (1 << bit_width) or bits.bit_count() != len(items):
        raise BadObject("AMT node was malformed: bitmap and items do not agree")
    if height:
        for link in items:
            if type(link) is not bytes:
                raise BadObject("an AMT link is no link")
    return bits, items


class Amt:
    """A reader of one array. `await amt` reads the root now and sets `count` and `height`."""

    __slots__ = ("_cache", "_node", "bit_width", "count", "height", "reader", "root", "version")

    def __init__(
        self, reader: ObjectReader, root: bytes, version: int = 3, bit_width: int = 3, cache: NodeCache | None = None
    ) -> None:
        if version not in (0, 3) or not 1 <= bit_width <= _MAX_BIT_WIDTH:
            raise BadObject(f"an AMT of version {version} and bit width {bit_width}")
        self.reader = reader
        self.root = check_link(root)
        self.version = version
        self.bit_width = bit_width if version else 3
        self._cache = cache
        self._node: Node | None = None
        self.count = -1
        self.height = -1

    @classmethod
    def load(
        cls, reader: ObjectReader, root: bytes, version: int = 3, bit_width: int = 3, cache: NodeCache | None = None
    ) -> Amt:
        """The array under `root`. Reads nothing yet. Errors: BadObject."""
        return cls(reader, root, version, bit_width, cache)

    def __await__(self) -> Generator[Any, None, Amt]:
        yield from self.root_node().__await__()
        return self

    async def root_node(self) -> Node:
        """The top node. Sets `count` and `height`. Errors: BadObject, Missing."""
        if self._node is None:
            value = decode(await self.reader.get(self.root))
            if type(value) is not list or len(value) != (4 if self.version else 3):
                raise BadObject(f"an AMT root of version {self.version} is a list of {4 if self.version else 3}")
            numbers = value[:-1]
            if any(type(number) is not int or not 0 <= number < 1 << 64 for number in numbers):
                raise BadObject("an AMT root's bit width, height and count are numbers")
            if self.version and numbers[0] != self.bit_width:
                raise BadObject(f"expected bitwidth {self.bit_width} but AMT has bitwidth {numbers[0]}")
            height, count = numbers[-2:]
            if height > _MAX_HEIGHT // self.bit_width:
                raise BadObject(f"an AMT of height {height}")
            node = check_node(value[-1], self.bit_width, height)
            self.height, self.count, self._node = height, count, node
        return self._node

    async def _read(self, cid: bytes, height: int) -> Node:
        cache = self._cache
        if cache is None:
            return check_node(decode(await self.reader.get(cid)), self.bit_width, height)
        key = b"%b%c%c%b" % (_KIND, self.bit_width, height, cid)
        node: Node | None = cache.get(key)
        if node is None:
            data = await self.reader.get(cid)
            node = check_node(decode(data), self.bit_width, height)
            cache.put(key, node, len(data))
        return node

    async def _read_many(self, cids: Sequence[bytes], height: int) -> list[Node]:
        found = await self.reader.get_many(cids)
        return [check_node(decode(data), self.bit_width, height) for data in found]

    async def get(self, index: int, default: Any = None) -> Any:
        """The value at an index. One read a level. Errors: BadObject, Missing."""
        bits, items = await self.root_node()
        height, width = self.height, self.bit_width
        if index < 0 or index >> width * (height + 1):
            return default
        while True:
            place = index >> width * height & ((1 << width) - 1)
            if not bits >> place & 1:
                return default
            item = items[(bits & ((1 << place) - 1)).bit_count()]
            if not height:
                return item
            height -= 1
            bits, items = await self._read(check_link(item), height)

    async def get_many(self, indices: Sequence[int], default: Any = None) -> list[Any]:
        """The values at many indices, in their order. One round trip a level. Errors: BadObject, Missing."""
        out = [default] * len(indices)
        node = await self.root_node()
        height, width = self.height, self.bit_width
        top = 1 << width * (height + 1)
        level: list[tuple[Node, list[int]]] = [(node, [at for at, i in enumerate(indices) if 0 <= i < top])]
        while True:
            below: dict[Cid, list[int]] = {}
            for (bits, items), wanted in level:
                for at in wanted:
                    place = indices[at] >> width * height & ((1 << width) - 1)
                    if not bits >> place & 1:
                        continue
                    item = items[(bits & ((1 << place) - 1)).bit_count()]
                    if height:
                        below.setdefault(check_link(item), []).append(at)
                    else:
                        out[at] = item
            if not below:
                return out
            height -= 1
            level = list(zip(await self._read_many(list(below), height), below.values(), strict=True))

    async def items(self, start: int = 0) -> AsyncIterator[tuple[int, Any]]:
        """Every (index, value) from `start` on, ascending. Memory is bounded by the height and `WALK_BATCH`.
        Errors: BadObject, Missing."""
        async for part in self.parts(start):
            for entry in part:
                yield entry

    async def parts(self, start: int = 0) -> AsyncIterator[list[tuple[int, Any]]]:
        """As `items`, the entries of neighbouring leaves together: a generator takes its time for each yield."""
        width = self.bit_width
        node = await self.root_node()
        if start < 0:
            start = 0
        height = self.height
        # one entry a level: (index of the first place under it, item), the next one last
        stack: list[list[tuple[int, Any]]] = [_places(node, 0, width * height, start)]
        while stack:
            frame = stack[-1]
            if not frame:
                stack.pop()
                height += 1
            elif not height:
                yield frame[::-1]
                frame.clear()
            else:
                run = [frame.pop() for _ in range(min(len(frame), WALK_BATCH))]
                height -= 1
                nodes = await self._read_many([check_link(link) for _, link in run], height)
                await let_others_go_on(self.reader)
                below: list[tuple[int, Any]] = []
                for (base, _), found in zip(reversed(run), reversed(nodes), strict=True):
                    below += _places(found, base, width * height, start)
                stack.append(below)

    async def leaves(self, known: Callable[[bytes], T | None]) -> AsyncIterator[tuple[bytes, T | None, list[Any]]]:
        """Every leaf in order: its CID, what is known of it, and its values, ascending by index.

        A leaf of which `known` tells something is not read, and has no values here. Errors: BadObject, Missing.
        """
        _, items = await self.root_node()
        height = self.height
        if not height:
            found = known(self.root)
            yield self.root, found, [] if found is not None else items
            return
        stack: list[list[bytes]] = [[check_link(link) for link in reversed(items)]]
        while stack:
            frame = stack[-1]
            if not frame:
                stack.pop()
                height += 1
                continue
            run = [frame.pop() for _ in range(min(len(frame), WALK_BATCH))]
            await let_others_go_on(self.reader)
            if height > 1:
                height -= 1
                nodes = await self._read_many(run, height)
                stack.append([check_link(link) for _, links in reversed(nodes) for link in reversed(links)])
                continue
            told = [known(cid) for cid in run]
            read = iter(await self._read_many([cid for cid, one in zip(run, told, strict=True) if one is None], 0))
            for cid, one in zip(run, told, strict=True):
                yield cid, one, next(read)[1] if one is None else []

    def __aiter__(self) -> AsyncIterator[tuple[int, Any]]:
        return self.items()


def _places(node: Node, base: int, shift: int, start: int) -> list[tuple[int, Any]]:
    """(first index, item) of the occupied places that reach `start` or beyond, the last one first."""
    bits, items = node
    found = []
    at = len(items)
    while at:
        at -= 1
        place = bits.bit_length() - 1
        bits ^= 1 << place
        first = base + (place << shift)
        if first + (1 << shift) <= start:
            break
        found.append((first, items[at]))
    return found


async def diff(a: Amt, b: Amt) -> AsyncIterator[tuple[int, Any, Any]]:
    """(index, value in `a`, value in `b`) of every index whose value differs, in no order. None: no value.

    Skips equal subtrees. Errors: BadObject (also when the bit widths differ), Missing.
    """
    if a.bit_width != b.bit_width:
        raise BadObject("AMTs of different bit widths have no diff")
    if a.root == b.root:
        return
    left, right = await a.root_node(), await b.root_node()
    if a.height > b.height:
        async for index, old, new in diff(b, a):
            yield index, new, old
        return
    width = a.bit_width
    # the lower one is the subtree at place 0 of what would be its parents
    waiting: list[tuple[int, int, Node | Cid | None, Node | Cid | None]] = [(b.height, 0, left, right)]
    while waiting:
        batch = [waiting.pop() for _ in range(min(len(waiting), WALK_BATCH))]
        lefts = await _resolve(a, batch, 2)
        rights = await _resolve(b, batch, 3)
        await let_others_go_on(a.reader)
        for (height, base, _, _), old, new in zip(batch, lefts, rights, strict=True):
            lift = height > a.height and base == 0
            for place in range(1 << width):
                item = _item(new, place)
                if lift:
                    other: Any = old if place == 0 else None
                else:
                    other = _item(old, place)
                if other == item:
                    continue
                first = base + (place << width * height)
                if height:
                    waiting.append((height - 1, first, _cid(other), _cid(item)))
                else:
                    yield first, other, item


def _item(node: Node | None, place: int) -> Any:
    if node is None or not node[0] >> place & 1:
        return None
    return node[1][(node[0] & ((1 << place) - 1)).bit_count()]


def _cid(item: Any) -> Node | Cid | None:
    return check_link(item) if type(item) is bytes else item


async def _resolve(amt: Amt, batch: Sequence[tuple[Any, ...]], side: int) -> list[Node | None]:
    """The nodes of one side of a batch. Reads linked nodes in one round trip for each height."""
    out: list[Node | None] = [entry[side] for entry in batch]
    heights: dict[int, list[int]] = {}
    for at, entry in enumerate(batch):
        if isinstance(entry[side], Cid):
            heights.setdefault(entry[0], []).append(at)
    for height, places in heights.items():
        nodes = await amt._read_many([batch[at][side] for at in places], height)
        for at, node in zip(places, nodes, strict=True):
            out[at] = node
    return out


# --- writing -------------------------------------------------------------------------------------------------


async def amt_build(put: Put, values: Sequence[Any] | Mapping[int, Any], version: int = 3, bit_width: int = 3) -> Cid:
    """Write an array (a sequence, or values by index) and return its root.

    Values are what `chain.ipld.dag_cbor.encode` takes, or `chain.ipld.tree_nodes.Raw`.
    Errors: BadObject (index out of range).
    """
    if version == 0:
        bit_width = 3
    pairs: Iterable[tuple[int, Any]] = sorted(values.items()) if isinstance(values, Mapping) else enumerate(values)
    level = list(pairs)
    count = len(level)
    if level and not 0 <= level[0][0] <= level[-1][0] <= MAX_INDEX:
        raise BadObject("index out of range for AMT")
    height = 0
    while level and level[-1][0] >> bit_width * (height + 1):
        height += 1
    for at in range(height):
        nodes: list[tuple[int, Any]] = []
        for index, group in _groups(level, bit_width):
            nodes.append((index, store_node(put, _node(group, bit_width, at))))
        level = nodes
    root = [height, count, _node(level, bit_width, height)]
    return store_node(put, [bit_width, *root] if version else root)


def _groups(level: Iterable[tuple[int, Any]], bit_width: int) -> Iterable[tuple[int, list[tuple[int, Any]]]]:
    current = -1
    group: list[tuple[int, Any]] = []
    for index, item in level:
        if index >> bit_width != current:
            if group:
                yield current, group
            current, group = index >> bit_width, []
        group.append((index, item))
    if group:
        yield current, group


def _node(group: Sequence[tuple[int, Any]], bit_width: int, height: int) -> list[Any]:
    bits = 0
    for index, _ in group:
        bits |= 1 << (index & ((1 << bit_width) - 1))
    bitmap = bits.to_bytes(((1 << bit_width) + 7) // 8, "little")
    items = [item for _, item in group]
    return [bitmap, items, []] if height else [bitmap, [], items]
