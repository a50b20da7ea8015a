"""The types without parts of the actor tables: CBOR, memory and JSON form of each.

Sources: go-state-types `abi`, `big`, `crypto`, `builtin/v*/market/deal.go` (labels), go-address, go-bitfield,
cbor-gen (limits), Go's encoding/json.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from blockstore.cid import Cid, cid_parts
from blockstore.cid import parse as parse_cid
from blockstore.errors import BadCid
from chain.address import Address
from chain.address import parse as parse_address
from chain.errors import BadAddress, BadObject, ChainError
from chain.go_base64 import decode_base64
from chain.ipld import bitfield
from chain.ipld.bigint import decode_bigint, encode_bigint
from chain.ipld.dag_cbor import encode as encode_cbor

#: cbor-gen's limits: bytes of a byte string, bytes of a text
MAX_BYTES: Final = 2 << 20
MAX_TEXT: Final = 8192
_MAX_BIG: Final = 128
#: more digits than any big integer of 128 bytes has
_MAX_DIGITS: Final = 400
_MAX_LABEL: Final = 256
#: version 1, dag-cbor or raw, blake2b-256: nearly every CID, taken without being parsed
_COMMON_CIDS: Final = (b"\x01\x71\xa0\xe4\x02\x20", b"\x01\x55\xa0\xe4\x02\x20")
_MAX_SIGNATURE: Final = 200
_MAX_INT: Final = 1 << 63
_MAX_UINT: Final = 1 << 64

#: Go's zero value of an address: no bytes at all
UNDEFINED: Final = Address(b"")


class BadJson(ChainError, ValueError):
    """JSON that Go would not unmarshal into the type."""


class Undefined(ChainError, ValueError):
    """A value that has no CBOR form: an undefined address or CID."""


class Type(Protocol):
    """A type of the tables. Values are those in the module's docstring."""

    def decode(self, item: Any) -> Any:
        """The value of a decoded CBOR item (links as `Cid` or plain bytes). Errors: BadObject."""

    def encode(self, value: Any, out: list[bytes]) -> None:
        """Append the CBOR of a value. Errors: Undefined."""

    def dump(self, value: Any) -> Any:
        """The JSON-ready form of a decoded value; may hold `Cid`, `Address` and bytes."""

    def load(self, item: Any, old: Any) -> Any:
        """The value of a JSON item put over `old` (Go keeps what the JSON leaves out). Errors: BadJson."""

    def zero(self) -> Any:
        """Go's zero value."""


def wrong(item: Any, wanted: str) -> BadObject:
    return BadObject(f"wrong type in CBOR: {type(item).__name__} where {wanted} is expected")


