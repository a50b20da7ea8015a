"""The decoder of actor states and parameters: reads tables, makes four functions per type.

A table is text: a type's name, then its fields in CBOR order, each with a type and, where it is not in every
version, the actors versions it is in:

    Claim
      WindowPoStProofType        int
      RawBytePower               big
    DealState
      SectorNumber               sector 13-
      SectorStartEpoch           epoch

| `?T` | a pointer: nil is CBOR null and JSON null |
| `[]T`, `[!]T` | a slice; one that is never nil |
| `[N]T`, `fixedN` | an array; one of N bytes |
| `kind.T` | a type of another actor kind |
| `Name = T` | another name for a type |
| `+Name T` | an embedded struct: in JSON its fields stand among its owner's |
| `-Name T` | a field that JSON does not show |
| `~Name T` | a field that older objects lack at their end |

All structs are CBOR arrays. Values in memory: dict by field name, list, int (also of big integers), `Address`,
`Cid`, bytes, str, bool, None; a bitfield stays RLE+ `bytes` until somebody asks for its runs.

The JSON forms are Go's: big integers as strings, bytes as base64, `[N]byte` as numbers, an empty slice that came
from CBOR as null (cbor-gen leaves a slice nil when it reads no element). Sources: go-state-types `builtin/v*/*`
(fields), cbor-gen (limits, nil rules), Go's encoding/json (missing and differently cased keys).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from chain.actors.leaves import BYTE, LEAVES, Type, Undefined, load_fields, unjson, wrong
from chain.actors.versions import FIRST_VERSION, LAST_VERSION
from chain.errors import BadObject
from chain.ipld.dag_cbor import encode as encode_cbor

VERSIONS: Final = range(FIRST_VERSION, LAST_VERSION + 1)

#: cbor-gen's limit
MAX_ITEMS: Final = 8192


@dataclass(frozen=True, slots=True)
class Fixed:
    """`[N]byte`: a byte string of exactly `size` bytes, an array of numbers in JSON."""

    size: int

    def decode(self, item: Any) -> Any:
        if not isinstance(item, bytes) or len(item) != self.size:
            raise wrong(item, f"a byte string of {self.size} bytes")
        return item

    def encode(self, value: Any, out: list[bytes]) -> None:
        out.append(encode_cbor(bytes(value)))

    def dump(self, value: Any) -> Any:
        return list(value)

    def load(self, item: Any, old: Any) -> Any:
        if item is None:
            return old
        if type(item) is not list:
            raise unjson(item, f"[{self.size}]uint8")
        # Go drops extra elements and fills missing ones with zeros
        return bytes(BYTE.load(part, 0) for part in item[: self.size]).ljust(self.size, b"\0")

    def zero(self) -> Any:
        return bytes(self.size)


@dataclass(frozen=True, slots=True)
class Row:
    """`[N]T`: a list of exactly `size` values."""

    of: Type
    size: int

    def decode(self, item: Any) -> Any:
        if type(item) is not list or len(item) != self.size:
            raise wrong(item, f"an array of {self.size}")
        return [self.of.decode(part) for part in item]

    def encode(self, value: Any, out: list[bytes]) -> None:
        out.append(_array_head(self.size))
        for part in value:
            self.of.encode(part, out)

    def dump(self, value: Any) -> Any:
        return [self.of.dump(part) for part in value]

    def load(self, item: Any, old: Any) -> Any:
        if item is None:
            return old
        if type(item) is not list:
            raise unjson(item, "array")
        found = [self.of.load(part, self.of.zero()) for part in item[: self.size]]
        return found + [self.of.zero() for _ in range(self.size - len(found))]

    def zero(self) -> Any:
        return [self.of.zero() for _ in range(self.size)]


@dataclass(frozen=True, slots=True)
class Pointer:
    """`?T`: a value or None."""

    of: Type

    def decode(self, item: Any) -> Any:
        return None if item is None else self.of.decode(item)

    def encode(self, value: Any, out: list[bytes]) -> None:
        if value is None:
            out.append(b"\xf6")
        else:
            self.of.encode(value, out)

    def dump(self, value: Any) -> Any:
        return None if value is None else self.of.dump(value)

    def load(self, item: Any, old: Any) -> Any:
        if item is None:
            return None
        return self.of.load(item, self.of.zero() if old is None else old)

    def zero(self) -> Any:
        return None


@dataclass(frozen=True, slots=True)
class Slice:
    """`[]T`: a list; `never_nil` where a decoder written by hand makes an empty slice."""

    of: Type
    never_nil: bool = False

    def decode(self, item: Any) -> Any:
        if type(item) is not list:
            raise wrong(item, "an array")
        if len(item) > MAX_ITEMS:
            raise BadObject(f"array too large ({len(item)})")
        decode = self.of.decode
        return [decode(part) for part in item]

    def encode(self, value: Any, out: list[bytes]) -> None:
        if len(value) > MAX_ITEMS:
            raise Undefined("Slice value in field was too long")
        out.append(_array_head(len(value)))
        for part in value:
            self.of.encode(part, out)

    def dump(self, value: Any) -> Any:
        if not value:
            return [] if self.never_nil else None
        dump = self.of.dump
        return [dump(part) for part in value]

    def load(self, item: Any, old: Any) -> Any:
        if item is None:
            return []
        if type(item) is not list:
            raise unjson(item, "slice")
        return [self.of.load(part, self.of.zero()) for part in item]

    def zero(self) -> Any:
        return []


@dataclass(frozen=True, slots=True)
class Struct:
    """A type with fields; `fields` is (name, type, mark) in CBOR order, the mark one of "", "+", "-", "~"."""

    name: str
    fields: tuple[tuple[str, Type, str], ...]
    least: int

    def decode(self, item: Any) -> Any:
        if type(item) is not list or not self.least <= len(item) <= len(self.fields):
            raise BadObject("cbor input had wrong number of fields")
        out: dict[str, Any] = {}
        for part, (name, kind, _) in zip(item, self.fields, strict=False):
            try:
                out[name] = kind.decode(part)
            except BadObject as error:
                raise BadObject(f"unmarshaling t.{name}: {error}") from None
        for name, kind, _ in self.fields[len(item) :]:
            out[name] = kind.zero()
        return out

    def encode(self, value: Any, out: list[bytes]) -> None:
        out.append(_array_head(len(self.fields)))
        for name, kind, _ in self.fields:
            try:
                kind.encode(value[name], out)
            except Undefined as error:
                raise Undefined(f"failed to write field t.{name}: {error}") from None

    def dump(self, value: Any) -> Any:
        out: dict[str, Any] = {}
        for name, kind, mark in self.fields:
            if mark == "-":
                continue
            part = kind.dump(value[name])
            if mark == "+":
                out.update(part)
            else:
                out[name] = part
        return out

    def load(self, item: Any, old: Any) -> Any:
        flat: list[tuple[str, Type]] = []
        inner: list[tuple[str, Type]] = []
        for name, kind, mark in self.fields:
            if mark != "-":
                (inner if mark == "+" else flat).append((name, kind))
        out = load_fields(tuple(flat), item, old, self.name)
        for name, kind in inner:
            out[name] = kind.load(item, out[name])
        return out

    def zero(self) -> Any:
        return {name: kind.zero() for name, kind, _ in self.fields}


def _array_head(size: int) -> bytes:
    # an array of nulls is its head and one byte per element: cut the bytes off
    return encode_cbor([None] * size)[: -size or None]


@dataclass(frozen=True, slots=True)
class _Definition:
    """One block of a table: `alias` for `Name = T`, else fields (name, type text, mark, versions)."""

    versions: frozenset[int]
    alias: str
    fields: tuple[tuple[str, str, str, frozenset[int]], ...]


def versions_of(text: str) -> frozenset[int]:
    """The versions that "9-11,14-" names; all of them for "". Errors: ValueError."""
    if not text:
        return frozenset(VERSIONS)
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        found.update(range(int(first), (int(last) if last else LAST_VERSION if dash else int(first)) + 1))
    return frozenset(found)


class Table:
    """The types of one actor kind. Errors of the constructor: ValueError, for a line that it cannot read."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self._definitions: dict[str, list[_Definition]] = {}
        name, versions = "", frozenset(VERSIONS)
        fields: list[tuple[str, str, str, frozenset[int]]] = []

        def close() -> None:
            if name:
                self._definitions.setdefault(name, []).append(_Definition(versions, "", tuple(fields)))

        for line in text.splitlines():
            words = line.split()
            if not words:
                continue
            if line[0] == " ":
                if len(words) not in (2, 3) or not name:
                    raise ValueError(f"{kind}: not a field: {line!r}")
                mark = words[0][0] if words[0][0] in "+-~" else ""
                fields.append((words[0].lstrip("+-~"), words[1], mark, versions_of("".join(words[2:]))))
                continue
            close()
            fields = []
            if len(words) > 2 and words[1] == "=":
                found = _Definition(versions_of("".join(words[3:])), words[2], ())
                self._definitions.setdefault(words[0], []).append(found)
                name = ""
            else:
                name, versions = words[0], versions_of("".join(words[1:]))
        close()

    def names(self) -> list[str]:
        """Every type's name."""
        return list(self._definitions)

    def definition(self, name: str, version: int) -> _Definition | None:
        """The block that defines `name` in an actors version."""
        for found in self._definitions.get(name, ()):
            if version in found.versions:
                return found
        return None


