"""From the bytes of a request to the bytes of its answer, as go-jsonrpc goes about it.

What go-jsonrpc does, and so this: keys match whatever their case; a type error in one field still lets the
id come back; parameters are positional and exact in number; errors that the wire finds are HTTP 400 or 500,
errors that a method returns 200; a batch is answered in order with status 200, unless it is no batch at all.
Source: go-jsonrpc v0.10.2 `handler.go`, `server.go`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from blockstore.errors import BadCid, Missing
from rpc.admission import Admission, Lane
from rpc.context import Context
from rpc.errors import (
    InvalidRequest,
    MethodError,
    MethodNotFound,
    NotServed,
    ParseError,
    Refused,
    RpcError,
    TimeBudgetExceeded,
    Unavailable,
    forget_frames,
    wire_error,
)
from rpc.json_wire import (
    SHORT_TEXT,
    SMALL_BODY,
    JsonText,
    Text,
    TextBuilder,
    as_text,
    check_values,
    encode_error,
    encode_pieces,
    encoder,
    is_large,
    parse,
)
from rpc.known import known_methods
from rpc.missing_objects import is_named, not_held
from rpc.params import UNDEFINED_CID
from rpc.registry import REGISTRY, V0, V1, V2, Method, Registry, Versions
from rpc.server.answer_text import answer_of, answer_to_batch, answer_with, refused_answer
from rpc.server.answers.answer_lru import Kept
from rpc.server.answers.flight import Flight
from rpc.server.answers.kept_answers import Answers
from rpc.server.gate.gate import Gate
from rpc.server.limits import ServerSettings, answer_too_big, batch_answer_too_big, batch_too_big, make_admission
from rpc.server.metrics import MethodStats, Metrics, now
from rpc.server.observe.observer import Observer
from rpc.server.refusal_log import RefusalLog
from rpc.server.request import BrokenRequest, Call, ReadThrough, Request, Shadow, decode_arguments, read_request
from rpc.server.run_until_blocked import together
from rpc.services import Services
from rpc.session import Session

_VERSIONS: Final = (V0, V1, V2)
#: names of the methods' counters for what reached no method
_UNKNOWN: Final = "unknown"

#: memory that a parsed JSON value takes, about
BYTES_PER_VALUE: Final = 64
#: calls of a batch that are begun before others go on, where none has a checkpoint of its own
_CALLS_BETWEEN_CHECKPOINTS: Final = 32
#: decimal digits of a sequence number, at most
_MAX_DIGITS: Final = 19

Guard = Callable[[Context, Method], Awaitable[None]]


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
        admission: Admission | None = None,
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
        self._routes: list[dict[str, tuple[Method, MethodStats, Lane | None]]] = [{} for _ in _VERSIONS]
        self._unknown = self.metrics.method(_UNKNOWN)
        self.refusals = RefusalLog()
        self.admission = admission or make_admission(self.settings, self.refusals.count)
        limit = self.settings.answer_cache_bytes
        #: the answers that are kept; a guard is asked before each call, so nothing is kept past it
        self.answers = (
            Answers(services, self.admission, self.settings.default_permissions, limit, self.settings.gzip_from)
            if limit and guard is None
            else None
        )
        #: channels closed because their client read too slowly
        self.slow_channels = 0
        gated = self.settings.gate
        #: compares answers with a full node's
        self.shadow: Shadow | None = None
        #: asks a full node what the store lacks
        self.read_through: ReadThrough | None = None
        self.gate = None if gated is None else Gate(gated, self.refusals.count, self.settings.make_bucket)
        self._drained: asyncio.Event | None = None
        self.observe(None)

    def observe(self, observer: Observer | None) -> None:
        """Have an observer stand around each request and call from now on; None: nobody, which costs nothing."""
        self.observer = observer
        #: whether an answer may be found by a request's bytes alone: nobody looks at each call
        self.finds_raw = self.answers is not None and self.gate is None and observer is None
        #: how one HTTP request, and one call, is answered; and how a call's answer is looked up among those kept
        self.answer_http = self._http if observer is None else observer.around_http(self._http)
        self._answer_call = self._one if observer is None else observer.around_call(self._one)
        if self.answers is not None:
            self._ask_kept = self.answers.ask if observer is None else observer.around_ask(self.answers.ask)

    def is_named(self, version: int, name: str) -> bool:
        """Whether a name is that of a method here or at Lotus: other names are a client's text."""
        return name in self._methods[version] or name in self._known[version]

    def context(
        self, version: int, permissions: frozenset[str] | None = None, session: Session | None = None
    ) -> Context:
        """A context for one request under /rpc/v`version`."""
        ctx = Context(
            self.services,
            version=version,
            session=session,
            permissions=self.settings.default_permissions if permissions is None else permissions,
        )
        ctx.admission = self.admission
        ctx.time_budget_seconds = self.settings.request_seconds
        if self.settings.server_timing:
            ctx.stages = [("", now())]
        return ctx

    @property
    def in_flight(self) -> int:
        """Requests under way, working or waiting."""
        return self.admission.working.used + self.admission.waiting.used

    # --- HTTP ----------------------------------------------------------------------------------------

    async def http(
        self, version: int, body: bytes, ctx: Context | None = None, min_head: str | None = None
    ) -> tuple[int, bytes]:
        """As `answer_http`, with the whole text in one piece."""
        status, text = await self.answer_http(version, body, ctx, min_head)
        return status, bytes(text)

    async def _http(
        self, version: int, body: bytes, ctx: Context | None = None, min_head: str | None = None
    ) -> tuple[int, Text]:
        """(HTTP status, body) of the answer. Raises nothing but what cancels it.

        `min_head` is a sequence number: the answer waits, bounded, for this head or a later one. Who gives `ctx`
        calls its `release` once the answer has left.
        """
        mine = ctx is None
        if ctx is None:
            ctx = self.context(version)
        working = self.admission.working
        try:
            working.take(ctx.account)
        except Refused as refused:
            return refused.http_status, encode_error(refused, b"null")
        try:
            if min_head is not None:
                fault = await self._wait_for_head(ctx, min_head)
                if fault is not None:
                    return fault
            body = body.strip()
            if not body:
                return refused_answer(InvalidRequest(), None)
            is_batch = body[:1] == b"[" and body[-1:] == b"]"
            try:
                if len(body) > SMALL_BODY:
                    await ctx.checkpoint()
                    ctx.reserve(check_values(body, self.settings.max_values) * BYTES_PER_VALUE)
                    await ctx.checkpoint()
                value = parse(body)
                if ctx.stages is not None:
                    ctx.stages.append(("read", now()))
                if is_batch:
                    return await self._batch(ctx, value)
                request = read_request(value)
            except RpcError as error:
                self._unknown.add(now(), error.code)
                whose = error.request_id if isinstance(error, BrokenRequest) and not is_batch else None
                return refused_answer(error, whose)
            return await self._answer_call(ctx, request, body)
        finally:
            working.give(ctx.account)
            if self._drained is not None:
                self._look_whether_drained()
            if mine:
                ctx.release()

    def leave(self, ctx: Context) -> None:
        """One request less is under way."""
        self.admission.working.give(ctx.account)
        self._look_whether_drained()

    def _look_whether_drained(self) -> None:
        if self._drained is not None and not self.in_flight:
            self._drained.set()

    async def drained(self) -> None:
        """Wait until no request is under way."""
        if self.in_flight:
            self._drained = asyncio.Event()
            await self._drained.wait()

    async def _wait_for_head(self, ctx: Context, min_head: str) -> tuple[int, bytes] | None:
        """Pin the head with this sequence number or a later one; the answer to give where that fails."""
        text = min_head.strip()
        try:
            # a head log's sequence numbers have 63 bits; longer texts are none
            if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
                raise InvalidRequest("X-Filecoin-Min-Head: not a sequence number")
            await ctx.wait_for_head(int(text), self.settings.min_head_wait_seconds)
        except Exception as raised:
            error = wire_error(raised)
            forget_frames(raised)
            status, answer = refused_answer(error, None)
            return (503 if isinstance(error, Unavailable) else status), answer
        return None

    async def _one(self, ctx: Context, request: Request, body: bytes | None = None) -> tuple[int, Text]:
        """`body`: the request's own bytes, where it came alone."""
        started = now()
        request_id = request.id
        stats = self._unknown
        call: Call | None = None
        flight: Flight | None = None
        failed = True
        error: RpcError
        try:
            route = self._routes[ctx.version].get(request.method)
            if route is None and request.method in self._methods[ctx.version]:
                # the first call of a method is kept too
                route = self._route(ctx.version, request.method)
            if route is not None and self.gate is not None:
                self.gate.admit(ctx, route[0])
            if route is not None and self.answers is not None and request_id is not None:
                # before the parameters are decoded: equal ones have been
                found = await self._ask_kept(ctx, route[0], route[1], request.params)
                if type(found) is Kept:
                    stats = route[1]
                    if len(found.text) > SHORT_TEXT:
                        self._reserve_answer(ctx, len(found.text), len(found.text))
                    if body is not None and self.finds_raw:
                        # another way of writing a question that has been asked
                        self.answers.keep_request(found, ctx.version, body, request)
                    stats.add(started, 0)
                    if ctx.stages is not None:
                        ctx.stages.append(("cache", now()))
                    return 200, self.answers.whole(request_id, found)
                flight = found  # type: ignore[assignment]
            if ctx.stages is not None:
                ctx.stages.append(("cache", now()))
            call = self.resolve(ctx, request)
            stats = call.stats
            if call.method.channel:
                raise MethodNotFound(f"method '{request.method}' not supported in this mode (no out channel support)")
            if self.guard is not None:
                await self.guard(ctx, call.method)
            if self.gate is not None:
                await self.gate.check(ctx, call, is_admitted=route is not None)
            if ctx.stages is not None:
                ctx.stages.append(("decode", now()))
            if self.read_through is None:
                result = await self._result(ctx, call)
            else:
                result = await self.read_through.run(self._result, ctx, call, request.params)
            if ctx.stages is not None:
                ctx.stages.append(("answer", now()))
            if request_id is None:
                stats.add(started, 0)
                return 200, b""
            kind = type(result)
            if (kind is dict or kind is list) and is_large(result):
                text = await self._encode_large(ctx, result)
                # freeing takes a turn of its own
                result = None
                await ctx.checkpoint()
            else:
                text = as_text(result if kind is JsonText else self.encode(result))
                if len(text) > SHORT_TEXT:
                    self._reserve_answer(ctx, len(text), len(text))
                    result = None
                    await ctx.checkpoint()
            if self.shadow is not None:
                self.shadow.look(ctx, call, request.params, text)
            if flight is not None and self.answers is not None:
                answer = answer_with(request_id, self.answers.land(flight, ctx, text, request, body))
            else:
                answer = answer_of(request_id, text)
            stats.add(started, 0)
            if ctx.stages is not None:
                ctx.stages.append(("encode", now()))
            return 200, answer
        except asyncio.CancelledError:
            failed = False
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # not this request was cancelled, but one that it shared some work with
            error = Unavailable("what this answer waited for was given up: ask again")
        except Exception as raised:
            error = self._fault(raised, call, request.method)
        finally:
            if flight is not None and self.answers is not None:
                self.answers.give_up(flight, failed=failed)
        ctx.cache_status = None
        stats.add(started, error.code)
        if request_id is None and not error.protocol:
            return 200, b""
        return refused_answer(error, request_id)

    async def _result(self, ctx: Context, call: Call) -> Any:
        """What a call's method returns, in the lane of its cost class. Errors: the method's; Refused."""
        lane = call.lane
        if lane is None:
            return await call.method.handler(ctx, *call.arguments)
        own = None if ctx.lane_places is None else ctx.place_in(lane)
        if (own is not None and own.locked()) or not lane.try_enter(ctx.account):
            return await self._in_lane(lane, ctx, call, own)
        if own is not None:
            await own.acquire()  # it is free: this does not wait
        try:
            return await call.method.handler(ctx, *call.arguments)
        finally:
            lane.leave(ctx.account)
            if own is not None:
                own.release()

    async def _in_lane(self, lane: Lane, ctx: Context, call: Call, own: asyncio.Semaphore | None) -> Any:
        """The result of a call that waits for the lane of its cost class. Errors: Refused, TimeBudgetExceeded."""
        if own is None:
            return await self._run_in_lane(lane, ctx, call)
        async with own:
            return await self._run_in_lane(lane, ctx, call)

    @staticmethod
    async def _run_in_lane(lane: Lane, ctx: Context, call: Call) -> Any:
        await lane.enter(ctx.account)
        try:
            if ctx.stages is not None:
                ctx.stages.append(("queue", now()))
            await ctx.checkpoint()
            return await call.method.handler(ctx, *call.arguments)
        finally:
            lane.leave(ctx.account)

    def _reserve_answer(self, ctx: Context, size: int, more: int) -> None:
        limit = self.settings.max_answer_bytes
        if size > limit:
            raise answer_too_big(limit)
        ctx.reserve(more)

    async def _encode_large(self, ctx: Context, result: Any) -> Text:
        """The text of a large result, written piece by piece. Errors: LimitExceeded, Refused, TimeBudgetExceeded."""
        builder = TextBuilder()
        for piece in encode_pieces(result, self.encode):
            builder.write(piece)
            self._reserve_answer(ctx, builder.size, len(piece))
            await ctx.checkpoint()
        return as_text(builder.text())

    async def _batch(self, ctx: Context, values: Any) -> tuple[int, Text]:
        if type(values) is not list:
            raise ParseError
        if not values:
            raise InvalidRequest
        if len(values) > self.settings.max_batch:
            raise batch_too_big(self.settings.max_batch, len(values))
        requests = [read_request(value) for value in values]
        ctx.stages = None
        ctx.time_budget_seconds, ctx.deadline = self.settings.batch_seconds, None
        ctx.lane_places = {}
        answers: list[Text] = []
        size = checked = 0
        reserved = ctx.reserved_bytes
        refused: RpcError | None = None
        width = self.settings.batch_parallel
        for at in range(0, len(requests), width):
            part = requests[at : at + width]
            if at >= checked + _CALLS_BETWEEN_CHECKPOINTS:
                checked = at
                try:
                    await ctx.checkpoint()
                except TimeBudgetExceeded as error:
                    forget_frames(error)
                    refused = error
            if size > self.settings.max_batch_answer_bytes:
                refused = batch_answer_too_big(self.settings.max_batch_answer_bytes)
            if refused is not None:
                answers += [refused_answer(refused, request.id)[1] for request in part if request.id is not None]
                continue
            for _, answer in await together(self._answer_call(ctx, request) for request in part):
                if answer:
                    answers.append(answer)
                    size += len(answer)
            # large answers have been counted one by one
            uncounted = size - (ctx.reserved_bytes - reserved)
            if uncounted > SHORT_TEXT:
                try:
                    ctx.reserve(uncounted)
                except Refused as error:
                    forget_frames(error)
                    refused = error
        ctx.cache_status = None
        if not answers:
            return 200, b""
        return 200, answer_to_batch(answers, size)

    # --- both ----------------------------------------------------------------------------------------

    def resolve(self, ctx: Context, request: Request) -> Call:
        """The method a request names, with its parameters. Errors: RpcError, as go-jsonrpc orders them."""
        if request.fault is not None:
            raise request.fault
        name = request.method
        found = self._routes[ctx.version].get(name) or self._route(ctx.version, name)
        method, stats, lane = found
        if method.channel and ctx.session is None:
            return Call(method, [], stats)
        arguments = decode_arguments(method, request)
        if method.perm not in ctx.permissions:
            raise MethodError(f"missing permission to invoke '{method.field}' (need '{method.perm}')")
        return Call(method, arguments, stats, lane)

    def _route(self, version: int, name: str) -> tuple[Method, MethodStats, Lane | None]:
        """Look a method up for the first time. Errors: NotServed, MethodNotFound."""
        method = self._methods[version].get(name)
        if method is None:
            if name in self._known[version]:
                raise NotServed(name)
            raise MethodNotFound(f"method '{name}' not found")
        lane = self.admission.lanes.get(method.cost.value)
        route = self._routes[version][name] = method, self.metrics.method(method.name), lane
        return route

    def _fault(self, raised: Exception, call: Call | None, name: str) -> RpcError:
        if isinstance(raised, BadCid) and call is not None and UNDEFINED_CID in call.arguments:
            # what Lotus' store says when it is asked for the undefined CID, which null stands for
            return MethodError("error decoding identity cid b: multihash too short. must be >= 2 bytes")
        if isinstance(raised, Missing) and call is not None and not is_named(call.arguments, raised.key):
            services = self.services
            error = wire_error(not_held(services.objects, raised, kept=services.index.known_kept.text()), name)
        else:
            error = wire_error(raised, name)
        forget_frames(raised)
        return error

    # --- WebSocket -----------------------------------------------------------------------------------

    async def answer(self, ctx: Context, request: Request) -> Text | None:
        """The answer to one WebSocket call of a method without a channel; None for a notification."""
        _, answer = await self._answer_call(ctx, request)
        return None if request.id is None else answer

    def channel(self, ctx: Context, call: Call) -> AsyncIterator[Any]:
        """What a channel method pushes."""
        return call.method.handler(ctx, *call.arguments)  # type: ignore[no-any-return]


def versions_of(path: str) -> Versions | None:
    """The API version of a request path, or None where nothing lives."""
    return {"/rpc/v0": V0, "/rpc/v1": V1, "/rpc/v2": V2}.get(path)
