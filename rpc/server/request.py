"""One JSON-RPC request: its fields as Go would have read them, and the arguments of its method."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from rpc.admission import Lane
from rpc.context import Context
from rpc.errors import InvalidParams, ParseError, RpcError
from rpc.json_wire import NumberOverflow, Text
from rpc.params import ABSENT, json_kind
from rpc.registry import Method
from rpc.server.metrics import MethodStats

_FIELDS: Final = frozenset({"jsonrpc", "id", "method", "params", "meta"})
_ID_TYPES: Final = (int, str, float)
_GO_TYPES: Final = {"object": "map[string]interface {}", "array": "[]interface {}", "bool": "bool"}


class BrokenRequest(ParseError):
    """A request of which a field has the wrong type; its id came back all the same."""

    def __init__(self, request_id: Any) -> None:
        super().__init__()
        self.request_id = request_id


@dataclass(slots=True)
class Request:
    """One request with its fields as Go would have read them. `fault` is what was wrong with its id."""

    id: Any
    method: str
    params: Any
    fault: RpcError | None = None


@dataclass(slots=True)
class Call:
    """A request taken to its method, parameters decoded."""

    method: Method
    arguments: list[Any]
    stats: MethodStats
    lane: Lane | None = None


#: makes a call's result
Run = Callable[[Context, Call], Awaitable[Any]]


class Shadow(Protocol):
    """Compares answers. `follower/forwarding/shadow.py` has the real one."""

    def look(self, ctx: Context, call: Call, params: Any, text: Text) -> None:
        """Note an answer; never raises, never waits. `params`: as they came; `text`: the result's JSON."""


class ReadThrough(Protocol):
    """Answers what the store lacks. `follower/forwarding/read_through.py` has the real one."""

    async def run(self, run: Run, ctx: Context, call: Call, params: Any) -> Any:
        """What `run` makes of a call, or another's answer. `params`: as they came. Errors: as `run`'s."""


def read_request(value: Any) -> Request:
    """A request from its JSON value. Errors: BrokenRequest."""
    if type(value) is not dict:
        if value is None:
            return Request(None, "", None)
        raise BrokenRequest(None)
    if len(value) == 4:
        # what nearly every client sends
        name = value.get("method")
        request_id = value.get("id")
        if (
            type(name) is str
            and type(request_id) in _ID_TYPES
            and type(value.get("jsonrpc")) is str
            and "params" in value
        ):
            return Request(request_id, name, value["params"])
    if not value.keys() <= _FIELDS:
        folded: dict[str, Any] = {}
        for key, item in value.items():
            name = key.lower()
            if name in _FIELDS:
                folded[name] = item
        value = folded
    request_id = value.get("id")
    if type(request_id) is NumberOverflow:
        # Go's decoder: cannot unmarshal number 1e999 into a float64
        raise BrokenRequest(None)
    name = value.get("method", "")
    version = value.get("jsonrpc")
    if type(name) is not str or type(version) is not str or "meta" in value:
        name = "" if name is None else name
        if not isinstance(name, str) or not (version is None or isinstance(version, str)):
            raise BrokenRequest(request_id)
        if not _is_meta(value.get("meta")):
            raise BrokenRequest(request_id)
    if request_id is not None and type(request_id) not in _ID_TYPES:
        fault = ParseError(f"failed to parse ID: invalid id type: {_GO_TYPES[json_kind(request_id)]}")
        return Request(None, name, None, fault)
    return Request(request_id, name, value.get("params", ABSENT))


def _is_meta(meta: Any) -> bool:
    if meta is None:
        return True
    return isinstance(meta, dict) and all(item is None or isinstance(item, str) for item in meta.values())


def decode_arguments(method: Method, request: Request) -> list[Any]:
    """The arguments of `method`, positional and exact in number. Errors: ParseError, InvalidParams."""
    params = request.params
    if method.raw:
        return [params]
    if params is None or params is ABSENT:
        params = ()
    elif type(params) is not list:
        raise ParseError(
            "unmarshaling param array: json: cannot unmarshal "
            f"{json_kind(params)} into Go value of type []jsonrpc.param"
        )
    wanted = method.params
    if not wanted and not params:
        return []
    if len(params) != len(wanted):
        raise InvalidParams(f"wrong param count (method '{request.method}'): {len(params)} != {len(wanted)}")
    arguments = []
    for param, value in zip(wanted, params, strict=True):
        try:
            arguments.append(param.decode(value))
        except (ValueError, RecursionError) as error:
            raise ParseError(f"unmarshaling params for '{request.method}' (param: *{param.go}): {error}") from None
    return arguments
