"""HAMT: the map that Filecoin keeps its state in, keyed by the sha256 of the key.

A node is `[bitfield, pointers]`. The bitfield (big endian, no leading zeros) says which of the 2^bit_width
places are taken; a pointer is a link to a node one level down, or a bucket: up to 3 `[key, value]`, sorted.
A level takes the next `bit_width` bits of the hash, from the top. A subtree of 3 entries or fewer is always
a bucket, so that one content has one root. Chains of actors version 2 and before write a pointer as a map,
`{"0": link}` or `{"1": bucket}`: read here, not written.
Source: go-hamt-ipld v3, ref-fvm `ipld/hamt`, https://ipld.io/specs/advanced-data-layouts/hamt/spec.

Values are decoded, links in them are bytes (see `chain.ipld.tree_nodes`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from blockstore.cid import Cid
from chain.errors import BadObject
from chain.ipld.dag_cbor import decode
from chain.ipld.objects import ObjectReader, let_others_go_on
from chain.ipld.tree_nodes import WALK_BATCH, NodeCache, Put, Raw, RawCborReader, check_link, encode_raw, store_node

#: a bucket holds no more than this
BUCKET: Final = 3
_HASH_BITS: Final = 256
_KIND: Final = b"H"

#: (bitfield, pointers); a pointer is bytes (a link) or a list of [key, value]
Node = tuple[int, list[Any]]

UNREAD: Final = object()
"""Of a look-up in memory: it does not say."""

DELETED: Final = object()
"""In the changes of `hamt_set`: remove this key. In a `diff`: the map lacks this key."""


def decode_node(data: bytes, bit_width: int) -> Node:
    """A node. Checks its structure, but not the buckets: `check_bucket` does when one is read. Errors: BadObject."""
    value = decode(data)
    if type(value) is not list or len(value) != 2:
        raise BadObject("a HAMT node is a list of 2")
    field, pointers = value
    if type(field) is not bytes or type(pointers) is not list:
        raise BadObject("a HAMT node is [byte string, list]")
    bits = int.from_bytes(field, "big")
    if bits >> (1 << bit_width) or bits.bit_count() != len(pointers):
        raise BadObject("HAMT node was malformed: bitfield and pointers do not agree")
    for at, pointer in enumerate(pointers):
        kind = type(pointer)
        if kind is not bytes and kind is not list:
            pointers[at] = _old_pointer(pointer)
    return bits, pointers


def _old_pointer(pointer: object) -> bytes | list[Any]:
    """A pointer in the form of chains before actors version 3."""
    if type(pointer) is dict and len(pointer) == 1:
        inner = pointer.get("0")
        if type(inner) is bytes:
            return inner
        inner = pointer.get("1")
        if type(inner) is list:
            return inner
    raise BadObject("a HAMT pointer is a link or a bucket")


def check_bucket(bucket: list[Any]) -> list[Any]:
    """The bucket, if it is 1 to 3 pairs of a key and a value, sorted by key. Errors: BadObject."""
    if not 1 <= len(bucket) <= BUCKET:
        raise BadObject(f"a HAMT bucket of {len(bucket)}")
    last = None
    for pair in bucket:
        if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not bytes:
            raise BadObject("a HAMT entry is [byte string, value]")
        if last is not None and pair[0] <= last:
            raise BadObject("a HAMT bucket is not sorted")
        last = pair[0]
    return bucket


class Hamt:
    """A reader of one map. `await hamt` reads the root now, so that a missing root is an error now."""

    __slots__ = ("_cache", "_mask", "bit_width", "reader", "root")

    def __init__(self, reader: ObjectReader, root: bytes, bit_width: int = 5, cache: NodeCache | None = None) -> None:
        if not 1 <= bit_width <= 8:
            raise BadObject(f"a HAMT bit width of {bit_width}")
        self.reader = reader
        self.root = check_link(root)
        self.bit_width = bit_width
        self._mask = (1 << bit_width) - 1
        self._cache = cache

    @classmethod
    def load(cls, reader: ObjectReader, root: bytes, bit_width: int = 5, cache: NodeCache | None = None) -> Hamt:
        """The map under `root`. Reads nothing yet. `cache`: for decoded nodes. Errors: BadObject."""
        return cls(reader, root, bit_width, cache)

    def __await__(self) -> Generator[Any, None, Hamt]:
        yield from self._node(self.root).__await__()
        return self

    async def _node(self, cid: bytes) -> Node:
        node = self._cached(cid)
        return await self._read(cid) if node is None else _fitting(node, self.bit_width)

    async def _read(self, cid: bytes) -> Node:
        """A node that is not cached."""
        data = await self.reader.get(cid)
        node = decode_node(data, self.bit_width)
        if self._cache is not None:
            self._cache.put(_KIND + cid, node, len(data))
        return node

    async def _nodes(self, cids: Sequence[bytes]) -> list[Node]:
        """Many nodes in one round trip. Not cached: a walk reads each node once."""
        return [decode_node(data, self.bit_width) for data in await self.reader.get_many(cids)]

    async def get(self, key: bytes, default: Any = None) -> Any:
        """The value of a key. One read a level. Errors: BadObject, Missing."""
        hashed, shift = int.from_bytes(sha256(key).digest(), "big"), _HASH_BITS - self.bit_width
        # no coroutine for a node that is cached
        node = self._cached(self.root) or await self._read(self.root)
        value, cid, shift = self._descend(node, hashed, shift, key, default)
        while value is UNREAD:
            value, cid, shift = self._descend(await self._read(cid), hashed, shift, key, default)
        return value

    def peek(self, key: bytes, default: Any = None) -> Any:
        """The value of a key, or `UNREAD` where a node on the way is not cached. Errors: BadObject."""
        node = self._cached(self.root)
        if node is None:
            return UNREAD
        hashed = int.from_bytes(sha256(key).digest(), "big")
        return self._descend(node, hashed, _HASH_BITS - self.bit_width, key, default)[0]

    def _cached(self, cid: bytes) -> Node | None:
        return None if self._cache is None else self._cache.get(_KIND + cid)

    def _descend(self, node: Node, hashed: int, shift: int, key: bytes, default: Any) -> tuple[Any, bytes, int]:
        """Down from a node, whose place is at `shift` of the hash, through cached ones: the value; or `UNREAD`, with
        the node that is not cached and its shift. Errors: BadObject."""
        width, mask, cache = self.bit_width, self._mask, self._cache
        while True:
            bits, pointers = _fitting(node, width)
            place = hashed >> shift & mask
            if not bits >> place & 1:
                return default, b"", 0
            pointer = pointers[(bits & ((1 << place) - 1)).bit_count()]
            if type(pointer) is list:
                return _in_bucket(pointer, key, default), b"", 0
            shift -= width
            if shift < 0:
                raise BadObject("attempted to traverse HAMT beyond max-depth")
            cid = check_link(pointer)
            below = None if cache is None else cache.get(_KIND + cid)
            if below is None:
                return UNREAD, cid, shift
            node = below

    async def get_many(self, keys: Sequence[bytes], default: Any = None) -> list[Any]:
        """The values of many keys, in their order. One read a level for all, of nodes that are not cached.

        Errors: BadObject, Missing."""
        return await get_each(self.reader, [(self.root, key) for key in keys], self.bit_width, default, self._cache)

    async def items(self) -> AsyncIterator[tuple[bytes, Any]]:
        """Every (key, value) in the order of the tree, as Go's `ForEach` has it. Memory is bounded by the
        depth and `WALK_BATCH`, whatever the size. Errors: BadObject, Missing."""
        async for part in self.parts():
            for key, value in part:
                yield key, value

    async def parts(self) -> AsyncIterator[list[Any]]:
        """As `items`, the pairs of neighbouring buckets together: a generator takes its time for each yield."""
        stack: list[_Frame] = [_Frame((await self._nodes([self.root]))[0][1])]
        while stack:
            frame = stack[-1]
            part: list[Any] = []
            while frame.at < len(frame.items) and type(frame.items[frame.at]) is list:
                part += check_bucket(frame.items[frame.at])
                frame.at += 1
            if part:
                yield part
            if frame.at >= len(frame.items):
                stack.pop()
                continue
            if len(stack) * self.bit_width >= _HASH_BITS:
                raise BadObject("attempted to traverse HAMT beyond max-depth")
            stack.append(_Frame(await frame.below(self)))

    def __aiter__(self) -> AsyncIterator[tuple[bytes, Any]]:
        return self.items()


class _Frame:
    """The pointers of consecutive nodes of one level, and the nodes that were read ahead for them."""

    __slots__ = ("ahead", "at", "items")

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.at = 0
        self.ahead: dict[int, Node] = {}

    async def below(self, hamt: Hamt) -> list[Any]:
        """The pointers of the child nodes from the current position up to the next bucket."""
        items, ahead, at = self.items, self.ahead, self.at
        if at not in ahead:
            wanted: list[int] = []
            for place in range(at, len(items)):
                if type(items[place]) is not list:
                    wanted.append(place)
                    if len(wanted) == WALK_BATCH:
                        break
            nodes = await hamt._nodes([check_link(items[place]) for place in wanted])
            ahead.update(zip(wanted, nodes, strict=True))
            await let_others_go_on(hamt.reader)
        found: list[Any] = []
        while at in ahead:
            found += ahead.pop(at)[1]
            items[at] = None
            at += 1
        self.at = at
        return found


async def read_nodes(
    reader: ObjectReader, cids: Sequence[bytes], bit_width: int, cache: NodeCache | None
) -> list[Node]:
    """Many nodes in one round trip, by the cache where there is one. Errors: BadObject, Missing."""
    found: list[Node | None] = [None if cache is None else cache.get(_KIND + cid) for cid in cids]
    unknown = [at for at, node in enumerate(found) if node is None]
    if unknown:
        for at, data in zip(unknown, await reader.get_many([cids[at] for at in unknown]), strict=True):
            node = found[at] = decode_node(data, bit_width)
            if cache is not None:
                cache.put(_KIND + cids[at], node, len(data))
    return [_fitting(node, bit_width) for node in found if node is not None]


def _fitting(node: Node, bit_width: int) -> Node:
    """A cached node, which may have been read as one of another bit width. Errors: BadObject."""
    if node[0] >> (1 << bit_width):
        raise BadObject("HAMT node was malformed: bitfield and pointers do not agree")
    return node


async def get_each(
    reader: ObjectReader,
    wanted: Sequence[tuple[bytes, bytes]],
    bit_width: int = 5,
    default: Any = None,
    cache: NodeCache | None = None,
) -> list[Any]:
    """The values of (root, key) in maps that may differ, in their order. One read a level for all; a subtree that
    several maps share is read once. `cache`: for decoded nodes. Errors: BadObject, Missing."""
    out = [default] * len(wanted)
    hashes = [int.from_bytes(sha256(key).digest(), "big") for _, key in wanted]
    level: dict[bytes, list[int]] = {}
    for at, (root, _) in enumerate(wanted):
        level.setdefault(check_link(root), []).append(at)
    shift, mask = _HASH_BITS, (1 << bit_width) - 1
    while level:
        shift -= bit_width
        if shift < 0:
            raise BadObject("attempted to traverse HAMT beyond max-depth")
        below: dict[bytes, list[int]] = {}
        nodes = await read_nodes(reader, list(level), bit_width, cache)
        for (bits, pointers), here in zip(nodes, level.values(), strict=True):
            for at in here:
                place = hashes[at] >> shift & mask
                if not bits >> place & 1:
                    continue
                pointer = pointers[(bits & ((1 << place) - 1)).bit_count()]
                if type(pointer) is list:
                    out[at] = _in_bucket(pointer, wanted[at][1], default)
                else:
                    below.setdefault(check_link(pointer), []).append(at)
        level = below
    return out


def _in_bucket(bucket: list[Any], key: bytes, default: Any) -> Any:
    for pair in bucket:
        try:
            found, value = pair
        except (TypeError, ValueError):
            raise BadObject("a HAMT entry is [byte string, value]") from None
        if found == key:
            return value
    return default


_EMPTY: Final[list[Any]] = []


async def diff(a: Hamt, b: Hamt) -> AsyncIterator[tuple[bytes, Any, Any]]:
    """(key, value in `a`, value in `b`) of every key whose value differs; `DELETED` for a map that lacks the key.

    Skips equal subtrees; reads changed ones `WALK_BATCH` pairs a round trip. Errors: BadObject
    (also when the bit widths differ), Missing.
    """
    if a.bit_width != b.bit_width:
        raise BadObject("HAMTs of different bit widths have no diff")
    if a.root == b.root:
        return
    stack: list[list[tuple[Any, Any]]] = [[(a.root, b.root)]]
    while stack:
        if len(stack) * a.bit_width > _HASH_BITS + a.bit_width:
            raise BadObject("attempted to traverse HAMT beyond max-depth")
        waiting = stack[-1]
        pairs: list[tuple[bytes, bytes]] = []
        while waiting and len(pairs) < WALK_BATCH:
            left, right = waiting.pop()
            if type(left) is not list and type(right) is not list:
                pairs.append((check_link(left), check_link(right)))
                continue
            async for change in _mixed(a, b, left, right):
                yield change
        if not waiting:
            stack.pop()
        if not pairs:
            continue
        lefts = await a._nodes([left for left, _ in pairs])
        rights = await b._nodes([right for _, right in pairs])
        await let_others_go_on(a.reader)
        below: list[tuple[Any, Any]] = []
        for left, right in zip(lefts, rights, strict=True):
            below += _pair_up(left, right)
        stack.append(below)


def _pair_up(left: Node, right: Node) -> Iterable[tuple[Any, Any]]:
    places = left[0] | right[0]
    lefts, rights = iter(left[1]), iter(right[1])
    while places:
        place = places & -places
        places ^= place
        one = next(lefts) if left[0] & place else _EMPTY
        other = next(rights) if right[0] & place else _EMPTY
        if one != other:
            yield one, other


async def _mixed(a: Hamt, b: Hamt, left: Any, right: Any) -> AsyncIterator[tuple[bytes, Any, Any]]:
    """The differences of two pointers, of which at least one is a bucket or empty."""
    if type(right) is not list:
        async for key, old, new in _mixed(b, a, right, left):
            yield key, new, old
        return
    rest = dict(check_bucket(right)) if right else {}
    if type(left) is list:
        for key, value in check_bucket(left) if left else ():
            other = rest.pop(key, DELETED)
            if other is DELETED or other != value:
                yield key, value, other
    else:
        async for key, value in Hamt(a.reader, check_link(left), a.bit_width).items():
            other = rest.pop(key, DELETED)
            if other is DELETED or other != value:
                yield key, value, other
    for key, value in rest.items():
        yield key, DELETED, value


# --- writing -------------------------------------------------------------------------------------------------


def hamt_build(put: Put, items: Mapping[bytes, Any], bit_width: int = 5) -> Cid:
    """Write a map and return its root. Values are what `chain.ipld.dag_cbor.encode` takes, or `Raw`."""
    entries = [(int.from_bytes(sha256(key).digest(), "big"), key, _raw(value)) for key, value in items.items()]
    return store_node(put, _build(put, entries, _HASH_BITS, bit_width))


_Entry = tuple[int, bytes, Raw]


def _raw(value: Any) -> Raw:
    return value if isinstance(value, Raw) else Raw(encode_raw(value))


def _build(put: Put, entries: Sequence[_Entry], shift: int, bit_width: int) -> list[Any]:
    shift -= bit_width
    if shift < 0:
        raise BadObject("attempted to traverse HAMT beyond max-depth")
    places: dict[int, list[_Entry]] = {}
    mask = (1 << bit_width) - 1
    for entry in entries:
        places.setdefault(entry[0] >> shift & mask, []).append(entry)
    pointers: dict[int, Any] = {}
    for place, found in places.items():
        if len(found) <= BUCKET:
            pointers[place] = [[key, value] for _, key, value in sorted(found, key=lambda e: e[1])]
        else:
            pointers[place] = store_node(put, _build(put, found, shift, bit_width))
    return _node_of(pointers)


def _node_of(pointers: dict[int, Any]) -> list[Any]:
    bits = 0
    for place in pointers:
        bits |= 1 << place
    return [bits.to_bytes((bits.bit_length() + 7) // 8, "big"), [pointers[place] for place in sorted(pointers)]]


def _raw_node(data: bytes, bit_width: int) -> dict[int, Any]:
    """The pointers of a node by place. Values stay encoded."""
    decode(data)
    read = RawCborReader(data)
    if read.list_length() != 2:
        raise BadObject("a HAMT node is a list of 2")
    bits = int.from_bytes(read.byte_string(), "big")
    count = read.list_length()
    if bits >> (1 << bit_width) or bits.bit_count() != count:
        raise BadObject("HAMT node was malformed: bitfield and pointers do not agree")
    pointers: dict[int, Any] = {}
    for place in range(bits.bit_length()):
        if not bits >> place & 1:
            continue
        if read.peek_major_type() == 6:
            pointers[place] = read.link()
            continue
        bucket = []
        for _ in range(read.list_length()):
            if read.list_length() != 2:
                raise BadObject("a HAMT entry is [byte string, value]")
            bucket.append([read.byte_string(), read.raw()])
        pointers[place] = check_bucket(bucket)
    read.expect_end()
    return pointers


async def hamt_set(
    reader: ObjectReader, put: Put, root: bytes, changes: Mapping[bytes, Any], bit_width: int = 5
) -> Cid:
    """Apply `changes` to the map under `root` and return the new root. `DELETED` removes a key.

    The root equals that of `hamt_build` for the whole map. Writes changed nodes only. `reader` need not hold the nodes
    that `put` received. Errors: BadObject, Missing."""
    hashed = [
        (int.from_bytes(sha256(key).digest(), "big"), key, value if value is DELETED else _raw(value))
        for key, value in changes.items()
    ]
    if not hashed:
        return Cid(root)
    changed = await _set(reader, put, root, hashed, _HASH_BITS, bit_width)
    return store_node(put, _node_of(changed))


async def _set(
    reader: ObjectReader, put: Put, cid: bytes, changes: Sequence[tuple[int, bytes, Any]], shift: int, bit_width: int
) -> dict[int, Any]:
    """The pointers of the node under `cid` after the changes."""
    shift -= bit_width
    if shift < 0:
        raise BadObject("attempted to traverse HAMT beyond max-depth")
    pointers = _raw_node(await reader.get(check_link(cid)), bit_width)
    mask = (1 << bit_width) - 1
    places: dict[int, list[tuple[int, bytes, Any]]] = {}
    for change in changes:
        places.setdefault(change[0] >> shift & mask, []).append(change)
    for place, wanted in places.items():
        pointer = pointers.get(place, _EMPTY)
        if type(pointer) is not list:
            below = await _set(reader, put, pointer, wanted, shift, bit_width)
            collapsed = _collapse(below)
            pointers[place] = store_node(put, _node_of(below)) if collapsed is None else collapsed
        else:
            bucket: dict[bytes, Any] = dict(pointer)
            for _, key, value in wanted:
                if value is DELETED:
                    bucket.pop(key, None)
                else:
                    bucket[key] = value
            if len(bucket) > BUCKET:
                entries = [(int.from_bytes(sha256(key).digest(), "big"), key, v) for key, v in bucket.items()]
                pointers[place] = store_node(put, _build(put, entries, shift, bit_width))
            else:
                pointers[place] = [[key, bucket[key]] for key in sorted(bucket)]
        if pointers[place] == []:
            del pointers[place]
    return pointers


def _collapse(pointers: dict[int, Any]) -> list[Any] | None:
    """The bucket that must replace a node of at most 3 entries and no links, else None."""
    found: list[Any] = []
    for pointer in pointers.values():
        if type(pointer) is not list:
            return None
        found += pointer
    return sorted(found) if len(found) <= BUCKET else None
