"""How parameters come off the wire: JSON values to the types that methods are annotated with.

| annotation | JSON |
|---|---|
| `int` (an epoch), `Int64`, `Uint64` | a number without a fraction, in range |
| `bool`, `str` | themselves |
| `bytes` | base64, or an array of numbers up to 255 |
| `Cid` | `{"/": "bafy…"}`; null is the undefined CID, empty here |
| `TipsetKey` | an array of CIDs; empty or null means the head |
| `Address` | a string; null is the undefined address, empty here |
| `BigInt` | a decimal string |
| `EthHash`, `EthAddress`, `EthBytes`, `EthUint64` | 0x-hex |
| `list[T]`, `T or None` | an array of T; null for None |
| `Any` | whatever it is |
| `RawParams`, alone | the whole `params` value, of any form and length |

As in Go's `encoding/json`, null leaves the zero value of a type. Another type is added by annotating with
`Annotated[T, decoder]` where `decoder` has `go` (the Go type's name) and `decode(value)`, which raises
ValueError with the text to show. Texts follow Go's; clients see them. Sources: `encoding/json`, go-cid,
go-address, Lotus `chain/types`.
"""

from __future__ import annotations

import contextlib
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, NewType, Protocol

import orjson

from blockstore.cid import Cid
from blockstore.cid import parse as parse_cid
from blockstore.errors import BadCid
from chain.address import Address
from chain.address import parse as parse_address
from chain.go_base64 import decode_base64
from chain.tipset import EMPTY_KEY, TipsetKey
from rpc.errors import MethodError

#: The parameters as they came: a list, an object or None. For methods whose parameters are optional.
RawParams = NewType("RawParams", object)
#: the raw parameters of a request that has no `params`: to Go that is no JSON at all, where null is an empty list
ABSENT: Final = object()

UNDEFINED_CID: Final = Cid()
#: CIDs in a tipset key and items in any other list: decoding more would keep the event loop for long
MAX_KEY_CIDS: Final = 1_000
MAX_LIST: Final = 10_000


class Decoder(Protocol):
    """Takes one JSON value to what a method is called with."""

    @property
    def go(self) -> str:
        """The Go type's name, as an error text has it."""

    def decode(self, value: Any) -> Any:
        """Errors: ValueError, whose text a client sees."""


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a method."""

    name: str
    go: str
    decode: Callable[[Any], Any]
    annotation: Any


def json_kind(value: Any) -> str:
    """What Go calls a JSON value in "cannot unmarshal …"."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, list):
        return "array"
    if isinstance(value, dict):
        return "object"
    return "null"


def mismatch(value: Any, go: str) -> ValueError:
    """Go's complaint about a JSON value of the wrong type."""
    return ValueError(f"json: cannot unmarshal {json_kind(value)} into Go value of type {go}")


@contextlib.contextmanager
def field_of(struct: str, path: str) -> Iterator[None]:
    """A value of the wrong type within is complained about as Go does: by the field, and the whole way to it."""
    try:
        yield
    except ValueError as error:
        text = str(error).replace(" into Go value of type ", f" into Go struct field {struct}.{path} of type ", 1)
        raise ValueError(text) from None


def _check_length(value: list[Any], most: int) -> None:
    if len(value) > most:
        raise ValueError(f"too many items: {len(value)}, max: {most}")


@dataclass(frozen=True, slots=True)
class Integer:
    """A JSON number with no fraction, within `low` and `high`."""

    go: str
    low: int
    high: int

    def decode(self, value: Any) -> int:
        """Errors: ValueError."""
        if type(value) is int and self.low <= value <= self.high:
            return value
        if value is None:
            return 0
        if json_kind(value) == "number":
            shown = getattr(value, "text", value)
            raise ValueError(f"json: cannot unmarshal number {shown} into Go value of type {self.go}")
        raise mismatch(value, self.go)


@dataclass(frozen=True, slots=True)
class Exactly:
    """A JSON value of one Python type."""

    go: str
    kind: type
    zero: Any

    def decode(self, value: Any) -> Any:
        """Errors: ValueError."""
        if type(value) is self.kind:
            return value
        if value is None:
            return self.zero
        raise mismatch(value, self.go)


