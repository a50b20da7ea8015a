"""Reads parameters and return values from CBOR, type by type, as cbor-gen's generated code does.

Their bytes are whatever a sender wrote, so the fast decoder is not for them: it takes a byte string for a link,
and refuses bytes behind the value, which Lotus never looks at. A value that Go refuses is refused at the same byte
and with the same text. Sources: cbor-gen `gen.go`, `utils.go`; go-address, go-bitfield, go-state-types `big`,
`crypto`, `abi`, market's `deal.go` (the types with a reader of their own).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from blockstore.cid import Cid, read_cid
from blockstore.errors import BadCid
from chain.actors.leaves import MAX_BYTES, MAX_TEXT, Leaf, Type
from chain.actors.schema import MAX_ITEMS, Fixed, Pointer, Row, Slice, Struct
from chain.errors import BadObject

_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _TAG, _OTHER = 0, 1, 2, 3, 4, 6, 7
_NULL: Final = 0xF6
_LINK_TAG: Final = 42
_MAX_INT: Final = 1 << 63
#: sizes in bytes: a link, an address, a big integer, a bitfield, a signature
_MAX_LINK: Final = 512
_MAX_ADDRESS: Final = 64
_MAX_BIG: Final = 128
_MAX_BITFIELD: Final = 32 << 10
_MAX_SIGNATURE: Final = 200
#: the least number that a head of 1, 2, 4 or 8 more bytes may hold, and how Go names what is below it
_LEAST: Final = ((24, "< 24"), (1 << 8, "<= MaxUint8"), (1 << 16, "<= MaxUint16"), (1 << 32, "<= MaxUint32"))


class _End(BadObject):
    """The data ends where a value would begin: Go's io.EOF, which a struct turns into "unexpected EOF"."""

    def __init__(self) -> None:
        super().__init__("EOF")


