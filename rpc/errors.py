"""Everything the wire can answer that is not a result, and the one mapping from inner errors to it.

    RpcError                    code, message, data: what a client sees
    ├── ParseError              -32700  not JSON, or a parameter of the wrong type (as go-jsonrpc has it)
    ├── InvalidRequest          -32600  nothing to answer: empty body, empty or oversized batch
    ├── MethodNotFound          -32601
    ├── InvalidParams           -32602  wrong number of parameters
    ├── InternalError           -32603  a fault of this server: the text never tells which
    ├── NotServed               -32004  a method of the node that this server does not answer yet
    ├── LimitExceeded           -32005  a range or a rate beyond what is allowed (EIP-1474)
    │   └── TimeBudgetExceeded          the request took longer than it may
    ├── Unavailable             -32002  the store or the node behind it does not answer now (EIP-1474)
    ├── Refused                         not taken on now
    │   ├── ServerBusy          -32002  this process has too much to do (HTTP 503)
    │   └── ClientLimit         -32005  this client has used up its share (HTTP 429)
    │       ├── RateRefused     -32020  more tokens a second than its quota (HTTP 429)
    │       └── ConnectionsRefused -32024  more connections a minute than are allowed (HTTP 429)
    ├── MethodRefused           -32021  a method that this caller may not use
    ├── LookbackRefused         -32022  a tipset older than what may be asked of
    ├── ConfidenceRefused       -32023  a confidence above what a call may wait for
    ├── NeedsNode               -32010  only a full node can answer, and none is behind this server
    ├── OutOfGas                     2
    ├── ExecutionReverted            3  `data`: the revert bytes, hex
    ├── F3Disabled                   4
    ├── F3NotReady                  10
    └── MethodError                  1  any other error that a method returns

`protocol` tells errors that go-jsonrpc itself makes (HTTP status 400 or 500) from those that a method
returns (HTTP status 200). Sources: go-jsonrpc `handler.go`, `server.go`; Lotus `api/api_errors.go`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any, ClassVar, Final

from blockstore.cid import Cid
from blockstore.errors import BadCid, Fenced, Missing, StoreError, StoreFull, StoreUnavailable, Unfinished
from chain.errors import ChainError
from chain.ipld.objects import FetchFailed
from rpc.node_errors import CallFailed, NodeError

log = logging.getLogger("follower.rpc")

#: a method as the texts of protocol errors name it
_QUOTED_NAME: Final = re.compile(r"'Filecoin\.[A-Za-z0-9]+'")
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
NOT_SERVED: Final = -32004
LIMIT_EXCEEDED: Final = -32005
UNAVAILABLE: Final = -32002
NEEDS_NODE: Final = -32010
RATE_REFUSED: Final = -32020
METHOD_REFUSED: Final = -32021
LOOKBACK_REFUSED: Final = -32022
CONFIDENCE_REFUSED: Final = -32023
CONNECTIONS_REFUSED: Final = -32024


def limit_data(
    limit: str, most: float, asked: float | None = None, *, retry_after_seconds: float | None = None
) -> dict[str, Any]:
    """`data` of a refusal: the limit's name, what it allows, what was asked for, and when to try again.

    Without `retry_after_seconds` the same request is never taken: the client asks for less. docs/gate.md has the
    names and their units.
    """
    found: dict[str, Any] = {"limit": limit, "most": most}
    if asked is not None:
        found["asked"] = asked
    if retry_after_seconds is not None:
        found["retryAfterSeconds"] = retry_after_seconds
    return found


class RpcError(Exception):
    """An answer with `error`. `data` is left out of the answer where it is None."""

    code: int = 1
    #: made by the wire itself (HTTP 400/500), not returned by a method (HTTP 200)
    protocol: ClassVar[bool] = False

    def __init__(self, message: str, data: Any = None, *, code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data
        if code is not None:
            self.code = code


class MethodError(RpcError):
    """Any error that a method returns and that has no code of its own."""


class ParseError(RpcError):
    """Not JSON, or JSON of the wrong type."""

    code = PARSE_ERROR
    protocol = True

    def __init__(self, message: str = "Parse error", data: Any = None) -> None:
        super().__init__(message, data)


class InvalidRequest(RpcError):
    """Nothing that could be answered."""

    code = INVALID_REQUEST
    protocol = True

    def __init__(self, message: str = "Invalid request", data: Any = None) -> None:
        super().__init__(message, data)


class MethodNotFound(RpcError):
    """No such method under this path."""

    code = METHOD_NOT_FOUND
    protocol = True


class InvalidParams(RpcError):
    """The wrong number of parameters."""

    code = INVALID_PARAMS
    protocol = True


class InternalError(RpcError):
    """A fault of this server."""

    code = INTERNAL_ERROR
    protocol = True

    def __init__(self, message: str = "internal error", data: Any = None) -> None:
        super().__init__(message, data)


class NotServed(RpcError):
    """A method that the node has and this server does not answer yet."""

    code = NOT_SERVED

    def __init__(self, method: str) -> None:
        super().__init__(f"method '{method}' is known, but not served yet by this follower")


class LimitExceeded(RpcError):
    """More than is allowed: a range, a size, a number of things at once."""

    code = LIMIT_EXCEEDED


class ExecutionRefused(LimitExceeded):
    """A message that uses more gas than this follower lets it use."""


class TimeBudgetExceeded(LimitExceeded):
    """A request that took longer than it may. `limit`: the setting's name."""

    def __init__(self, seconds: float, limit: str = "request_seconds") -> None:
        text = f"the request took longer than the {seconds:g} s allowed: ask for less at once"
        super().__init__(text, limit_data(limit, seconds))


