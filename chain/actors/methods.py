"""Actor kinds: their types, their states, and the parameters of their methods.

A method table is a line a method: number, name, parameter type, and the actors versions that have it where not
all versions of the kind do. Numbers above 2^24 are FRC-0042 hashes of exported names. Method 0 (Send) is
every actor's, and takes nothing. The parameter type `panics` stands for one that has no CBOR form in Go, so that
Lotus panics when it is asked about the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from chain.actors import codes
from chain.actors.leaves import LEAVES, BadJson, Type, Undefined
from chain.actors.reader import read_value
from chain.actors.schema import TABLES, add_table, to_cbor, type_of, versions_of
from chain.actors.versions import FIRST_VERSION, LAST_VERSION, UnknownActors
from chain.errors import BadObject, ChainError
from chain.ipld.dag_cbor import decode

#: The head of an actor without state: an empty CBOR array.
EMPTY_OBJECT: Final = codes.EMPTY_OBJECT


class OldActors(ChainError):
    """A state of an actors version that is too old to be decoded."""

    def __init__(self, kind: str, version: int) -> None:
        super().__init__(
            f"{kind} of actors version {version} is not decoded: versions {FIRST_VERSION} to {LAST_VERSION} are"
        )


class GoPanic(ChainError):
    """A call on which Lotus panics. Its error has code 0."""

    code = 0


class NoSuchMethod(ChainError, LookupError):
    """A method number that the actor does not have."""


@dataclass(frozen=True, slots=True)
class Method:
    """`params` is the name of a type in the kind's table."""

    number: int
    name: str
    params: str
    versions: frozenset[int]


class Kind:
    """An actor kind. `name` is the module's, `manifest` the name that the actors' manifest has for it, `since` the
    first actors version that has the kind."""

    def __init__(self, name: str, manifest: str, *, types: str, methods: str, since: int = FIRST_VERSION) -> None:
        self.name = name
        self.manifest = manifest
        self.versions = versions_of(f"{since}-")
        self.table = add_table(name, types)
        self.methods = [Method(0, "Send", "empty", self.versions)]
        for line in methods.splitlines():
            words = line.split()
            if words:
                versions = versions_of("".join(words[3:])) & self.versions
                self.methods.append(Method(int(words[0]), words[1], words[2], versions))

    @property
    def has_state(self) -> bool:
        """Whether actors of this kind have a state at all."""
        return "State" in self.table.names()

    def method(self, number: int, version: int) -> Method | None:
        """The method with this number in an actors version."""
        return _methods(self.name, version).get(number)

    def check(self, version: int) -> None:
        """Refuse an actors version in which the kind is not decoded. Errors: OldActors, UnknownActors."""
        if version > LAST_VERSION:
            raise UnknownActors(version)
        if version not in self.versions:
            raise OldActors(self.manifest, version)

    def type(self, name: str, version: int) -> Type:
        """One of the kind's types. Errors: OldActors, UnknownActors."""
        self.check(version)
        return type_of(self.name, name, version)

    def decode(self, name: str, version: int, data: bytes) -> Any:
        """The value of one object of type `name`. Errors: BadObject, OldActors."""
        return self.type(name, version).decode(decode(data))


KINDS: Final[dict[str, Kind]] = {}
#: by the name in the manifest
BY_MANIFEST: Final[dict[str, Kind]] = {}


def add_kind(kind: Kind) -> Kind:
    """Register a kind under both its names."""
    KINDS[kind.name] = BY_MANIFEST[kind.manifest] = kind
    return kind


@cache
def _methods(kind: str, version: int) -> dict[int, Method]:
    return {found.number: found for found in KINDS[kind].methods if version in found.versions}


def state_json(manifest: str, version: int, head: bytes, data: bytes) -> Any:
    """The state of an actor as Lotus writes it; None for a kind without state.

    Errors: BadObject (an object that is not such a state), OldActors.
    """
    kind = BY_MANIFEST.get(manifest)
    if kind is None:
        raise BadObject(f"no actor kind is called {manifest!r}")
    kind.check(version)
    if not kind.has_state:
        if head != EMPTY_OBJECT:
            raise BadObject(f"actor of kind {manifest} should only have an empty object as its head")
        return None
    state = kind.type("State", version)
    return state.dump(state.decode(decode(data)))


def _params_type(manifest: str, version: int, number: int, code: str) -> Type:
    kind = BY_MANIFEST.get(manifest)
    if kind is not None:
        kind.check(version)
    method = None if kind is None else kind.method(number, version)
    if kind is None or method is None:
        raise NoSuchMethod(f"unknown method {number} for actor {code}: actor metadata not found")
    if method.params == "panics":
        raise GoPanic("interface conversion: interface is not typegen.CBORUnmarshaler: missing method MarshalCBOR")
    return kind.type(method.params, version)


def params_json(manifest: str, version: int, number: int, data: bytes, code: str) -> Any:
    """The parameters of a call as Lotus writes them; what stands behind them is not looked at, as there.

    `code` is for the error text. Errors: NoSuchMethod, OldActors, BadObject, GoPanic.
    """
    kind = _params_type(manifest, version, number, code)
    if kind is LEAVES["empty"]:
        return {}
    if kind is LEAVES["rest"]:
        return data  # whatever it is, CBOR or not
    return kind.dump(read_value(kind, data))


def params_cbor(manifest: str, version: int, number: int, item: Any, code: str) -> bytes:
    """The CBOR of parameters given as JSON. Errors: NoSuchMethod, OldActors, BadJson, Undefined, GoPanic."""
    kind = _params_type(manifest, version, number, code)
    if item is None:
        # Go decodes null into a nil interface, and Lotus panics
        raise GoPanic("interface conversion: interface is nil, not cbor.Marshaler")
    value = kind.load(item, kind.zero())
    return bytes(value) if kind is LEAVES["rest"] else to_cbor(kind, value)


__all__ = [
    "BY_MANIFEST",
    "EMPTY_OBJECT",
    "KINDS",
    "TABLES",
    "BadJson",
    "GoPanic",
    "Kind",
    "Method",
    "NoSuchMethod",
    "OldActors",
    "Undefined",
    "add_kind",
    "params_cbor",
    "params_json",
    "state_json",
]
