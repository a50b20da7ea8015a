"""From the bytes of a request to the bytes of its answer, as go-jsonrpc goes about it.

What go-jsonrpc does, and so this: keys match whatever their case; a type error in one field still lets the
id come back; parameters are positional and exact in number; errors that the wire finds are HTTP 400 or 500,
errors that a method returns 200; a batch is answered in order with status 200, unless it is no batch at all.
Source: go-jsonrpc v0.10.2 `handler.go`, `server.go`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from blockstore.errors import BadCid
from rpc.context import Context
from rpc.errors import (
    InternalError,
    InvalidRequest,
    LimitExceeded,
    MethodError,
    MethodNotFound,
    NotServed,
    ParseError,
    RpcError,
    Unavailable,
    wire_error,
)
from rpc.json_wire import encode_error, encode_id, encoder, parse
from rpc.known import known_methods
from rpc.params import UNDEFINED_CID
from rpc.registry import REGISTRY, V0, V1, V2, Cost, Method, Registry, Versions
from rpc.server.limits import ServerSettings
from rpc.server.metrics import MethodStats, Metrics, now
from rpc.server.request import BrokenRequest, Request, decode_arguments, read_request
from rpc.server.run_until_blocked import together
from rpc.services import Services
from rpc.session import Session

_VERSIONS: Final = (V0, V1, V2)
_RESULT: Final = b',"jsonrpc":"2.0","result":'
#: names of the methods' counters for what reached no method
_UNKNOWN: Final = "unknown"

Guard = Callable[[Context, Method], Awaitable[None]]


@dataclass(slots=True)
class Call:
    """A request taken to its method, parameters decoded."""

    method: Method
    arguments: list[Any]
    stats: MethodStats


class Dispatcher:
    """Answers requests by a registry of methods over a process' services.

    `guard`, where given, runs before each call: limits and faults hook in there.
    """

    def __init__(
        self,
        services: Services,
        registry: Registry = REGISTRY,
        *,
        settings: ServerSettings | None = None,
        metrics: Metrics | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.services = services
        self.registry = registry
        self.settings = settings or ServerSettings()
        self.metrics = metrics or Metrics()
        self.encode = encoder(services.network.address_prefix)
        self.guard = guard
        self._methods = [registry.names(version) for version in _VERSIONS]
        known = known_methods()
        self._known = [known[version] for version in _VERSIONS]
        self._routes: list[dict[str, tuple[Method, MethodStats]]] = [{} for _ in _VERSIONS]
        self._unknown = self.metrics.method(_UNKNOWN)
        self._heavy = asyncio.Semaphore(self.settings.heavy_parallel)
        self._heavy_waiting = 0
        self.in_flight = 0
        #: channels closed because their client read too slowly
        self.slow_channels = 0
        self._drained: asyncio.Event | None = None

    def context(
        self, version: int, permissions: frozenset[str] | None = None, session: Session | None = None
    ) -> Context:
        """A context for one request under /rpc/v`version`."""
        return Context(
            self.services,
            version=version,
            session=session,
            permissions=self.settings.default_permissions if permissions is None else permissions,
        )

    # --- HTTP ----------------------------------------------------------------------------------------

    async def http(self, version: int, body: bytes, ctx: Context | None = None) -> tuple[int, bytes]:
        """(HTTP status, body) of the answer. Raises nothing but what cancels it."""
        if ctx is None:
            ctx = self.context(version)
        self.in_flight += 1
        try:
            body = body.strip()
            if not body:
                return _refused(InvalidRequest(), None)
            is_batch = body[:1] == b"[" and body[-1:] == b"]"
            try:
                value = parse(body, self.settings.max_values)
                if is_batch:
                    return await self._batch(ctx, value)
                request = read_request(value)
            except RpcError as error:
                self._unknown.add(now(), error.code)
                whose = error.request_id if isinstance(error, BrokenRequest) and not is_batch else None
                return _refused(error, whose)
            return await self._one(ctx, request)
        finally:
            self.leave()

    def leave(self) -> None:
        """One request less is under way."""
        self.in_flight -= 1
        if self._drained is not None and not self.in_flight:
            self._drained.set()

    async def drained(self) -> None:
        """Wait until no request is under way."""
        if self.in_flight:
            self._drained = asyncio.Event()
            await self._drained.wait()

    async def http_behind(self, min_head: str, body: bytes, ctx: Context) -> tuple[int, bytes]:
        """As `http`, with the head pinned at sequence number `min_head` or later: waits for it, bounded."""
        self.in_flight += 1
        try:
            if not min_head.strip().isdecimal():
                raise InvalidRequest("X-Filecoin-Min-Head: not a sequence number")
            await ctx.wait_for_head(int(min_head), self.settings.min_head_wait_seconds)
        except Exception as raised:
            error = wire_error(raised)
            status, answer = _refused(error, None)
            return (503 if isinstance(error, Unavailable) else status), answer
        finally:
            self.leave()
        return await self.http(ctx.version, body, ctx)

    async def _one(self, ctx: Context, request: Request) -> tuple[int, bytes]:
        started = now()
        request_id = request.id
        stats = self._unknown
        call: Call | None = None
        error: RpcError
        try:
            call = self.resolve(ctx, request)
            stats = call.stats
            if call.method.channel:
                raise MethodNotFound(f"method '{request.method}' not supported in this mode (no out channel support)")
            if self.guard is None and call.method.cost is not Cost.HEAVY:
                answer = await call.method.handler(ctx, *call.arguments)
            else:
                answer = await self._guarded(ctx, call)
            if request_id is None:
                stats.add(started, 0)
                return 200, b""
            answer = b'{"id":' + encode_id(request_id) + _RESULT + self.encode(answer) + b"}\n"
            stats.add(started, 0)
            return 200, answer
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # not this request was cancelled, but one that it shared some work with
            error = Unavailable("what this answer waited for was given up: ask again")
        except Exception as raised:
            error = self._fault(raised, call, request.method)
        stats.add(started, error.code)
        if request_id is None and not error.protocol:
            return 200, b""
        return _refused(error, request_id)

    async def _batch(self, ctx: Context, values: Any) -> tuple[int, bytes]:
        if type(values) is not list:
            raise ParseError
        if not values:
            raise InvalidRequest
        if len(values) > self.settings.max_batch:
            raise InvalidRequest(f"batch of {len(values)} requests, at most {self.settings.max_batch} are answered")
        requests = [read_request(value) for value in values]
        answers: list[bytes] = []
        size = 0
        width = self.settings.batch_parallel
        for at in range(0, len(requests), width):
            part = requests[at : at + width]
            await ctx.checkpoint()
            if size > self.settings.max_batch_answer_bytes:
                too_big = LimitExceeded("the answers to this batch are too big together: ask for less at once")
                answers += [_refused(too_big, request.id)[1] for request in part]
                continue
            for _, answer in await together(self._one(ctx, request) for request in part):
                if answer:
                    answers.append(answer)
                    size += len(answer)
        if not answers:
            return 200, b""
        return 200, b"[" + b",".join(answers) + b"]"

    # --- both ----------------------------------------------------------------------------------------

    def resolve(self, ctx: Context, request: Request) -> Call:
        """The method a request names, with its parameters. Errors: RpcError, as go-jsonrpc orders them."""
        if request.fault is not None:
            raise request.fault
        name = request.method
        found = self._routes[ctx.version].get(name) or self._route(ctx.version, name)
        method, stats = found
        if method.channel and ctx.session is None:
            return Call(method, [], stats)
        arguments = decode_arguments(method, request)
        if method.perm not in ctx.permissions:
            raise MethodError(f"missing permission to invoke '{method.field}' (need '{method.perm}')")
        return Call(method, arguments, stats)

    def _route(self, version: int, name: str) -> tuple[Method, MethodStats]:
        """Look a method up for the first time. Errors: NotServed, MethodNotFound."""
        method = self._methods[version].get(name)
        if method is None:
            if name in self._known[version]:
                raise NotServed(name)
            raise MethodNotFound(f"method '{name}' not found")
        route = self._routes[version][name] = method, self.metrics.method(method.name)
        return route

    async def _guarded(self, ctx: Context, call: Call) -> Any:
        if self.guard is not None:
            await self.guard(ctx, call.method)
        if call.method.cost is not Cost.HEAVY:
            return await call.method.handler(ctx, *call.arguments)
        if self._heavy_waiting >= self.settings.heavy_waiting:
            raise LimitExceeded("too many requests that walk whole trees are waiting: try again later")
        self._heavy_waiting += 1
        try:
            await self._heavy.acquire()
        finally:
            self._heavy_waiting -= 1
        try:
            return await call.method.handler(ctx, *call.arguments)
        finally:
            self._heavy.release()

    @staticmethod
    def _fault(raised: Exception, call: Call | None, name: str) -> RpcError:
        if isinstance(raised, BadCid) and call is not None and UNDEFINED_CID in call.arguments:
            # what Lotus' store says when it is asked for the undefined CID, which null stands for
            return MethodError("error decoding identity cid b: multihash too short. must be >= 2 bytes")
        return wire_error(raised, name)

    # --- WebSocket -----------------------------------------------------------------------------------

    async def answer(self, ctx: Context, request: Request) -> bytes | None:
        """The answer to one WebSocket call of a method without a channel; None for a notification."""
        _, answer = await self._one(ctx, request)
        return None if request.id is None else answer

    def channel(self, ctx: Context, call: Call) -> AsyncIterator[Any]:
        """What a channel method pushes."""
        return call.method.handler(ctx, *call.arguments)  # type: ignore[no-any-return]


def _refused(error: RpcError, request_id: Any) -> tuple[int, bytes]:
    status = 200
    if error.protocol:
        status = 400 if isinstance(error, InvalidRequest) else 500
    try:
        shown = encode_id(request_id)
    except (TypeError, ValueError):
        shown = b"null"
    try:
        return status, encode_error(error, shown)
    except Exception as fault:
        return 500, encode_error(wire_error(fault) if isinstance(fault, RpcError) else InternalError(), shown)


def versions_of(path: str) -> Versions | None:
    """The API version of a request path, or None where nothing lives."""
    return {"/rpc/v0": V0, "/rpc/v1": V1, "/rpc/v2": V2}.get(path)