@dataclass(frozen=True, slots=True)
class Text:
    """A JSON string that `read` takes further; null reads as the empty string."""

    go: str
    read: Callable[[str], Any]

    def decode(self, value: Any) -> Any:
        """Errors: ValueError."""
        if value is None:
            value = ""
        if not isinstance(value, str):
            raise mismatch(value, "string")
        return self.read(value)


class _Raw:
    go = "json.RawMessage"

    def decode(self, value: Any) -> Any:
        return value


class _CidParam:
    go = "cid.Cid"

    def decode(self, value: Any) -> Cid:
        if value is None:
            return UNDEFINED_CID
        if not isinstance(value, dict):
            target = 'struct { CidTarget string "json:\\"/\\"" }'
            raise ValueError(f"invalid cid: {mismatch(value, target)}")
        text = value.get("/")
        if text is None or text == "":
            raise ValueError("invalid cid: cid was incorrectly formatted")
        if not isinstance(text, str):
            raise ValueError(
                f"invalid cid: json: cannot unmarshal {json_kind(text)} into Go struct field ./ of type string"
            )
        try:
            return _cid(text) if len(text) <= _LONGEST else parse_cid(text)
        except BadCid as error:
            raise ValueError(f"invalid cid: invalid cid: invalid cid: {error}") from None


#: texts up to this length are remembered: every CID of the chain is shorter
_LONGEST: Final = 80


@lru_cache(maxsize=8192)
def _cid(text: str) -> Cid:
    return parse_cid(text)


class _KeyParam:
    go = "types.TipSetKey"

    def decode(self, value: Any) -> TipsetKey:
        if not value and (value is None or type(value) is list):
            return EMPTY_KEY
        if not isinstance(value, list):
            raise mismatch(value, "[]cid.Cid")
        _check_length(value, MAX_KEY_CIDS)
        return TipsetKey.of(CID.decode(item) for item in value)


_UINT8: Final = Integer("uint8", 0, 255)


class _Base64:
    go = "[]uint8"

    def decode(self, value: Any) -> bytes:
        if value is None:
            return b""
        if isinstance(value, list):
            return bytes(_UINT8.decode(item) for item in value)
        if not isinstance(value, str):
            raise mismatch(value, self.go)
        return decode_base64(value)


@dataclass(frozen=True, slots=True)
class _List:
    item: Param

    @property
    def go(self) -> str:
        return "[]" + self.item.go

    def decode(self, value: Any) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            raise mismatch(value, self.go)
        _check_length(value, MAX_LIST)
        return [self.item.decode(item) for item in value]


@dataclass(frozen=True, slots=True)
class _Optional:
    inner: Param

    @property
    def go(self) -> str:
        return "*" + self.inner.go

    def decode(self, value: Any) -> Any:
        return None if value is None else self.inner.decode(value)


def _address(text: str) -> Address:
    return parse_address(text) if text else Address()


def _big_int(text: str) -> int:
    if not re.fullmatch(r"[-+]?[0-9]+", text) or len(text) > 4096:
        raise ValueError(f"failed to parse bigint string: {text[:80]!r}")
    return int(text)


def _even(digits: str) -> bytes:
    # Go counts the bytes of a string
    data = digits.encode()
    return b"0" + data if len(data) % 2 else data


def _fixed_hex(size: int) -> Callable[[str], bytes]:
    def read(text: str) -> bytes:
        digits = _even(text[2:] if text[:2] in ("0x", "0X") else text)
        if len(digits) != 2 * size:
            raise ValueError(f"expected hex string length sans prefix {2 * size}, got {len(digits)}")
        try:
            return _hex_bytes(digits)
        except ValueError as error:
            raise ValueError(f"cannot parse hex value: {error}") from None

    return read


