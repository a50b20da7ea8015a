"""Every method is declared once, here is how; everything else about methods is a loop over the registry.

    @method("Filecoin.ChainGetBlock", cost=Cost.CHAIN)
    async def chain_get_block(ctx: Context, block: Cid) -> dict[str, Any]:
        '''The block header with this CID. Errors: Missing.'''

The parameters behind the context are positional and exact in number, as in go-jsonrpc; `rpc/params.py` says
how each type is decoded. The result is JSON-ready and may hold `Cid`, `TipsetKey`, `Address`, `bytes`,
`orjson.Fragment` and `JsonText`. A method that takes another form under /rpc/v0 is declared twice, with other
`versions`.
"""

from __future__ import annotations

import enum
import inspect
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from rpc.params import Param, RawParams, param_of
from rpc.permissions import ALL_PERMISSIONS


class Versions(enum.IntFlag):
    """The API paths under which a method is found."""

    V0 = 1
    V1 = 2
    V2 = 4


V0: Final = Versions.V0
V1: Final = Versions.V1
V2: Final = Versions.V2
EVERY_VERSION: Final = V0 | V1 | V2


class Cost(enum.Enum):
    """What an answer costs: the lanes of the dispatcher and the docs table are made of it.

    Calls of SCAN, HEAVY and EXECUTE run in a lane each: a few at once, the others wait their turn in a bounded queue.
    """

    FREE = "free"  #: memory only
    CHAIN = "chain"  #: a few objects of the chain
    STATE = "state"  #: a path down a state tree
    SCAN = "scan"  #: many objects or rows
    WAIT = "wait"  #: something that is still to come: no lane, see `Context.waiting`
    HEAVY = "heavy"  #: whole trees
    EXECUTE = "execute"  #: a virtual machine elsewhere


class Cache(enum.Enum):
    """How long an answer may be kept as bytes (`rpc/server/answers`): errors never, absences at most for their head.

    An answer for which a full node was asked, or to which a header was added, is not kept, whatever is declared.
    """

    NEVER = "never"  #: it writes, waits, draws lots, or depends on the time, the node, the store or the client
    HEAD = "head"  #: a function of the request and its head
    CHAIN = "chain"  #: a function of the head's chain up to an epoch that the handler notes (`Context.note_chain`)
    TIPSET = "tipset"  #: a function of the tipsets whose keys are parameters; with an empty key, of the head
    IMMUTABLE = "immutable"  #: a function of the request alone: by CID, by hash, or a constant of the process


Handler = Callable[..., Awaitable[Any]] | Callable[..., AsyncIterator[Any]]
H = TypeVar("H", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Method:
    """One declaration. `answered` is "decoded", "indexed", "recorded", "executed", "forwarded" or "local".

    `cache` says how long its answers may be kept; None: nobody has said, so never.

    `raw` marks a method that takes its parameters as they came (`RawParams`); `channel`, one whose handler
    is an async generator and whose values are pushed over a WebSocket. `proves_empty` marks one whose empty answers are
    found in what is held, and are errors where it is not held: they are kept as others, not as absences.
    """

    name: str
    aliases: tuple[str, ...]
    versions: Versions
    perm: str
    cost: Cost
    answered: str
    channel: bool
    handler: Callable[..., Any]
    params: tuple[Param, ...]
    raw: bool
    returns: Any
    doc: str
    cache: Cache | None = None
    proves_empty: bool = False

    @property
    def field(self) -> str:
        """The name without its namespace."""
        return self.name.rpartition(".")[2]


class Registry:
    """Methods by API version and by name or alias."""

    def __init__(self) -> None:
        self._methods: list[Method] = []
        self._by_name: dict[Versions, dict[str, Method]] = {version: {} for version in Versions}

    def add(self, method: Method) -> None:
        """Errors: ValueError (a name or alias that is taken under one of the versions, an unknown permission)."""
        if method.perm not in ALL_PERMISSIONS:
            raise ValueError(f"{method.name} wants the permission {method.perm!r}, which does not exist")
        for version, names in self._by_name.items():
            if not method.versions & version:
                continue
            for name in (method.name, *method.aliases):
                if name in names:
                    raise ValueError(f"{name} is declared twice under /rpc/{(version.name or '').lower()}")
                names[name] = method
        self._methods.append(method)

    def names(self, version: Versions) -> dict[str, Method]:
        """Method by name and alias under one API version."""
        return self._by_name[version]

    def __iter__(self) -> Iterator[Method]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    def method(
        self,
        name: str,
        *,
        aliases: tuple[str, ...] = (),
        versions: Versions = V0 | V1,
        perm: str = "read",
        cost: Cost = Cost.CHAIN,
        answered: str = "decoded",
        channel: bool = False,
        cache: Cache | None = None,
        proves_empty: bool = False,
    ) -> Callable[[H], H]:
        """Declare a method. `perm` is "read", "write", "sign" or "admin"."""

        def declare(handler: H) -> H:
            params, raw, returns = signature(handler)
            self.add(
                Method(
                    name=name,
                    aliases=aliases,
                    versions=versions,
                    perm=perm,
                    cost=cost,
                    answered=answered,
                    channel=channel,
                    handler=handler,
                    params=params,
                    raw=raw,
                    returns=returns,
                    doc=inspect.cleandoc(handler.__doc__ or ""),
                    cache=cache,
                    proves_empty=proves_empty,
                )
            )
            return handler

        return declare


def signature(handler: Callable[..., Any]) -> tuple[tuple[Param, ...], bool, Any]:
    """(parameters, raw, result annotation) of a handler. Errors: TypeError, for a type with no decoder."""
    hints = typing.get_type_hints(handler, include_extras=True)
    names = list(inspect.signature(handler).parameters)[1:]
    returns = hints.get("return", Any)
    if len(names) == 1 and hints.get(names[0]) is RawParams:
        return (), True, returns
    return tuple(param_of(name, hints[name]) for name in names), False, returns


#: What a follower serves. Modules of `rpc/methods/` fill it when they are imported.
REGISTRY: Final = Registry()
method = REGISTRY.method