class Unavailable(RpcError):
    """What is behind this server does not answer now: ask again later."""

    code = UNAVAILABLE


class CannotExecute(Unavailable):
    """The virtual machine cannot run this, now or later: a network version or a state that it does not know."""


class Refused(RpcError):
    """Not taken on now. `http_status` is for a request that is refused as a whole; see `rpc/admission.py`."""

    http_status: ClassVar[int] = 503


class ServerBusy(Refused):
    """This process has too much to do, whoever asks: HTTP 503, which a balancer sends to another follower."""

    code = UNAVAILABLE


class ClientLimit(Refused):
    """This client has used up its share: HTTP 429, which no balancer sends to another follower."""

    code = LIMIT_EXCEEDED
    http_status = 429


class RateRefused(ClientLimit):
    """More tokens a second than a quota has. `data`: the limit's name, tokens a second, seconds until the next try."""

    code = RATE_REFUSED

    def __init__(self, limit: str, whose: str, rate: float, wait_seconds: float) -> None:
        super().__init__(
            f"rate limit exceeded: {limit} of {whose} is {rate:g} tokens a second; try again in {wait_seconds:.2f} s",
            {"limit": limit, "tokensPerSecond": rate, "retryAfterSeconds": round(wait_seconds, 3)},
        )


class ConnectionsRefused(ClientLimit):
    """More new connections a minute than are allowed."""

    code = CONNECTIONS_REFUSED

    def __init__(self, most: int, wait_seconds: float) -> None:
        super().__init__(
            f"too many connections: conn_per_minute is {most}; try again in {wait_seconds:.1f} s",
            {"limit": "conn_per_minute", "connections": most, "retryAfterSeconds": round(wait_seconds, 3)},
        )


class MethodRefused(RpcError):
    """A method that this caller may not use, whatever its permissions. Trying again changes nothing."""

    code = METHOD_REFUSED

    def __init__(self, method: str) -> None:
        super().__init__(f"method '{method}' is not allowed here", {"limit": "methods"})


