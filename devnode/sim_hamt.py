"""A map of actors that a simulated chain changes: the HAMT of `chain.ipld.hamt`, kept as a tree in memory.

`chain.ipld.hamt.hamt_set` reads and decodes every node that it changes. Here the nodes stay linked in memory: a change
makes new nodes along its path and shares the rest, so every earlier version stays whole (a reorg simply
goes on from one), and a million entries are made in seconds. The roots are the same.

Buckets stay encoded, about 170 bytes of memory an actor. A build passes its entries through temporary files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from hashlib import blake2b, sha256
from typing import IO, Any, Final

from blockstore.cid import Cid
from chain.ipld.dag_cbor import encode
from chain.ipld.hamt import BUCKET
from chain.ipld.tree_nodes import Put, RawCborReader

_WIDTH: Final = 5
_MASK: Final = 31
_BITS: Final = 256
_CID_HEAD: Final = b"\x01\x71\xa0\xe4\x02\x20"
_CID_SIZE: Final = 38
#: tag 42, 39 bytes, the leading zero
_TAG: Final = b"\xd8\x2a\x58\x27\x00"
_LINK_HEAD: Final = _TAG + _CID_HEAD

#: bytes of a part of a build that are kept in memory; what is more goes to a file
_PART_BYTES: Final = 1 << 20

#: (hash of the key, key, encoded value)
Entry = tuple[int, bytes, bytes]


class Node:
    """One node. `items` by taken place: a `Node`, or an encoded bucket (entries sorted by key)."""

    __slots__ = ("bits", "digest", "items")

    def __init__(self, bits: int, items: list[Any], digest: bytes) -> None:
        self.bits = bits
        self.items = items
        self.digest = digest

    @property
    def cid(self) -> Cid:
        """The node's CID."""
        return Cid(_CID_HEAD + self.digest)


def _made(put: Put, places: Mapping[int, Any]) -> Node:
    """Encode a node, give it to `put`."""
    bits = 0
    items = []
    parts = [b"", b""]
    for place in sorted(places):
        bits |= 1 << place
        item = places[place]
        items.append(item)
        if type(item) is Node:
            parts.append(_LINK_HEAD + item.digest)
        else:
            parts.append(item)
    field = bits.to_bytes((bits.bit_length() + 7) // 8, "big")
    count = len(items)
    parts[0] = b"\x82" + bytes((0x40 + len(field),)) + field
    parts[1] = bytes((0x80 + count,)) if count < 24 else bytes((0x98, count))
    data = b"".join(parts)
    digest = blake2b(data, digest_size=32).digest()
    put(Cid(_CID_HEAD + digest), data)
    return Node(bits, items, digest)


def _bucket(entries: list[Entry]) -> bytes:
    """A bucket, encoded."""
    parts = [bytes((0x80 + len(entries),))]
    for _, key, value in sorted(entries, key=lambda entry: entry[1]):
        size = len(key)
        parts.append((b"\x82%c" % (0x40 + size) if size < 24 else b"\x82\x58%c" % size) + key + value)
    return b"".join(parts)


def _entries(bucket: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, encoded value) of each entry of an encoded bucket."""
    read = RawCborReader(bucket)
    for _ in range(read.list_length()):
        read.list_length()
        yield read.byte_string(), bytes(read.raw())


def _hash(key: bytes) -> int:
    return int.from_bytes(sha256(key).digest(), "big")


def _build(put: Put, entries: list[Entry], shift: int) -> Node:
    shift -= _WIDTH
    places: dict[int, Any] = {}
    for entry in entries:
        place = entry[0] >> shift & _MASK
        if place in places:
            places[place].append(entry)
        else:
            places[place] = [entry]
    for place, found in places.items():
        places[place] = _pointer(put, found, shift)
    return _made(put, places)


def _pointer(put: Put, entries: list[Entry], shift: int) -> Node | bytes:
    return _build(put, entries, shift) if len(entries) > BUCKET else _bucket(entries)


def _build_root(put: Put, items: Iterable[tuple[bytes, bytes]]) -> Node:
    """As `_build`, place by place of the root, so that the entries of one place alone are in memory."""
    shift = _BITS - _WIDTH
    with ExitStack() as stack:
        parts: dict[int, IO[bytes]] = {}
        for key, value in items:
            place = sha256(key).digest()[0] >> 3
            part = parts.get(place)
            if part is None:
                part = parts[place] = stack.enter_context(tempfile.SpooledTemporaryFile(_PART_BYTES))
            part.write(b"%c%s%s%s" % (len(key), key, len(value).to_bytes(4, "big"), value))
        return _made(put, {place: _pointer(put, list(_read(part)), shift) for place, part in parts.items()})


def _read(part: IO[bytes]) -> Iterator[Entry]:
    part.seek(0)
    while size := part.read(1):
        key = part.read(size[0])
        yield _hash(key), key, part.read(int.from_bytes(part.read(4), "big"))


def _places(node: Node) -> dict[int, Any]:
    found: dict[int, Any] = {}
    at = 0
    for place in range(32):
        if node.bits >> place & 1:
            found[place] = node.items[at]
            at += 1
    return found


def _changed(put: Put, node: Node, changes: list[Entry], shift: int) -> Node:
    shift -= _WIDTH
    places = _places(node)
    wanted: dict[int, list[Entry]] = {}
    for entry in changes:
        wanted.setdefault(entry[0] >> shift & _MASK, []).append(entry)
    for place, entries in wanted.items():
        item = places.get(place)
        if type(item) is Node:
            places[place] = _changed(put, item, entries, shift)
            continue
        bucket = {key: (_hash(key), key, value) for key, value in _entries(item)} if item else {}
        bucket.update((entry[1], entry) for entry in entries)
        places[place] = _pointer(put, list(bucket.values()), shift)
    return _made(put, places)


class LiveHamt:
    """One version of a map with bit width 5; immutable. Keys are under 256 bytes, values encoded DAG-CBOR."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    @classmethod
    def build(cls, put: Put, items: Iterable[tuple[bytes, bytes]]) -> LiveHamt:
        """A map of these (key, encoded value) pairs; `put` gets each node, children first."""
        return cls(_build_root(put, items))

    @property
    def root(self) -> Cid:
        """The root's CID."""
        return self.node.cid

    def set(self, put: Put, changes: Mapping[bytes, bytes]) -> LiveHamt:
        """The version with these values set; `put` gets the nodes that are new."""
        if not changes:
            return self
        entries = [(_hash(key), key, value) for key, value in changes.items()]
        return LiveHamt(_changed(put, self.node, entries, _BITS))

    def get(self, key: bytes) -> bytes | None:
        """The encoded value of a key, or None."""
        hashed = _hash(key)
        node, shift = self.node, _BITS
        while True:
            shift -= _WIDTH
            place = hashed >> shift & _MASK
            if not node.bits >> place & 1:
                return None
            item = node.items[(node.bits & ((1 << place) - 1)).bit_count()]
            if type(item) is Node:
                node = item
                continue
            return next((value for found, value in _entries(item) if found == key), None)


def link(cid: bytes) -> bytes:
    """A CID as a DAG-CBOR link."""
    return _TAG + cid if len(cid) == _CID_SIZE else encode(Cid(cid))
