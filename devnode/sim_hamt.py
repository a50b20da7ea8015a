"""A map of actors that a simulated chain changes: the HAMT of `chain.ipld.hamt`, kept as a tree in memory.

`chain.ipld.hamt.hamt_set` reads and decodes every node that it changes. Here the nodes stay decoded: a change
makes new nodes along its path and shares the rest, so every earlier version stays whole (a reorg simply
goes on from one), and a million entries are made in seconds. The roots are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b, sha256
from typing import Any, Final

from blockstore.cid import Cid
from chain.ipld.dag_cbor import encode
from chain.ipld.hamt import BUCKET
from chain.ipld.tree_nodes import Put

_WIDTH: Final = 5
_MASK: Final = 31
_BITS: Final = 256
_CID_HEAD: Final = b"\x01\x71\xa0\xe4\x02\x20"
_CID_SIZE: Final = 38
#: tag 42, 39 bytes, the leading zero
_TAG: Final = b"\xd8\x2a\x58\x27\x00"
_LINK_HEAD: Final = _TAG + _CID_HEAD

#: (hash of the key, key, encoded value)
Entry = tuple[int, bytes, bytes]


class Node:
    """One node. `items` by taken place: a `Node`, or a bucket (entries sorted by key)."""

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
            parts.append(bytes((0x80 + len(item),)))
            for _, key, value in item:
                size = len(key)
                parts.append((b"\x82%c" % (0x40 + size) if size < 24 else b"\x82\x58%c" % size) + key + value)
    field = bits.to_bytes((bits.bit_length() + 7) // 8, "big")
    count = len(items)
    parts[0] = b"\x82" + bytes((0x40 + len(field),)) + field
    parts[1] = bytes((0x80 + count,)) if count < 24 else bytes((0x98, count))
    data = b"".join(parts)
    digest = blake2b(data, digest_size=32).digest()
    put(Cid(_CID_HEAD + digest), data)
    return Node(bits, items, digest)


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
        if len(found) > BUCKET:
            places[place] = _build(put, found, shift)
        elif len(found) > 1:
            found.sort(key=lambda entry: entry[1])
    return _made(put, places)


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
        bucket = {entry[1]: entry for entry in item or ()}
        bucket.update((entry[1], entry) for entry in entries)
        if len(bucket) > BUCKET:
            places[place] = _build(put, list(bucket.values()), shift)
        else:
            places[place] = [bucket[key] for key in sorted(bucket)]
    return _made(put, places)


def _hashed(items: Iterable[tuple[bytes, bytes]]) -> list[Entry]:
    return [(int.from_bytes(sha256(key).digest(), "big"), key, value) for key, value in items]


class LiveHamt:
    """One version of a map with bit width 5; immutable. Keys are under 256 bytes, values encoded DAG-CBOR."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    @classmethod
    def build(cls, put: Put, items: Iterable[tuple[bytes, bytes]]) -> LiveHamt:
        """A map of these (key, encoded value) pairs; `put` gets each node, children first."""
        return cls(_build(put, _hashed(items), _BITS))

    @property
    def root(self) -> Cid:
        """The root's CID."""
        return self.node.cid

    def set(self, put: Put, changes: Mapping[bytes, bytes]) -> LiveHamt:
        """The version with these values set; `put` gets the nodes that are new."""
        if not changes:
            return self
        return LiveHamt(_changed(put, self.node, _hashed(changes.items()), _BITS))

    def get(self, key: bytes) -> bytes | None:
        """The encoded value of a key, or None."""
        hashed = int.from_bytes(sha256(key).digest(), "big")
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
            for _, found, value in item:
                if found == key:
                    return bytes(value)
            return None


def link(cid: bytes) -> bytes:
    """A CID as a DAG-CBOR link."""
    return _TAG + cid if len(cid) == _CID_SIZE else encode(Cid(cid))