class LookbackRefused(RpcError):
    """A tipset that is older than what may be asked of. `lowest`: the lowest epoch that may be, now."""

    code = LOOKBACK_REFUSED

    def __init__(self, seconds: int, lowest: int) -> None:
        super().__init__(
            f"lookbacks of more than {seconds} s are disallowed: ask of epoch {lowest} or later",
            {"limit": "api_max_lookback_seconds", "seconds": seconds, "lowestEpoch": lowest},
        )


class ConfidenceRefused(RpcError):
    """A confidence above what a call may wait for."""

    code = CONFIDENCE_REFUSED

    def __init__(self, most: int) -> None:
        super().__init__(
            f"confidences above {most} are disallowed: ask with {most} or less",
            {"limit": "max_wait_confidence", "epochs": most},
        )


class NeedsNode(RpcError):
    """Only a full node can answer, and none is behind this server."""

    code = NEEDS_NODE

    def __init__(self, method: str, *, could_execute: bool = False) -> None:
        """`could_execute`: this follower would answer itself, had it the virtual machine."""
        text = f"method '{method}' needs a full node, and this follower was started without one (--node)"
        if could_execute:
            text += (
                "; it can execute by itself where the virtual machine is installed (`make execution`, or"
                " `pip install lotus-follower[execution]`) and the setting execution is not off"
            )
        super().__init__(text)


class OutOfGas(RpcError):
    """A message ran out of gas."""

    code = 2


class ExecutionReverted(RpcError):
    """A contract reverted; `data` is the revert bytes as 0x-hex."""

    code = 3


class F3Disabled(RpcError):
    """The network or the node runs no F3."""

    code = 4


class F3NotReady(RpcError):
    """F3 is still starting."""

    code = 10


def wire_error(error: BaseException, method: str = "") -> RpcError:
    """What a client sees of an error raised by a method. An unknown one is logged and not shown."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, ChainError):
        return MethodError(str(error), error.data, code=error.code)
    if isinstance(error, Missing):
        return MethodError(f"ipld: could not find {_name(error.key)}")
    if isinstance(error, BadCid):
        return MethodError(str(error))
    if isinstance(error, FetchFailed):
        return Unavailable(f"not held: {error}")
    if isinstance(error, StoreUnavailable | Unfinished):
        return Unavailable(f"the store does not answer now: {error}")
    if isinstance(error, StoreFull | Fenced):
        return Unavailable("the store cannot be written to now")
    if isinstance(error, StoreError):
        return MethodError(str(error))
    if isinstance(error, CallFailed):
        return _of_node(error, method)
    if isinstance(error, NodeError):
        return Unavailable("the full node behind this follower does not answer now")
    if isinstance(error, asyncio.CancelledError):
        return MethodError("context canceled")
    if isinstance(error, TimeoutError):
        return Unavailable("context deadline exceeded")
    log.error("%s failed", method or "a request", exc_info=error)
    return InternalError()


def forget_frames(error: BaseException) -> None:
    """Take the tracebacks off an error that is kept, and off those behind it.

    They hold the frames of the request, which hold the error: all of it, parameters too, would wait for the collector.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            waiting += (one.__context__, one.__cause__)


def _of_node(error: CallFailed, method: str) -> RpcError:
    """A full node was asked in the client's stead: its error is the client's, which knows the name that it called."""
    if error.code == PARSE_ERROR:
        return ParseError(_QUOTED_NAME.sub(f"'{method}'", error.message, count=1), error.data)
    if error.code == INVALID_PARAMS:
        return InvalidParams(_QUOTED_NAME.sub(f"'{method}'", error.message, count=1), error.data)
    return MethodError(error.message, error.data, code=error.code)


def _name(key: bytes) -> str:
    return str(key) if isinstance(key, Cid) else bytes(key).hex()


class error_prefix:
    """`with error_prefix("failed to load miner actor"):` puts Lotus' words before those of a chain error."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ChainError):
            raise MethodError(f"{self.text}: {error}", error.data, code=error.code) from error
