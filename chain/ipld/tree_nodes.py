"""What the trees (HAMT, AMT, KAMT) share: the cache of decoded nodes, the check of links, raw values for writers.

Readers decode nodes with the fast decoder, which returns links as plain bytes. So the values that a reader returns have
their links as bytes: wrap them with `Cid` where the value's schema has a link. A writer must keep links and byte
strings apart. It works on *raw* nodes, in which every value is `Raw`: its encoded bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from blockstore.cid import DAG_CBOR, Cid, cid_of, cid_parts
from blockstore.errors import BadCid
from chain.errors import BadObject
from chain.ipld.dag_cbor import encode

#: Receives each object that a writer makes, children before parents.
Put = Callable[[Cid, bytes], None]

#: How many links a walk reads in one round trip. Together with the depth it bounds the walk's memory.
WALK_BATCH: Final = 64

_PREFIX: Final = b"\x01\x71\xa0\xe4\x02\x20"
#: bytes of memory of a decoded node for each encoded byte: 4.3 measured on the nodes of a state tree, rounded up
_DECODED_SIZE: Final = 5


class Raw(bytes):
    """One value in its DAG-CBOR form."""

    __slots__ = ()


class NodeCache:
    """An LRU cache of about `max_bytes`: decoded nodes of trees, and what else immutable objects decode to.

    Keys begin with a letter for the kind. Callers share the values and must not change them.
    """

    # no cachetools: its look-up is four calls of Python, and a path down a tree has as many look-ups as levels
    __slots__ = ("_limit", "_nodes", "hits", "max_bytes", "misses", "used_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._limit = max_bytes // 16
        self._nodes: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()
        #: the most that the values may take, and about what they take now, in bytes of memory
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, key: bytes) -> Any | None:
        """The value under a key (the kind, and the object's CID), or None."""
        found = self._nodes.get(key)
        if found is None:
            self.misses += 1
            return None
        self._nodes.move_to_end(key)
        self.hits += 1
        return found[0]

    def clear(self) -> None:
        """Drop everything."""
        self._nodes.clear()
        self.used_bytes = 0

    def put(self, key: bytes, node: Any, size: int) -> None:
        """Cache a value. `size`: bytes of its encoded form. A value over 1/16 of the cache is not cached."""
        cost = size * _DECODED_SIZE + 400
        if cost > self._limit:
            return
        old = self._nodes.pop(key, None)
        self.used_bytes += cost if old is None else cost - old[1]
        self._nodes[key] = (node, cost)
        while self.used_bytes > self.max_bytes:
            _, (_, dropped) = self._nodes.popitem(last=False)
            self.used_bytes -= dropped


def check_link(link: bytes) -> Cid:
    """The CID of a link to a tree node. Errors: BadObject (not a CID, or of another codec than DAG-CBOR)."""
    if link[:6] != _PREFIX or len(link) != 38:
        try:
            codec, multihash = cid_parts(link)
            if multihash[:1] == b"\0":
                _ = Cid(link).identity_content
        except BadCid as error:
            raise BadObject(f"a node's link is no CID: {error}") from None
        if codec != DAG_CBOR:
            raise BadObject(f"internal nodes must be cbor, found 0x{codec:x}")
    return Cid(link)


def store_node(put: Put, node: object) -> Cid:
    """Encode a node, pass it to `put`, return its CID."""
    data = encode_raw(node)
    cid = cid_of(data)
    put(cid, data)
    return cid


def encode_raw(value: object) -> bytes:
    """Canonical DAG-CBOR of a value. `Raw` values inside it, in lists or maps, are copied as they are."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(map(encode_raw, value))
    if isinstance(value, dict):
        pairs = sorted(((key.encode(), item) for key, item in value.items()), key=lambda p: (len(p[0]), p[0]))
        return _head(5, len(pairs)) + b"".join(_head(3, len(k)) + k + encode_raw(item) for k, item in pairs)
    return encode(value)


def _head(major: int, length: int) -> bytes:
    """The head of a text, list or map: the head of the number, with another major type."""
    head = encode(length)
    return bytes((head[0] | major << 5,)) + head[1:]


class RawCborReader:
    """A cursor over one encoded DAG-CBOR object. It reads the structure item by item and can return an item undecoded.

    The object must have passed `chain.ipld.dag_cbor.decode`: this class does not check its form again. All methods
    raise BadObject when the next item is not of the expected type.
    """

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def item_head(self) -> tuple[int, int]:
        """(major type, argument) of the next item."""
        data, at = self.data, self.at
        try:
            first = data[at]
            low = first & 31
            if low < 24:
                self.at = at + 1
                return first >> 5, low
            if low > 27:
                raise BadObject("an indefinite length")
            size = 1 << (low - 24)
            self.at = at + 1 + size
            if self.at > len(data):
                raise BadObject("object is cut short")
            return first >> 5, int.from_bytes(data[at + 1 : self.at], "big")
        except IndexError:
            raise BadObject("object is cut short") from None

    def list_length(self) -> int:
        """The length of the list that starts here."""
        major, length = self.item_head()
        if major != 4:
            raise BadObject(f"expected a list, found major type {major}")
        return length

    def byte_string(self) -> bytes:
        """The byte string that starts here."""
        major, length = self.item_head()
        if major != 2:
            raise BadObject(f"expected a byte string, found major type {major}")
        start = self.at
        self.at = start + length
        if self.at > len(self.data):
            raise BadObject("object is cut short")
        return self.data[start : self.at]

    def unsigned(self) -> int:
        """The number, 0 or more, that starts here."""
        major, number = self.item_head()
        if major != 0:
            raise BadObject(f"expected an unsigned integer, found major type {major}")
        return number

    def link(self) -> Cid:
        """The link that starts here."""
        if self.item_head() != (6, 42):
            raise BadObject("expected a link")
        body = self.byte_string()
        if body[:1] != b"\0":
            raise BadObject("a link that does not start with 0")
        return check_link(body[1:])

    def peek_major_type(self) -> int:
        """The major type of the next item."""
        if self.at >= len(self.data):
            raise BadObject("object is cut short")
        return self.data[self.at] >> 5

    def raw(self) -> Raw:
        """The next item, whatever it is, as it is encoded."""
        start = self.at
        waiting = 1
        while waiting:
            waiting -= 1
            major, argument = self.item_head()
            if major in (2, 3):
                self.at += argument
            elif major == 4:
                waiting += argument
            elif major == 5:
                waiting += 2 * argument
            elif major == 6:
                waiting += 1
            if self.at > len(self.data) or waiting > len(self.data):
                raise BadObject("object is cut short")
        return Raw(self.data[start : self.at])

    def expect_end(self) -> None:
        """Errors: BadObject, when bytes are left."""
        if self.at != len(self.data):
            raise BadObject(f"{len(self.data) - self.at} bytes behind the object")