def unjson(item: Any, wanted: str) -> BadJson:
    names = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}
    return BadJson(f"json: cannot unmarshal {names.get(type(item), 'null')} into Go value of type {wanted}")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A type without parts, made of its functions; `keep_null`: JSON null leaves the old value."""

    name: str
    decoder: Callable[[Any], Any]
    cbor: Callable[[Any], Any]
    dumper: Callable[[Any], Any]
    loader: Callable[[Any], Any]
    empty: Any
    keep_null: bool = True

    def decode(self, item: Any) -> Any:
        return self.decoder(item)

    def encode(self, value: Any, out: list[bytes]) -> None:
        out.append(encode_cbor(self.cbor(value)))

    def dump(self, value: Any) -> Any:
        return self.dumper(value)

    def load(self, item: Any, old: Any) -> Any:
        if item is None and self.keep_null:
            return old
        return self.loader(item)

    def zero(self) -> Any:
        return self.empty


def _same(value: Any) -> Any:
    return value


def _int_leaf(name: str, go: str, low: int, high: int) -> Leaf:
    def decode(item: Any) -> int:
        if type(item) is not int:
            raise wrong(item, "an integer")
        if not low <= item < high:
            raise BadObject(f"integer {item} does not fit {go}")
        return item

    def load(item: Any) -> int:
        if type(item) is not int or not low <= item < high:
            raise unjson(item, go)
        return item

    return Leaf(name, decode, _same, _same, load, 0)


def _bool_decode(item: Any) -> bool:
    if type(item) is not bool:
        raise wrong(item, "a bool")
    return item


def _bool_load(item: Any) -> bool:
    if type(item) is not bool:
        raise unjson(item, "bool")
    return item


def _bytes_decode(item: Any) -> bytes:
    if not isinstance(item, bytes):
        raise wrong(item, "a byte string")
    if len(item) > MAX_BYTES:
        raise BadObject(f"byte array too large ({len(item)})")
    return item


def _bytes_load(item: Any) -> bytes:
    if item is None:
        return b""
    if type(item) is list:
        return bytes(BYTE.load(part, 0) for part in item)
    if type(item) is not str:
        raise unjson(item, "[]uint8")
    try:
        return decode_base64(item)
    except ValueError as error:
        raise BadJson(str(error)) from None


def _bytes_cbor(value: bytes) -> bytes:
    if len(value) > MAX_BYTES:
        raise Undefined("byte array was too long")
    return value


def _text_cbor(value: str) -> str:
    if len(value.encode()) > MAX_TEXT:
        raise Undefined("value was too long")
    return value


def _big_cbor(value: int) -> bytes:
    packed = encode_bigint(value)
    if len(packed) > _MAX_BIG:
        raise Undefined("big integer byte array too long")
    return packed


def _text_decode(item: Any) -> str:
    if type(item) is not str:
        raise wrong(item, "a text")
    if len(item.encode()) > MAX_TEXT:
        raise BadObject(f"string too long ({len(item)})")
    return item


def _text_load(item: Any) -> str:
    if type(item) is not str:
        raise unjson(item, "string")
    return item


def _big_load(item: Any) -> int:
    if type(item) is not str:
        raise unjson(item, "string")
    if len(item) > _MAX_DIGITS or not re.fullmatch(r"[+-]?[0-9]+", item, re.ASCII):
        raise BadJson(f"failed to parse big string: '\"{item[:80]}\"'")
    return int(item)


def _big_dump(value: int) -> str:
    return str(value)


def _addr_decode(item: Any) -> Address:
    if not isinstance(item, bytes):
        raise wrong(item, "an address")
    try:
        return Address.checked(item)
    except BadAddress as error:
        raise BadObject(str(error)) from None


def _addr_cbor(value: Address) -> bytes:
    if not value:
        raise Undefined("cannot marshal undefined address")
    return bytes(value)


def _addr_load(item: Any) -> Address:
    if type(item) is not str:
        raise unjson(item, "string")
    if item in ("", "<empty>"):
        return UNDEFINED
    return parse_address(item)


def _cid_decode(item: Any) -> Cid:
    if not isinstance(item, bytes):
        raise wrong(item, "a link")
    if len(item) == 38 and item.startswith(_COMMON_CIDS):
        return Cid(item)
    try:
        cid_parts(item)
    except BadCid as error:
        raise BadObject(str(error)) from None
    return Cid(item)


def _cid_cbor(value: Cid | None) -> Cid:
    if value is None:
        raise Undefined("undefined cid")
    return value


def _cid_load(item: Any) -> Cid | None:
    if item is None:
        return None
    if type(item) is not dict or type(item.get("/")) is not str:
        raise BadJson("invalid character in CID: {'/': text} is expected")
    try:
        return parse_cid(item["/"])
    except BadCid as error:
        raise BadJson(str(error)) from None


def _label_decode(item: Any) -> str | bytes:
    if type(item) is str:
        return item
    return _bytes_decode(item)


def _label_dump(value: str | bytes) -> str:
    return value if type(value) is str else ""


def _label_load(item: Any) -> str:
    if item is None:
        return ""
    text = _text_load(item)
    if len(text.encode()) > _MAX_LABEL:
        raise BadJson(f"provided string is too large to be a label ({len(text.encode())})")
    return text


def _signature_decode(item: Any) -> dict[str, Any]:
    if not isinstance(item, bytes):
        raise wrong(item, "a signature")
    if not item:
        raise BadObject("string empty")
    if len(item) > _MAX_SIGNATURE:
        raise BadObject("string too long")
    if item[0] not in (1, 2, 3):
        raise BadObject(f"invalid signature type in cbor input: {item[0]}")
    return {"Type": item[0], "Data": item[1:]}


def _signature_cbor(value: dict[str, Any]) -> bytes:
    return bytes((value["Type"],)) + bytes(value["Data"])


def load_fields(fields: tuple[tuple[str, Type], ...], item: Any, old: Any, go: str) -> dict[str, Any]:
    """The fields of a JSON object over those in `old`, keys matched as Go does. Errors: BadJson."""
    out = dict(old)
    if item is None:
        return out
    if type(item) is not dict:
        raise unjson(item, go)
    exact = dict(fields)
    folded = {name.casefold(): name for name, _ in fields}
    for key, part in item.items():
        name = key if key in exact else folded.get(key.casefold())
        if name is not None:
            out[name] = exact[name].load(part, out[name])
    return out


class _Signature:
    """crypto.Signature: a byte string in CBOR, an object in JSON."""

    name = "signature"

    def decode(self, item: Any) -> Any:
        return _signature_decode(item)

    def encode(self, value: Any, out: list[bytes]) -> None:
        out.append(encode_cbor(_signature_cbor(value)))

    def dump(self, value: Any) -> Any:
        # its decoder slices a buffer, so empty data is an empty slice here, not nil
        return {"Type": value["Type"], "Data": value["Data"]}

    def load(self, item: Any, old: Any) -> Any:
        return load_fields((("Type", BYTE), ("Data", BYTES)), item, old, "crypto.Signature")

    def zero(self) -> Any:
        return {"Type": 0, "Data": b""}


class _Bits:
    """A bitfield: RLE+ bytes in CBOR and in memory, an array of run lengths in JSON."""

    name = "bits"

    def decode(self, item: Any) -> Any:
        if not isinstance(item, bytes):
            raise wrong(item, "a bitfield")
        bitfield.check(item)
        return item

    def encode(self, value: Any, out: list[bytes]) -> None:
        out.append(encode_cbor(bytes(value)))

    def dump(self, value: Any) -> Any:
        return bitfield.to_json(value)

    def load(self, item: Any, old: Any) -> Any:
        try:
            return bitfield.from_json(item)
        except BadObject as error:
            raise BadJson(str(error)) from None

    def zero(self) -> Any:
        return b""


class _Empty:
    """abi.EmptyValue: no byte at all in CBOR, and an object without fields in JSON."""

    name = "empty"

    def decode(self, item: Any) -> Any:
        return {}

    def encode(self, value: Any, out: list[bytes]) -> None:
        raise Undefined("cannot marshal empty value, try nil instead")

    def dump(self, value: Any) -> Any:
        return {}

    def load(self, item: Any, old: Any) -> Any:
        if item is not None and type(item) is not dict:
            raise unjson(item, "abi.EmptyValue")
        return {}

    def zero(self) -> Any:
        return {}


class _CidParam(Leaf):
    """cbor-gen's CborCid: a link in CBOR; its JSON is an object with no field."""

    __slots__ = ()


