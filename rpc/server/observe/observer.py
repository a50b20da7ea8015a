"""Stands around the ways into the dispatcher while somebody observes, and tells them what was answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context as ContextOfVariables
from contextvars import ContextVar, copy_context
from typing import Any, Final, Protocol

from rpc.context import Context
from rpc.errors import RpcError
from rpc.json_wire import Text
from rpc.observe.call_record import CURRENT_CALL, CallRecord, CallSpans
from rpc.server.metrics import now
from rpc.server.observe.answered import CLIENT_GONE, Answered, error_code
from rpc.server.observe.in_context import InContext
from rpc.server.observe.request_log import RequestLog
from rpc.server.request import Request

#: answers one call: (context, request, the request's own bytes where it came alone)
AnswerCall = Callable[..., Coroutine[Any, Any, tuple[int, Text]]]
#: answers one HTTP request: (version, body, context, the least head)
AnswerHttp = Callable[..., Coroutine[Any, Any, tuple[int, Text]]]
#: looks a call up among those that are kept: (context, …)
AskKept = Callable[..., Awaitable[Any]]

_UNKNOWN: Final = "unknown"
_NOTHING: Final[Text] = b""


class TracedCall(CallSpans, Protocol):
    """The spans of a call, which end with it."""

    def end(self, answered: Answered) -> None:
        """The call is answered."""


class CallTracer(Protocol):
    """Begins traces. `rpc/server/observe/tracing.py` has the real one."""

    def begin(self, name: str, variables: ContextOfVariables) -> TracedCall | None:
        """Begin the span of a call, current in `variables`; None where it is not sampled."""


class _HttpRequest:
    """One HTTP request: how many of its calls were told."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


_CURRENT_HTTP: Final[ContextVar[_HttpRequest | None]] = ContextVar("current_http", default=None)


class Observer:
    """Tells `log` of everything that is answered, and `tracer` of calls and batches; each may be None.

    `is_named(version, method)`: whether a method's name may be told. A client can send anything as a name, a secret by
    mistake too, so other names are told as "unknown".
    """

    def __init__(
        self, log: RequestLog | None, is_named: Callable[[int, str], bool], tracer: CallTracer | None = None
    ) -> None:
        self._log = log
        self._is_named = is_named
        self._tracer = tracer

    # --- around the dispatcher's ways in -------------------------------------------------------------

    def around_http(self, answer_http: AnswerHttp) -> AnswerHttp:
        """`answer_http`, with a line for a request of which no call was reached."""

        async def answer(
            version: int, body: bytes, ctx: Context | None = None, min_head: str | None = None
        ) -> tuple[int, Text]:
            if ctx is None:
                return await answer_http(version, body, ctx, min_head)
            started = now()
            request = _HttpRequest()
            context = copy_context()
            context.run(_CURRENT_HTTP.set, request)
            is_batch = self._tracer is not None and body.lstrip()[:1] == b"["
            traced = self._begin("batch", context) if is_batch else None
            status, text = CLIENT_GONE, _NOTHING
            try:
                status, text = await InContext(context, answer_http(version, body, ctx, min_head))
            finally:
                if traced is not None or not request.calls:
                    told = Answered.of(ctx)
                    told.seconds, told.status = now() - started, status
                    told.code, told.size = error_code(text), len(text)
                    if traced is not None:
                        traced.end(told)
                    if not request.calls:
                        self._write(told)
            return status, text

        return answer

    def around_call(self, answer_call: AnswerCall) -> AnswerCall:
        """`answer_call`, with a line for each call."""

        async def answer(ctx: Context, request: Request, body: bytes | None = None) -> tuple[int, Text]:
            whole = _CURRENT_HTTP.get()
            if whole is not None:
                whole.calls += 1
            context = copy_context()
            traced = self._begin(self._method_name(ctx.version, request.method), context)
            if traced is None and self._log is None:
                return await answer_call(ctx, request, body)
            started = now()
            record = CallRecord()
            record.spans = traced
            context.run(CURRENT_CALL.set, record)
            status, text = CLIENT_GONE, _NOTHING
            try:
                status, text = await InContext(context, answer_call(ctx, request, body))
            except asyncio.CancelledError:
                self._called(ctx, request, record, traced, started, CLIENT_GONE, text)
                raise
            self._called(ctx, request, record, traced, started, status, text)
            return status, text

        return answer

    def around_ask(self, ask: AskKept) -> AskKept:
        """`ask`, with a note of what was found: the calls of a batch share a context, so it must be noted at once."""

        async def asking(ctx: Context, *arguments: Any) -> Any:
            ctx.cache_status = None
            found = await ask(ctx, *arguments)
            record = CURRENT_CALL.get()
            if record is not None:
                record.cache = "" if ctx.cache_status is None else ctx.cache_status.decode()
            return found

        return asking

    def _called(
        self,
        ctx: Context,
        request: Request,
        record: CallRecord,
        traced: TracedCall | None,
        started: float,
        status: int,
        text: Text,
    ) -> None:
        told = Answered.of(ctx)
        told.method = self._method_name(ctx.version, request.method)
        told.request_id = request.id
        told.seconds = now() - started
        told.status, told.code, told.size = status, error_code(text), len(text)
        told.cache, told.source = "" if told.code else record.cache, record.source
        if traced is not None:
            traced.end(told)
        self._write(told)

    def _begin(self, name: str, variables: ContextOfVariables) -> TracedCall | None:
        return None if self._tracer is None else self._tracer.begin(name, variables)

    def _write(self, told: Answered) -> None:
        if self._log is not None:
            self._log.write(told)

    # --- what does not come by there -----------------------------------------------------------------

    def channel(self, ctx: Context, request: Request, started: float, error: RpcError | None) -> None:
        """A call of a method with a channel was answered: the channel is open, or there is an `error`."""
        told = Answered.of(ctx)
        told.method = self._method_name(ctx.version, request.method)
        told.request_id = request.id
        told.seconds = now() - started
        told.code = 0 if error is None else error.code
        self._write(told)

    def refused(self, version: int | None, status: int, code: int, client: str) -> None:
        """A request was refused before it was read. `version`: None where it has named none; `code`: 0 for none."""
        self._write(Answered(version, client=client, status=status, code=code))

    def _method_name(self, version: int, name: str) -> str:
        return name if self._is_named(version, name) else _UNKNOWN