TABLES: Final[dict[str, Table]] = {}


def add_table(kind: str, text: str) -> Table:
    """Register the types of an actor kind. Errors: ValueError."""
    table = TABLES[kind] = Table(kind, text)
    return table


@cache
def type_of(kind: str, text: str, version: int) -> Type:
    """The type that `text` names in the table of `kind`, as it is in an actors version. Errors: KeyError."""
    if text.startswith("?"):
        return Pointer(type_of(kind, text[1:], version))
    if text.startswith("[!]"):
        return Slice(type_of(kind, text[3:], version), never_nil=True)
    if text.startswith("[]"):
        return Slice(type_of(kind, text[2:], version))
    if text.startswith("["):
        size, _, inner = text[1:].partition("]")
        return Row(type_of(kind, inner, version), int(size))
    if text.startswith("fixed"):
        return Fixed(int(text[5:]))
    leaf = LEAVES.get(text)
    if leaf is not None:
        return leaf
    if "." in text:
        kind, text = text.split(".")
    found = TABLES[kind].definition(text, version)
    if found is None:
        raise KeyError(f"{kind}.{text} is not in actors version {version}")
    if found.alias:
        return type_of(kind, found.alias, version)
    fields = tuple(
        (name, type_of(kind, inner, version), mark)
        for name, inner, mark, versions in found.fields
        if version in versions
    )
    return Struct(f"{kind}.{text}", fields, sum(mark != "~" for _, _, mark in fields))


def to_cbor(kind: Type, value: Any) -> bytes:
    """The CBOR of a value. Errors: Undefined."""
    out: list[bytes] = []
    kind.encode(value, out)
    return b"".join(out)


add_table(
    "shared",
    """
FilterEstimate
  PositionEstimate           big
  VelocityEstimate           big
PoStProof
  PoStProof                  int
  ProofBytes                 bytes
SealVerifyInfo
  SealProof                  int
  +SectorID                  SectorID
  DealIDs                    []deal
  Randomness                 bytes
  InteractiveRandomness      bytes
  Proof                      bytes
  SealedCID                  cid
  UnsealedCID                cid
SectorID
  Miner                      actor
  Number                     sector
""",
)
