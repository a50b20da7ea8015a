"""`ChainGetNode`: an object found by a path of links, as DAG-JSON.

A path is `[/ipfs/]CID[/segment…]`. A segment is a map key or an array index, and must end at a link; or
`@H:key`, `@Ha:address`, `@Hi:int`, `@Hu:uint` (an entry of a HAMT) or `@A:index` (of an AMT). Lotus reads these
trees here in their first form only: AMTs of messages and receipts, and the HAMTs of states before actors version
3. Newer ones answer its error. A value that is no link comes as an object of its own, named by a sha2-256 CID.
Sources: Lotus `node/impl/full/chain.go`, `lib/oldpath`; go-hamt-ipld v1, go-amt-ipld v2; the DAG-JSON codec.
"""

from __future__ import annotations

import base64
import hashlib
import posixpath
from typing import Any, Final

from blockstore.cid import RAW, Cid, parse, uvarint
from blockstore.errors import BadCid, Missing
from chain.address import parse as parse_address
from chain.errors import BadAddress, BadObject, BadRequest, NotFound
from chain.ipld.dag_cbor import decode_linked, encode
from chain.ipld.objects import ObjectReader
from rpc.context import Context
from rpc.registry import Cache, Cost, method

_HAMT_BITS: Final = 5
_AMT_BITS: Final = 3
_MAX_SEGMENTS: Final = 256
_SHA_PREFIX: Final = b"\x01\x71\x12\x20"


def dag_json(value: Any) -> Any:
    """The DAG-JSON form of a value: links and byte strings in objects of their own."""
    if isinstance(value, Cid):
        return {"/": str(value)}
    if isinstance(value, bytes):
        return {"/": {"bytes": base64.b64encode(value).decode().rstrip("=")}}
    if isinstance(value, list):
        return [dag_json(item) for item in value]
    if isinstance(value, dict):
        return {key: dag_json(item) for key, item in value.items()}
    return value


def segments_of(path: str) -> tuple[Cid, list[str]]:
    """The CID that a path begins with, and the names behind it. Errors: BadRequest."""
    parts = path.split("/")
    try:
        if parts[0]:
            parse(parts[0])
        elif len(parts) < 3:
            raise ValueError("path does not begin with '/'" if path else "empty")
        elif parts[1] not in ("ipfs", "ipld", "ipns"):
            raise ValueError(f'unknown namespace "{parts[1]}"')
        elif not parts[2]:
            raise ValueError("not enough path components")
        names = [part for part in posixpath.normpath(path).split("/") if part]
        if names and names[0] in ("ipfs", "ipld"):
            names = names[1:]
        if not names:
            raise ValueError("empty")
        if len(names) > _MAX_SEGMENTS:
            raise ValueError(f"more than {_MAX_SEGMENTS} segments")
        return parse(names[0]), names[1:]
    except (ValueError, BadCid) as error:
        raise BadRequest(f'parsing path: invalid path "{path[:200]}": {error}') from None


def wrapped(value: Any) -> Cid:
    """The CID of a value taken out of a tree, as an object of its own."""
    return Cid(_SHA_PREFIX + hashlib.sha256(encode(value)).digest())


def _step(value: Any, name: str) -> Any:
    """What a map key or an array index leads to. Errors: NotFound."""
    if isinstance(value, dict):
        if name not in value:
            raise NotFound("no such link found")
        return value[name]
    if isinstance(value, list):
        if not name.lstrip("-").isdecimal():
            raise NotFound(f'strconv.Atoi: parsing "{name[:80]}": invalid syntax')
        at = int(name) if len(name) < 20 else -1
        if not 0 <= at < len(value):
            raise NotFound("array index out of range")
        return value[at]
    raise NotFound("no such link found")


def hamt_key(name: str) -> bytes | None:
    """The key that an `@H` segment names, or None for another kind of segment. Errors: BadRequest."""
    kind, colon, text = name.partition(":")
    if not colon or kind not in ("@H", "@Ha", "@Hi", "@Hu"):
        return None
    if kind == "@H":
        return text.encode()
    if kind == "@Ha":
        try:
            return bytes(parse_address(text))
        except BadAddress as error:
            raise BadRequest(f"parsing addr: {error}") from None
    signed = kind == "@Hi"
    low, high = (-(1 << 63), 1 << 63) if signed else (0, 1 << 64)
    digits = text[1:] if signed and text[:1] in ("-", "+") else text
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 20 or not low <= int(text) < high:
        parser, kind = ("ParseInt", "int64") if signed else ("ParseUint", "uint64")
        raise BadRequest(f'parsing {kind}: strconv.{parser}: parsing "{text[:80]}": invalid syntax')
    number = int(text)
    # Go's zigzag form of a signed varint
    return uvarint((number << 1) ^ (number >> 63) if signed else number)


