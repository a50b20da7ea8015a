"""JSON as it stands on the wire: orjson where it can, Go's peculiarities where clients would see them.

Reading: what orjson refuses and Go's `encoding/json` takes (bytes that are no UTF-8, lone surrogates,
anything behind the first value) goes through a slower reader. Writing: `<`, `>`, `&` and the two Unicode line
separators are escaped, as Go's encoder does; ids come back as a float64 would.

Nothing here keeps the event loop for long: the slower reader takes short bodies only, the number of values in a body is
bounded before it is parsed, and large results are written piece by piece (`encode_pieces`). A long text stays in parts
until it is sent (`JsonText`): to copy megabytes is one long step, for fresh memory costs more than what goes into it.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, Final

import orjson

from blockstore.cid import Cid
from chain.address import Address
from chain.tipset import TipsetKey
from rpc.errors import ParseError, RpcError, limit_data

#: bodies up to this size are parsed without counting their values first
SMALL_BODY: Final = 64 << 10
#: the longest body that the slower reader takes: it needs 10 ms for this
MAX_TOLERANT_BODY: Final = 256 << 10
#: calls on the stack, at most, while the slower reader works: Python's own limit
_RECURSION_LIMIT: Final = 1000
#: lists and objects of more entries are written in pieces of so many
_PIECE: Final = 128
#: texts up to this size are one piece
SHORT_TEXT: Final = 64 << 10
#: a part of a long text has at least so many bytes, but for its first and its last ones
_PART: Final = 128 << 10

_OPTIONS: Final = orjson.OPT_PASSTHROUGH_SUBCLASS
_SAFE_INTEGER: Final = 1 << 53


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class NumberOverflow(float):
    """A number beyond a float64. To Go it is no number at all; `text` is what stood in the body."""

    text = ""


def _go_number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        value = NumberOverflow(value)
        value.text = text
    return value


_TOLERANT: Final = json.JSONDecoder(parse_constant=_no_constant, parse_float=_go_number)
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def count_values(body: bytes) -> int:
    """An upper bound of the values in a JSON text: what memory its parsed form takes goes with it."""
    return body.count(b",") + body.count(b"[") + body.count(b"{") + 1


def check_values(body: bytes, most: int) -> int:
    """As `count_values`; 0 for short bodies, which are not counted. Errors: ParseError, for more than `most`."""
    if len(body) <= SMALL_BODY:
        return 0
    count = count_values(body)
    if count > most:
        text = f"request holds more than the {most} JSON values allowed"
        raise ParseError(text, limit_data("json_values", most))
    return count


def parse(body: bytes, *, whole: bool = False) -> Any:
    """The first JSON value in `body`; with `whole`, nothing may follow it. Errors: ParseError.

    Call `check_values` before it: a body of many values keeps the event loop for long.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return _parse_as_go(body, whole)


def _parse_as_go(body: bytes, whole: bool) -> Any:
    if len(body) > MAX_TOLERANT_BODY:
        raise ParseError
    text = body.decode("utf-8", "replace").strip(" \t\r\n\v\f")
    limit = sys.getrecursionlimit()
    try:
        # some libraries raise the limit when they are imported: deep nesting would then overflow the stack of C
        sys.setrecursionlimit(min(limit, _RECURSION_LIMIT))
        value, end = _TOLERANT.raw_decode(text)
        if whole and end != len(text):
            raise ParseError
        if _SURROGATE.search(text):
            value = _mend(value)
    except (ValueError, RecursionError):
        raise ParseError from None
    finally:
        sys.setrecursionlimit(limit)
    return value


def _mend(value: Any) -> Any:
    """The same value with lone surrogates replaced, as Go does."""
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_mend(item) for item in value]
    if isinstance(value, dict):
        return {_mend(key): _mend(item) for key, item in value.items()}
    return value


def escape(text: bytes) -> bytes:
    """Go's HTML-safe form of a JSON text: these characters occur only inside strings."""
    if b"&" in text:
        text = text.replace(b"&", b"\\u0026")
    if b"<" in text:
        text = text.replace(b"<", b"\\u003c")
    if b">" in text:
        text = text.replace(b">", b"\\u003e")
    # looking for one byte is many times faster than for three
    if b"\xe2" in text:
        text = text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return text


def key_json(key: TipsetKey) -> list[dict[str, str]]:
    """A tipset key as a parameter of a call to a full node."""
    return [{"/": str(cid)} for cid in key.cids]


class JsonText:
    """JSON as it is sent, in parts that belong together. `len` is that of the whole; `bytes` joins it."""

    __slots__ = ("_length", "parts")

    def __init__(self, parts: Sequence[bytes]) -> None:
        self.parts = parts
        self._length = sum(map(len, parts))

    def __len__(self) -> int:
        return self._length

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)


#: an answer or a result: a short one is `bytes`
Text = bytes | JsonText


def as_text(text: Text) -> Text:
    """The same text: a short one in one piece, a long one in parts."""
    if len(text) <= SHORT_TEXT:
        return bytes(text)
    return text if isinstance(text, JsonText) else JsonText((text,))


def parts_of(text: Text) -> Sequence[bytes]:
    """The parts of a text, of which a short one has one."""
    return text.parts if isinstance(text, JsonText) else (text,)


def text_between(start: bytes, text: Text, end: bytes) -> Text:
    """A text with something before it and behind it."""
    if isinstance(text, JsonText):
        return JsonText((start, *text.parts, end))
    return b"".join((start, text, end))