class _Source:
    """Bytes, and how far they are read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def head(self) -> tuple[int, int]:
        """The major type and the number of the next item. Errors: BadObject."""
        if self._at >= len(self._data):
            raise _End
        first = self._data[self._at]
        self._at += 1
        major, low = first >> 5, first & 31
        if low < 24:
            return major, low
        if low > 27:
            raise BadObject(f"invalid header: ({first:x})")
        number = int.from_bytes(self.take(1 << (low - 24)), "big")
        least, name = _LEAST[low - 24]
        if number < least:
            raise BadObject(f"cbor input was not canonical (lval {low} with value {name})")
        return major, number

    def take(self, size: int) -> bytes:
        """The next bytes. Errors: BadObject."""
        found = self._data[self._at : self._at + size]
        if len(found) < size:
            raise BadObject("unexpected EOF") if found else _End
        self._at += size
        return found

    def skip_null(self) -> bool:
        """Whether the next item is null, which is then behind. Errors: BadObject."""
        if self._at >= len(self._data):
            raise _End
        if self._data[self._at] != _NULL:
            return False
        self._at += 1
        return True


# --- types without parts -------------------------------------------------------------------------------


def _int(source: _Source, _: str) -> int:
    major, number = source.head()
    if major not in (_UINT, _NEGATIVE):
        raise BadObject(f"wrong type for int64 field: {major}")
    if number >= _MAX_INT:
        raise BadObject(f"int64 {'positive' if major == _UINT else 'negative'} overflow")
    return number if major == _UINT else -1 - number


def _uint(source: _Source, _: str) -> int:
    major, number = source.head()
    if major != _UINT:
        raise BadObject("wrong type for uint64 field")
    return number


def _uint8(source: _Source, _: str) -> int:
    major, number = source.head()
    if major != _UINT:
        raise BadObject("wrong type for uint8 field")
    if number > 255:
        raise BadObject("integer in input was too large for uint8 field")
    return number


def _bool(source: _Source, _: str) -> bool:
    major, number = source.head()
    if major != _OTHER:
        raise BadObject("booleans must be major type 7")
    if number not in (20, 21):
        raise BadObject(f"booleans are either major type 7, value 20 or 21 (got {number})")
    return number == 21


def _text(source: _Source, _: str) -> str:
    major, size = source.head()
    if major != _TEXT:
        raise BadObject(f"got tag {major} while reading string value (l = {size})")
    if size > MAX_TEXT:
        raise BadObject("string in input was too long")
    return _utf8(source.take(size), "string is not valid UTF-8")


def _utf8(data: bytes, told: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadObject(told) from None


def _byte_string(source: _Source, name: str, size: int | None = None) -> bytes:
    major, number = source.head()
    if number > MAX_BYTES:
        raise BadObject(f"{name}: byte array too large ({number})" if name else f"byte array too large ({number})")
    if major != _BYTES:
        raise BadObject("expected byte array")
    if size is not None and number != size:
        raise BadObject(f"expected array to have {size} elements")
    return source.take(number)


def _link(source: _Source) -> Cid:
    major, number = source.head()
    if major != _TAG:
        raise BadObject("expected cbor type 'tag' in input")
    if number != _LINK_TAG:
        raise BadObject(f"expected tag {_LINK_TAG}")
    try:
        major, number = source.head()
        if major != _BYTES:
            raise BadObject("expected cbor type 'byte string' in input")
        if number > _MAX_LINK:
            raise BadObject(f"string in cbor input too long, maxlen: {_MAX_LINK}")
        data = source.take(number)
    except _End:
        raise BadObject("unexpected EOF") from None
    if not data:
        raise BadObject("undefined cid")
    if len(data) < 2:
        raise BadObject("cbor serialized CIDs must have at least two bytes")
    if data[0]:
        raise BadObject("cbor serialized CIDs must have binary multibase")
    try:
        found, end = read_cid(data, 1)
    except BadCid as error:
        raise BadObject(f"invalid cid: invalid cid: {error}") from None
    if end < len(data):
        raise BadObject("invalid cid: trailing bytes in data buffer passed to cid Cast")
    return found


def _link_field(source: _Source, name: str) -> Cid:
    try:
        return _link(source)
    except BadObject as error:
        raise BadObject(f"failed to read cid field {name}: {error}" if name else str(error)) from None


def _address(source: _Source) -> bytes:
    major, size = source.head()
    if major != _BYTES:
        raise BadObject("cbor type for address unmarshal was not byte string")
    if size > _MAX_ADDRESS:
        raise BadObject("too many bytes to unmarshal for an address")
    found = source.take(size)
    if not found:
        raise BadObject("cbor input should not contain empty addresses")
    return found


def _big(source: _Source) -> bytes:
    major, size = source.head()
    if major != _BYTES:
        raise BadObject(f"cbor input for fil big int was not a byte string ({major:x})")
    if size > _MAX_BIG:
        raise BadObject(f"big integer byte array too long ({size} bytes)")
    return source.take(size)


def _bits(source: _Source) -> bytes:
    major, size = source.head()
    if size > _MAX_BITFIELD:
        raise BadObject("array too large")
    if major != _BYTES:
        raise BadObject("expected byte array")
    return source.take(size)


def _signature(source: _Source) -> bytes:
    major, size = source.head()
    if major != _BYTES:
        raise BadObject("not a byte string")
    if size > _MAX_SIGNATURE:
        raise BadObject("string too long")
    return source.take(size)


def _label(source: _Source) -> str | bytes:
    major, size = source.head()
    if major not in (_TEXT, _BYTES):
        raise BadObject(
            f"unexpected major tag ({major}) when unmarshaling DealLabel: "
            f"only textString ({_TEXT}) or byteString ({_BYTES}) expected"
        )
    if size > MAX_BYTES:
        raise BadObject(f"label was too long ({size}), max allowed ({MAX_BYTES})")
    data = source.take(size)
    return data if major == _BYTES else _utf8(data, "label string not valid utf8")


#: read where they stand, without a reader of their own: the field's name is in few of their errors
_INLINE: Final[dict[str, Callable[[_Source, str], Any]]] = {
    **dict.fromkeys(("int", "epoch"), _int),
    **dict.fromkeys(("uint", "sector", "deal", "actor"), _uint),
    "u8": _uint8,
    "bool": _bool,
    "text": _text,
    "bytes": _byte_string,
    "cid": _link_field,
}
#: with a reader of their own; what it reads then goes through the type's `decode`
_OWN: Final[dict[str, Callable[[_Source], Any]]] = {
    "addr": _address,
    "big": _big,
    "bits": _bits,
    "signature": _signature,
    "label": _label,
    "cidparam": _link,
}


# --- types with parts ----------------------------------------------------------------------------------


def _is_inline(kind: Type) -> bool:
    return isinstance(kind, Slice | Row | Fixed) or (isinstance(kind, Leaf) and kind.name in _INLINE)


def _field(source: _Source, kind: Type, name: str) -> Any:
    """One value called `name`, as the code generated for a field reads it. Errors: BadObject."""
    pointed = kind.of if isinstance(kind, Pointer) else kind
    if pointed is not kind and source.skip_null():
        return None
    if _is_inline(pointed):
        return _value(source, pointed, name)
    try:
        return _value(source, pointed, name)
    except BadObject as error:
        raise BadObject(f"unmarshaling {name}{'' if pointed is kind else ' pointer'}: {error}") from None


def _value(source: _Source, kind: Type, name: str) -> Any:
    if isinstance(kind, Pointer):
        return None if source.skip_null() else _value(source, kind.of, name)
    if isinstance(kind, Struct):
        return _struct(source, kind)
    if isinstance(kind, Fixed):
        return _byte_string(source, name, kind.size)
    if isinstance(kind, Slice):
        return _items(source, kind.of, name, None)
    if isinstance(kind, Row):
        return _items(source, kind.of, name, kind.size)
    leaf = kind.name  # type: ignore[attr-defined]
    return _INLINE[leaf](source, name) if leaf in _INLINE else kind.decode(_OWN[leaf](source))


def _struct(source: _Source, kind: Struct) -> dict[str, Any]:
    major, count = source.head()
    if major != _ARRAY:
        raise BadObject("cbor input should be of type array")
    most = len(kind.fields)
    if kind.least == most and count != most:
        raise BadObject("cbor input had wrong number of fields")
    if count > most:
        raise BadObject(f"cbor input has too many fields {count} > {most}")
    if count < kind.least:
        raise BadObject(f"cbor input has too few fields {count} < {kind.least}")
    out: dict[str, Any] = {}
    try:
        for name, inner, _ in kind.fields[:count]:
            out[name] = _field(source, inner, f"t.{name}")
    except _End:
        raise BadObject("unexpected EOF") from None
    for name, inner, _ in kind.fields[count:]:
        out[name] = inner.zero()
    return out


def _items(source: _Source, of: Type, name: str, size: int | None) -> list[Any]:
    major, count = source.head()
    if count > MAX_ITEMS:
        raise BadObject(f"{name}: array too large ({count})")
    if major != _ARRAY:
        raise BadObject("expected cbor array")
    if size is not None and count != size:
        raise BadObject(f"expected array to have {size} elements")
    # Go names the index by its variable: i, j inside it
    item = f"{name}[{'j' if name.endswith('[i]') else 'i'}]"
    return [_field(source, of, item) for _ in range(count)]


def read_value(kind: Type, data: bytes) -> Any:
    """The value of a type at the start of `data`. Errors: BadObject, with Go's text."""
    return _value(_Source(data), kind, "(*t)" if isinstance(kind, Slice | Row) else "")