def _old_node(node: Any) -> tuple[int, list[Any]]:
    """(bitmap, pointers) of a HAMT node in its first form. Errors: BadObject, in cbor-gen's words."""
    if not isinstance(node, list):
        raise BadObject("cbor input should be of type array")
    if len(node) != 2:
        raise BadObject("cbor input had wrong number of fields")
    if not isinstance(node[0], bytes) or not isinstance(node[1], list):
        raise BadObject("expected byte array")
    for pointer in node[1]:
        if not isinstance(pointer, dict):
            raise BadObject("cbor input should be of map")
        if len(pointer) != 1 or not pointer.keys() <= {"0", "1"}:
            raise BadObject("invalid pointer map")
    return int.from_bytes(node[0], "big"), node[1]


async def _hamt(reader: ObjectReader, root: Any, key: bytes) -> Any:
    """The value of a key in a HAMT of the first form. Errors: BadObject, NotFound, Missing."""
    try:
        bits, pointers = _old_node(root)
    except BadObject as error:
        raise BadObject(f"resolving hamt link: failed to load hamt node: {error}") from None
    path = int.from_bytes(hashlib.sha256(key).digest(), "big")
    for level in range(256 // _HAMT_BITS):
        slot = path >> (256 - _HAMT_BITS * (level + 1)) & ((1 << _HAMT_BITS) - 1)
        place = (bits & ((1 << slot) - 1)).bit_count()
        if not bits >> slot & 1 or place >= len(pointers):
            break
        pointer = pointers[place]
        if "0" in pointer:
            bits, pointers = _old_node(decode_linked(await reader.get(_link(pointer["0"]))))
            continue
        for pair in pointer["1"] if isinstance(pointer["1"], list) else ():
            if isinstance(pair, list) and len(pair) == 2 and pair[0] == key:
                return pair[1]
        break
    raise NotFound("resolve hamt: not found")


def _link(value: Any) -> Cid:
    if not isinstance(value, Cid):
        raise BadObject("a tree's node that links to no object")
    return value


async def _amt(reader: ObjectReader, root: Any, text: str) -> Any:
    """The value at an index of an AMT of the first form. Errors: BadObject, BadRequest, NotFound, Missing."""
    if not isinstance(root, list) or len(root) != 3 or type(root[0]) is not int or not 0 <= root[0] < 22:
        raise BadObject("load amt: cbor input had wrong number of fields")
    height, _, node = root
    if not text.isascii() or not text.isdecimal() or len(text) > 20 or int(text) >> 64:
        raise BadRequest(f'parsing amt index: strconv.ParseUint: parsing "{text[:80]}": invalid syntax')
    index = int(text)
    absent = NotFound("resolve amt: not found")
    if index >> (_AMT_BITS * (height + 1)):
        raise absent
    while True:
        if not isinstance(node, list) or len(node) != 3 or not isinstance(node[0], bytes) or len(node[0]) != 1:
            raise BadObject("load amt: not a node")
        slot = index >> (_AMT_BITS * height) & 7
        place = (node[0][0] & ((1 << slot) - 1)).bit_count()
        items = node[1] if height else node[2]
        if not node[0][0] >> slot & 1:
            raise absent
        if not isinstance(items, list) or place >= len(items):
            raise BadObject("load amt: not a node")
        if height == 0:
            return items[place]
        node = decode_linked(await reader.get(_link(items[place])))
        height -= 1


class _Walk:
    """Where a path has led to: an object, its CID, its value."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader

    async def load(self, cid: Cid) -> Any:
        """Go to an object of the store. Errors: Missing, BadObject."""
        raw = await self._reader.get(cid)
        self.cid = cid
        self.value = raw.decode("utf-8", "replace") if cid.codec == RAW else decode_linked(raw)
        return self.value

    async def go(self, names: list[str]) -> None:
        """Follow the names to their end. Errors: NotFound, BadObject, BadRequest, Missing."""
        while names:
            name = names[0]
            key = hamt_key(name)
            if key is not None:
                await self._enter(await _hamt(self._reader, self.value, key))
                names = names[1:]
            elif name.startswith("@A:"):
                await self._enter(await _amt(self._reader, self.value, name[3:]))
                names = names[1:]
            elif name == "@state":
                raise BadRequest("states of actors before version 9 are not decoded")
            else:
                names = await self._follow(names)

    async def _enter(self, value: Any) -> None:
        if isinstance(value, Cid):
            await self.load(value)
        else:
            self.cid, self.value = wrapped(value), value

    async def _follow(self, names: list[str]) -> list[str]:
        """Go down inside the object to its next link; the names that are left behind it."""
        if self.cid.codec == RAW:
            raise NotFound("no such link found")
        value = self.value
        for at, name in enumerate(names):
            value = _step(value, name)
            if isinstance(value, Cid):
                await self.load(value)
                return names[at + 1 :]
        raise NotFound("non-link found at given path")


@method("Filecoin.ChainGetNode", cost=Cost.STATE, cache=Cache.IMMUTABLE)
async def chain_get_node(ctx: Context, path: str) -> dict[str, Any]:
    """The object at the end of a path of links, with its CID. Errors: BadRequest (the path), NotFound."""
    root, names = segments_of(path)
    walk = _Walk(ctx.objects)
    try:
        await walk.load(root)
        await walk.go(names)
    except Missing as error:
        raise NotFound(f"ipld: could not find {Cid(error.key)}") from None
    return {"Cid": walk.cid, "Obj": walk.value if walk.cid.codec == RAW else dag_json(walk.value)}