class TextBuilder:
    """Makes a text of many pieces. `size`: bytes so far."""

    __slots__ = ("_parts", "_pieces", "_pieces_size", "size")

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []
        #: what becomes the next part
        self._pieces: list[bytes] = []
        self._pieces_size = 0

    def write(self, piece: bytes) -> None:
        """Add a piece."""
        self._pieces.append(piece)
        self.size += len(piece)
        self._pieces_size += len(piece)
        if self._pieces_size >= _PART:
            self._end_part()

    def _end_part(self) -> None:
        pieces = self._pieces
        self._parts.append(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        self._pieces = []
        self._pieces_size = 0

    def text(self) -> JsonText:
        """All of it."""
        if self._pieces:
            self._end_part()
        return JsonText(self._parts)


class ArrayBuilder:
    """Makes the text of an array of its items' texts, none of which has a character that Go escapes."""

    __slots__ = ("_builder", "_start")

    def __init__(self) -> None:
        self._builder = TextBuilder()
        self._start = b"["

    def add(self, items: Sequence[bytes]) -> None:
        """Add some items."""
        if items:
            self._builder.write(self._start + b",".join(items))
            self._start = b","

    def text(self) -> JsonText:
        """The array."""
        self._builder.write(b"[]" if self._start == b"[" else b"]")
        return self._builder.text()


@cache
def encoder(address_prefix: str) -> Callable[[Any], bytes]:
    """A function that writes results; it raises TypeError for what has no JSON form.

    Addresses are written with the network's prefix, "f" or "t".
    """
    from base64 import b64encode

    def default(value: Any) -> Any:
        if isinstance(value, Cid):
            return {"/": str(value)} if value else None
        if isinstance(value, TipsetKey):
            return list(value.cids)
        if isinstance(value, Address):
            return value.text(address_prefix) if value else "<empty>"
        if isinstance(value, bytes | bytearray | memoryview):
            return b64encode(value).decode()
        if isinstance(value, str):
            return str(value)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value)
        if isinstance(value, JsonText):
            return orjson.Fragment(bytes(value))
        if isinstance(value, dict):
            return dict(value)
        if isinstance(value, list | tuple):
            return list(value)
        raise TypeError(f"{type(value).__name__} has no JSON form")

    dumps = orjson.dumps

    def encode(value: Any) -> bytes:
        if type(value) is JsonText:
            return bytes(value)
        try:
            return escape(dumps(value, default, _OPTIONS))
        except TypeError:
            # integers beyond 64 bits, nesting beyond 254: the slower writer knows them
            text = json.dumps(value, default=default, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            return escape(text.encode("utf-8", "replace"))

    return encode


def is_large(value: Any) -> bool:
    """Whether a result may take long to write: then `encode_pieces` is for it."""
    kind = type(value)
    if kind is dict:
        if len(value) > _PIECE:
            return True
        for inner in value.values():
            kind = type(inner)
            if (kind is list or kind is dict) and len(inner) > _PIECE:
                return True
        return False
    return kind is list and len(value) > _PIECE


def encode_pieces(value: Any, encode: Callable[[Any], bytes]) -> Iterator[bytes]:
    """The text of a large result in pieces, each of which takes a few milliseconds at most.

    Together they are what `encode(value)` gives. Errors: as `encode`.
    """
    if type(value) is list:
        yield b"["
        for at in range(0, len(value), _PIECE):
            part = value[at : at + _PIECE]
            if at:
                yield b","
            if any(is_large(item) for item in part):
                for number, item in enumerate(part):
                    if number:
                        yield b","
                    yield from encode_pieces(item, encode)
            else:
                yield encode(part)[1:-1]
        yield b"]"
    elif type(value) is dict:
        yield b"{"
        entries = iter(value.items())
        for at in range(0, len(value), _PIECE):
            part = list(itertools.islice(entries, _PIECE))
            if at:
                yield b","
            if any(is_large(item) for _, item in part):
                for number, (key, item) in enumerate(part):
                    yield (b"," if number else b"") + encode({key: None})[1:-5]
                    yield from encode_pieces(item, encode)
            else:
                yield encode(dict(part))[1:-1]
        yield b"}"
    else:
        yield encode(value)


def go_float(value: float) -> str:
    """A float64 as Go's `encoding/json` writes it."""
    if value == 0:
        return "-0" if str(value)[0] == "-" else "0"
    if 1e-6 <= abs(value) < 1e21:
        text = format(Decimal(repr(value)), "f")
        return text.removesuffix(".0")
    mantissa, _, exponent = format(Decimal(repr(value)).normalize(), "e").partition("e")
    return f"{mantissa}e{exponent[0]}{exponent[1:].lstrip('0')}"


def encode_id(value: Any) -> bytes:
    """A request's id as it comes back: every number is a float64 to Go."""
    if type(value) is int and -_SAFE_INTEGER <= value <= _SAFE_INTEGER:
        return b"%d" % value
    if value is None:
        return b"null"
    if type(value) is int or type(value) is float:
        try:
            number = float(value)
        except OverflowError:
            return b"null"
        return go_float(number).encode() if math.isfinite(number) else b"null"
    return escape(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))


def encode_error(error: RpcError, request_id: bytes) -> bytes:
    """A whole answer with `error`, in go-jsonrpc's order of keys, with its line feed."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    try:
        text = orjson.dumps(body)
    except TypeError:
        # a lone surrogate in a text of ours, or data with no JSON form
        body = {"code": error.code, "message": error.message.encode("utf-8", "replace").decode()}
        text = orjson.dumps(body)
    return b'{"error":' + escape(text) + b',"id":' + request_id + b',"jsonrpc":"2.0"}\n'