BYTE = _int_leaf("u8", "uint8", 0, 256)
BYTES = Leaf("bytes", _bytes_decode, _bytes_cbor, lambda value: value or None, _bytes_load, b"", keep_null=False)
LEAVES: Final[dict[str, Type]] = {
    leaf.name: leaf
    for leaf in (
        BYTE,
        BYTES,
        _int_leaf("int", "int64", -_MAX_INT, _MAX_INT),
        _int_leaf("epoch", "abi.ChainEpoch", -_MAX_INT, _MAX_INT),
        _int_leaf("uint", "uint64", 0, _MAX_UINT),
        _int_leaf("sector", "abi.SectorNumber", 0, _MAX_UINT),
        _int_leaf("deal", "abi.DealID", 0, _MAX_UINT),
        _int_leaf("actor", "abi.ActorID", 0, _MAX_UINT),
        Leaf("bool", _bool_decode, _same, _same, _bool_load, False),
        Leaf("text", _text_decode, _text_cbor, _same, _text_load, ""),
        Leaf("big", decode_bigint, _big_cbor, _big_dump, _big_load, 0, keep_null=False),
        Leaf("addr", _addr_decode, _addr_cbor, _same, _addr_load, UNDEFINED),
        Leaf("cid", _cid_decode, _cid_cbor, _same, _cid_load, None, keep_null=False),
        _CidParam("cidparam", _cid_decode, _cid_cbor, lambda _: {}, lambda _: None, None, keep_null=False),
        Leaf("label", _label_decode, _same, _label_dump, _label_load, "", keep_null=False),
        Leaf("rest", _bytes_decode, _same, _same, _bytes_load, b"", keep_null=False),
        _Signature(),
        _Bits(),
        _Empty(),
    )
}