def _hex_bytes(digits: bytes) -> bytes:
    bad = re.search(rb"[^0-9a-fA-F]", digits)
    if bad:
        # as Go's %#U prints a byte
        shown = chr(bad.group()[0])
        quoted = f" '{shown}'" if shown.isprintable() else ""
        raise ValueError(f"encoding/hex: invalid byte: U+{ord(shown):04X}{quoted}")
    return bytes.fromhex(digits.decode())


def _any_hex(text: str) -> bytes:
    return _hex_bytes(_even(text.replace("0x", "")))


class _EthUint64:
    go = "ethtypes.EthUint64"

    def decode(self, value: Any) -> int:
        if type(value) is int and 0 <= value < 1 << 64:
            return value
        if value is None:
            value = ""  # Go reads a null as an empty string
        if isinstance(value, str):
            base = 16 if value[:2] == "0x" else 10
            digits = value[2:] if base == 16 else value
            if re.fullmatch(r"[0-9a-fA-F]{1,80}" if base == 16 else r"[0-9]{1,80}", digits):
                number = int(digits, base)
                if number < 1 << 64:
                    return number
                raise ValueError(f'strconv.ParseUint: parsing "{digits}": value out of range')
            raise ValueError(f'strconv.ParseUint: parsing "{digits[:80]}": invalid syntax')
        shown = str(value) if type(value) is int else orjson.dumps(value).decode()
        raise ValueError(f"cannot interpret {shown[:80]} as a hex-encoded uint64, or a number")


CID: Final = _CidParam()
_INT64: Final = (-(1 << 63), (1 << 63) - 1)

Int64 = Annotated[int, Integer("int64", *_INT64)]
Uint64 = Annotated[int, Integer("uint64", 0, (1 << 64) - 1)]
BigInt = Annotated[int, Text("big.Int", _big_int)]
EthHash = Annotated[bytes, Text("ethtypes.EthHash", _fixed_hex(32))]
EthAddress = Annotated[bytes, Text("ethtypes.EthAddress", _fixed_hex(20))]
EthBytes = Annotated[bytes, Text("ethtypes.EthBytes", _any_hex)]
EthUint64 = Annotated[int, _EthUint64()]

_DECODERS: Final[dict[Any, Decoder]] = {
    int: Integer("abi.ChainEpoch", *_INT64),
    bool: Exactly("bool", bool, False),
    str: Exactly("string", str, ""),
    bytes: _Base64(),
    Cid: CID,
    TipsetKey: _KeyParam(),
    Address: Text("address.Address", _address),
    Any: _Raw(),
}


def param_of(name: str, annotation: Any) -> Param:
    """The parameter that an annotation asks for. Errors: TypeError, for a type with no decoder."""
    known = _DECODERS.get(annotation) if annotation.__hash__ else None
    if known is not None:
        return Param(name, known.go, known.decode, annotation)
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is Annotated:
        for extra in arguments[1:]:
            if hasattr(extra, "decode") and hasattr(extra, "go"):
                return Param(name, extra.go, extra.decode, annotation)
        inner = param_of(name, arguments[0])
        return Param(name, inner.go, inner.decode, annotation)
    if origin is list:
        several = _List(param_of(name, arguments[0]))
        return Param(name, several.go, several.decode, annotation)
    if origin in (typing.Union, types.UnionType) and len(arguments) == 2 and type(None) in arguments:
        present = next(a for a in arguments if a is not type(None))
        optional = _Optional(param_of(name, present))
        return Param(name, optional.go, optional.decode, annotation)
    raise TypeError(f"parameter {name}: no decoder for {annotation!r}")


def raw_list(params: Any, least: int, most: int) -> list[Any]:
    """The parameters of a method that decodes them itself, `least` of them or `most`. Errors: MethodError."""
    if params is ABSENT:
        raise MethodError("decoding params: unexpected end of JSON input")
    if params is not None and not isinstance(params, list):
        kind = json_kind(params)
        raise MethodError(f"decoding params: json: cannot unmarshal {kind} into Go value of type []json.RawMessage")
    given = params or []
    if len(given) not in (least, most):
        raise MethodError(f"decoding params: expected {least} or {most} params, got {len(given)}")
    return given
