"""The IDs of all actors of a state as JSON text, read from the bytes of the tree's nodes: no object for each actor.

A tree of a million actors is 50,000 nodes, of which an epoch changes a few thousand. The texts of small subtrees are
kept by their CIDs, so that the list at the next epoch takes what has changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Protocol

from chain.address import Address
from chain.errors import BadAddress, BadObject
from chain.ipld.hamt import check_bucket, decode_node
from chain.ipld.objects import ObjectReader
from chain.ipld.tree_nodes import check_link

BIT_WIDTH: Final = 5
_HASH_BITS: Final = 256
#: texts of subtrees in this range of bytes are kept: below it a look-up costs what the text does
_LEAST_KEPT: Final = 64
_MOST_KEPT: Final = 4096
#: of the levels whose texts stay apart: no more than this many are joined, and only if they are small together
_MOST_JOINED: Final = 256
#: levels whose texts stay apart, so that no text of the list is large
_TOP_LEVELS: Final = 2


class Texts(Protocol):
    """Where texts of subtrees are kept."""

    def get(self, cid: bytes) -> bytes | None:
        """The text of a subtree."""

    def keep(self, cid: bytes, text: bytes) -> None:
        """Keep it."""


def _octets(most: int) -> bytes:
    """A pattern for a byte string of up to `most` (under 24) bytes."""
    return b"(?:" + b"|".join(b"\\x%02x.{%d}" % (0x40 + size, size) for size in range(most + 1)) + b")"


_CID: Final = rb"\xd8\x2a\x58\x27\x00"
#: a pointer to a child (its CID), an actor (key and ID), or anything else. An actor may have the head of its bucket in
#: front. Keys are ID addresses, values `[code, head, nonce, balance]` or, with an address or null behind, of five.
_POINTER: Final = re.compile(
    _CID + rb"(\x01\x71\xa0\xe4\x02\x20.{32})"
    rb"|[\x81-\x83]?\x82([\x42-\x4a])\x00([\x00-\x7f]|[\x80-\xff]{1,8}[\x01-\x7f])[\x84\x85]"
    + _CID + rb".{38}" + _CID + rb".{38}"
    rb"(?:[\x00-\x17]|\x18.|\x19.{2}|\x1a.{4}|\x1b.{8})" + _octets(20) + rb"(?:\xf6|\x56.{22})?"
    rb"|(.)",
    re.DOTALL,
)  # fmt: skip


def node_parts(data: bytes, prefix: str) -> list[bytes | str]:
    """What a node of the tree of actors holds, in its order: the CID of each child (bytes), and each actor's address in
    JSON (text). `prefix`: of the network. Errors: BadObject."""
    size = data[1] - 0x40 if len(data) > 2 else -1
    if data[:1] != b"\x82" or not 0 <= size <= min(4, len(data) - 3):
        return _decoded_parts(data, prefix)
    start = 2 + size
    if data[start : start + 1] == b"\x98":
        count, start = data[start + 1] if len(data) > start + 1 else -1, start + 2
    else:
        count, start = data[start] - 0x80, start + 1
    if int.from_bytes(data[2 : 2 + size], "big").bit_count() != count:
        return _decoded_parts(data, prefix)
    parts: list[bytes | str] = []
    for child, head, number, other in _POINTER.findall(data, start):
        if child:
            parts.append(child)
        elif other or head[0] - 0x41 != len(number):
            # chains before actors version 3, codes that are texts, …
            return _decoded_parts(data, prefix)
        else:
            value = number[-1]
            for byte in number[-2::-1]:
                value = value << 7 | byte & 0x7F
            parts.append(f'"{prefix}0{value}"')
    return parts


def _decoded_parts(data: bytes, prefix: str) -> list[bytes | str]:
    parts: list[bytes | str] = []
    for pointer in decode_node(data, BIT_WIDTH)[1]:
        if type(pointer) is not list:
            parts.append(check_link(pointer))
            continue
        for key, _ in check_bucket(pointer):
            try:
                parts.append(f'"{Address.checked(key).text(prefix)}"')
            except BadAddress as error:
                raise BadObject(str(error)) from None
    return parts


class ActorIds:
    """Makes the list of the actors of one tree. `reader`: lets others go on. `texts`: of subtrees, with this prefix."""

    def __init__(
        self, reader: ObjectReader, prefix: str, texts: Texts, reserve: Callable[[int], None] = lambda size: None
    ) -> None:
        self._reader = reader
        self._prefix = prefix
        self._texts = texts
        self._reserve = reserve

    async def of(self, root: bytes) -> list[bytes]:
        """The IDs in the order of the tree: JSON strings with commas between them, some in each text.

        `root`: of the map of actors. `reserve` is told how large each text is. Errors: BadObject, Missing; what
        `reserve` raises.
        """
        kept = self._texts.get(root)
        if kept is not None:
            return [kept]
        found: list[bytes] = []
        await self._add(found, root, await self._reader.get(root), 0)
        return [text for text in found if text]

    async def _add(self, out: list[bytes], cid: bytes, data: bytes, level: int) -> None:
        if level * BIT_WIDTH >= _HASH_BITS:
            raise BadObject("attempted to traverse HAMT beyond max-depth")
        parts = node_parts(data, self._prefix)
        known = {part: self._texts.get(part) for part in parts if isinstance(part, bytes)}
        unknown = [child for child, text in known.items() if text is None]
        read = dict(zip(unknown, await self._reader.get_many(unknown), strict=True)) if unknown else {}
        first = len(out)
        run: list[str] = []
        for part in parts:
            if isinstance(part, str):
                run.append(part)
                continue
            if run:
                self._put(out, ",".join(run).encode(), level)
                run.clear()
            text = known[part]
            if text is None:
                await self._add(out, part, read.pop(part), level + 1)
            else:
                self._put(out, text, level)
        if run:
            self._put(out, ",".join(run).encode(), level)
        is_small = len(out) - first <= _MOST_JOINED and sum(map(len, out[first:])) <= _MOST_KEPT
        if level >= _TOP_LEVELS or is_small:
            text = b",".join(out[first:])
            if _LEAST_KEPT <= len(text) <= _MOST_KEPT:
                self._texts.keep(cid, text)
            if level == _TOP_LEVELS:
                self._reserve(len(text))
            out[first:] = [text]

    def _put(self, out: list[bytes], text: bytes, level: int) -> None:
        """Add a text. Those of deeper levels are counted where they are joined."""
        out.append(text)
        if level < _TOP_LEVELS:
            self._reserve(len(text))
