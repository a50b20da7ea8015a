"""The server: one listener whose connections begin on the hot path, and aiohttp for all the rest.

    server = await serve(services, "127.0.0.1", 1234)
    await server.stop(drain_seconds=5)

Paths: `/rpc/v0`, `/rpc/v1`, `/rpc/v2` (POST and WebSocket), `/health/livez`, `/health/readyz`, `/livez`,
`/readyz`, `/healthz`, `/metrics`, `/debug/metrics`; then what `Server.add_pages` added. Else Lotus' 404.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import WSCloseCode, web
from aiohttp.web_request import BaseRequest
from prometheus_client import GCCollector, ProcessCollector

from rpc.context import Context
from rpc.errors import Refused
from rpc.json_wire import encode_error
from rpc.registry import REGISTRY, Registry
from rpc.server.aiohttp_server import AiohttpHandler, AiohttpServer
from rpc.server.auth import Tokens
from rpc.server.client_address import Clients
from rpc.server.dispatch import Dispatcher
from rpc.server.gate.proxied import ProxiedConnection
from rpc.server.gate.tenants import account_of
from rpc.server.health import Health
from rpc.server.http_log import http_log
from rpc.server.http_protocol import HttpProtocol
from rpc.server.limits import ServerSettings, body_too_big
from rpc.server.metrics import CONTENT_TYPE, Metrics
from rpc.server.observe.observer import CallTracer, Observer
from rpc.server.observe.request_log import RequestLog
from rpc.server.observe.trace_parent import TracedHttpProtocol, take_trace_parent
from rpc.server.server_state import EXPOSED, ServerState, retry_after, wants_verbose
from rpc.server.websocket import WebSocketSession
from rpc.services import Head, Services

log = logging.getLogger("follower.rpc")

_VERSIONS: Final = {"/rpc/v0": 0, "/rpc/v1": 1, "/rpc/v2": 2}
_JSON: Final = "application/json"
#: seconds for which the text of the metrics is kept
_METRICS_SECONDS: Final = 0.5
#: seconds that what is not on the hot path gets to end, at least
_LEAST_SHUTDOWN: Final = 0.01
#: seconds between two looks at the connections' deadlines
_SWEEP: Final = 1.0
#: connections that are looked at in one turn of the loop
_SWEPT_AT_ONCE: Final = 32

#: answers some paths, and gives None for those that it does not know
Pages = Callable[[BaseRequest], Awaitable[web.StreamResponse | None]]


class Server:
    """A running server. Made by `serve`; ended by `stop`."""

    def __init__(
        self,
        services: Services,
        registry: Registry,
        settings: ServerSettings,
        dispatcher: Dispatcher | None = None,
    ) -> None:
        self.settings = settings
        self.dispatcher = dispatcher or Dispatcher(services, registry, settings=settings)
        self.metrics: Metrics = self.dispatcher.metrics
        self.health = Health(services.checks)
        self.tokens = Tokens(settings.jwt_secret, settings.default_permissions, settings.tenants)
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._web = AiohttpServer(
            self._other,
            self.dispatcher.admission,
            access_log=None,
            logger=http_log,
            keepalive_timeout=settings.idle_timeout_seconds,
            max_line_size=settings.max_head_bytes,
            max_field_size=settings.max_head_bytes,
            auto_decompress=False,
            handler_cancellation=True,
        )
        self._shared = ServerState(
            loop=self._loop,
            dispatcher=self.dispatcher,
            settings=settings,
            wire=self.tokens,
            other=self._hand_over,
            clients=Clients(settings.trusted_proxies),
        )
        self._sockets: dict[web.WebSocketResponse, WebSocketSession] = {}
        self._listeners: list[asyncio.Server] = []
        self._sweeper = self._loop.create_task(self._sweep())
        self._head: Head | None = None
        self._metrics_text = b""
        self._metrics_until = 0.0
        self._stopped = False
        self._pages: list[Pages] = []
        self._tracer: CallTracer | None = None
        self.host = ""
        self.port = 0
        self._register_metrics()
        self.look_at_log_level()

    @property
    def clients(self) -> Clients:
        """Tells the clients of this server's connections apart."""
        return self._shared.clients

    @property
    def url(self) -> str:
        """The v1 endpoint."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/rpc/v1"

    async def listen(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        reuse_port: bool = True,
        backlog: int = 1024,
    ) -> tuple[str, int]:
        """Start to accept; (host, port). Port 0 takes a free one. With `tls` no PROXY header is read. Errors: OSError.

        The first place is the one that `host` and `port` tell.
        """
        accept = self._accept if tls is None else self._accept_http
        listener = await self._loop.create_server(
            accept, host, port, ssl=tls, reuse_port=reuse_port or None, backlog=backlog
        )
        for sock in listener.sockets:
            # a peer that has vanished is noticed; accepted sockets inherit it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._listeners.append(listener)
        place: tuple[str, int] = listener.sockets[0].getsockname()[:2]
        if len(self._listeners) == 1:
            self.host, self.port = place
        return place

    def look_at_log_level(self) -> None:
        """Observe requests where the log takes their lines now, or calls are traced; else do not: it costs nothing."""
        level = self.settings.request_log_level
        log = RequestLog(level) if level and RequestLog(level).is_on else None
        is_observed = log is not None or self._tracer is not None
        self.dispatcher.observe(Observer(log, self.dispatcher.is_named, self._tracer) if is_observed else None)

    def trace(self, tracer: CallTracer) -> None:
        """Trace calls from now on, of connections that come from now on with the trace that they continue."""
        self._tracer = tracer
        self.look_at_log_level()

    def drain(self) -> None:
        """Go on answering, but say that this server stops: not ready, connections closed behind their next answer,
        no new WebSocket. `stop` comes after it, once balancers had the time to notice.
        """
        self.health.draining = True
        self._shared.draining = True

    def resume(self) -> bool:
        """Take a `drain` back; whether that was possible: not once `stop` has begun."""
        if not self._stopped:
            self.health.draining = False
            self._shared.draining = False
        return not self._stopped

    async def stop(self, drain_seconds: float = 5.0) -> None:
        """Accept no more, let what is under way end for a while, then close everything. Twice does nothing."""
        if self._stopped:
            return
        self._stopped = True
        self.drain()
        for listener in self._listeners:
            listener.close()
        for connection in list(self._shared.connections):
            connection.drain()
        closing = [self._send_away(ws, connection, drain_seconds) for ws, connection in list(self._sockets.items())]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await asyncio.gather(*closing, return_exceptions=True)
                await self._shared.empty()
                await self.dispatcher.drained()
        for connection in list(self._shared.connections):
            connection.transport.close()
        # 0 would be no limit there
        await self._web.shutdown(min(max(drain_seconds, _LEAST_SHUTDOWN), 1.0))
        self._sweeper.cancel()
        await asyncio.gather(self._sweeper, return_exceptions=True)

    @staticmethod
    async def _send_away(ws: web.WebSocketResponse, connection: WebSocketSession, seconds: float) -> None:
        """Close a WebSocket behind the answers to the calls that are under way; its channels end with it."""
        with contextlib.suppress(TimeoutError):
            # a call that takes longer is given up, but not without a word
            async with asyncio.timeout(seconds * 3 / 4):
                await connection.wait_until_idle()
        await ws.close(code=WSCloseCode.GOING_AWAY, message=b"server stops")

    # --- connections ---------------------------------------------------------------------------------

    def abort_connections(self) -> None:
        """Cut every connection without a word, as a network does that breaks; listening goes on."""
        for connection in list(self._shared.connections):
            connection.transport.abort()
        for ws in list(self._sockets):
            transport = ws.get_extra_info("transport") if ws.prepared else None
            request = ws._req
            transport = transport or (request.transport if request is not None else None)
            if transport is not None:
                transport.abort()

    def _accept(self) -> asyncio.Protocol:
        if self.settings.proxy_protocol:
            return ProxiedConnection(self._shared, self._accept_http)
        return self._accept_http()

    def _accept_http(self) -> asyncio.Protocol:
        return (HttpProtocol if self._tracer is None else TracedHttpProtocol)(self._shared)

    def _hand_over(self, account: str) -> asyncio.Protocol:
        return self._web.handler(account)

    async def _sweep(self) -> None:
        """Close the connections whose deadlines have passed."""
        while True:
            await asyncio.sleep(_SWEEP)
            now = self._loop.time()
            for number, connection in enumerate(list(self._shared.connections)):
                if number % _SWEPT_AT_ONCE == 0:
                    # thousands of them would keep the loop
                    await asyncio.sleep(0)
                connection.settle()
                if connection.deadline and connection.deadline < now:
                    try:
                        connection.expire()
                    except Exception:
                        log.exception("a connection could not be closed in order")
                        connection.transport.abort()
            for number, session in enumerate(list(self._sockets.values())):
                if number % _SWEPT_AT_ONCE == 0:
                    await asyncio.sleep(0)
                session.check_progress(now)

    # --- everything that is not on the hot path --------------------------------------------------------

    def add_pages(self, pages: Pages) -> None:
        """Answer further paths, those that others were added for first."""
        self._pages.append(pages)

    async def _other(self, request: BaseRequest) -> web.StreamResponse:
        response = await self._routed(request)
        if not response.prepared:
            if self._shared.draining:
                response.force_close()
            if isinstance(response, web.Response) and isinstance(response.body, bytes | bytearray):
                await self._send(request, response, len(response.body))
        return response

    async def _routed(self, request: BaseRequest) -> web.StreamResponse:
        path = request.path
        version = _VERSIONS.get(path)
        if version is not None:
            return await self._rpc(request, version)
        if path in ("/metrics", "/debug/metrics"):
            return await self._metrics()
        query = request.query
        health = await self.health.answer(path, verbose="verbose" in query, last_resort="last-resort" in query)
        if health is not None:
            return web.Response(status=health[0], text=health[1])
        for pages in self._pages:
            if (page := await pages(request)) is not None:
                return page
        return web.Response(status=404, text="404 page not found\n", headers={"X-Content-Type-Options": "nosniff"})

    def _headers(self) -> dict[str, str]:
        if not self.settings.cors_origin:
            return {}
        return {
            "Access-Control-Allow-Origin": self.settings.cors_origin,
            "Access-Control-Expose-Headers": EXPOSED,
        }

    async def _rpc(self, request: BaseRequest, version: int) -> web.StreamResponse:
        headers = self._headers()
        path = request.path.encode()
        if self._tracer is not None:
            take_trace_parent(request, self._shared.clients)
        if self.settings.cors_preflight and request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = "POST, PUT, GET, OPTIONS"
            headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, X-Filecoin-Min-Head"
            headers["Access-Control-Max-Age"] = "86400"
            return web.Response(status=204, headers=headers)
        permissions = self.tokens.permissions(request.headers.get("Authorization"), request.query_string.encode())
        if permissions is None:
            self._shared.tell_refused(path, 401, 0, lambda: self._client(request))
            return web.Response(status=401, headers=headers)
        if "upgrade" in request.headers.get("Connection", "").lower():
            return await self._websocket(request, version, permissions)
        ctx = self.dispatcher.context(version, permissions)
        ctx.account = account_of(permissions, self._account(request))
        ctx.verbose = wants_verbose(request.query_string.encode())
        ctx.find_client = lambda: self._client(request)
        try:
            body = await self._body(request, ctx)
            if body is None:
                too_big = body_too_big(self.settings.max_body_bytes)
                self._shared.tell_refused(path, 500, too_big.code, lambda: self._client(request))
                answer = web.Response(status=500, body=encode_error(too_big, b"null"), content_type=_JSON)
                answer.force_close()
                return answer
            status, out = await self.dispatcher.http(version, body, ctx, request.headers.get("X-Filecoin-Min-Head"))
            if status in (429, 503):
                headers["Retry-After"] = str(retry_after(ctx))
            return await self._answer(request, status, out, headers, ctx)
        except Refused as refused:
            self._shared.tell_refused(path, refused.http_status, refused.code, lambda: self._client(request))
            headers["Retry-After"] = str(retry_after(ctx, refused))
            answer = web.Response(
                status=refused.http_status, body=encode_error(refused, b"null"), content_type=_JSON, headers=headers
            )
            answer.force_close()
            return answer
        finally:
            ctx.release()

    async def _answer(
        self, request: BaseRequest, status: int, body: bytes, headers: dict[str, str], ctx: Context
    ) -> web.StreamResponse:
        """Send an answer. The memory that it takes is counted until the peer has read it."""
        if ctx.pinned is not None:
            headers["X-Filecoin-Head"] = ctx.pinned.text.decode()
            headers["X-Filecoin-Head-Age"] = str(ctx.pinned.age_seconds(int(time.time())))
        headers.update(ctx.added_headers())
        response = web.Response(status=status, body=body, content_type=_JSON, headers=headers)
        if self._shared.draining:
            # here, for the answer may be on its way when this returns
            response.force_close()
        if ctx.reserved_bytes:
            await self._send(request, response, len(body))
        return response

    async def _send(self, request: BaseRequest, response: web.StreamResponse, size: int) -> None:
        """Send a whole answer of `size` bytes. Who does not read loses the connection. Errors: ConnectionResetError."""
        seconds = self.settings.write_timeout_seconds + size / self.settings.min_transfer_rate
        try:
            async with asyncio.timeout(seconds):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the answer was not read") from None

    def _account(self, request: BaseRequest) -> str:
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", ()))
        return self._shared.clients.account_of_transport(request.transport, forwarded)

    def _client(self, request: BaseRequest) -> str:
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", ()))
        return self._shared.clients.of_transport(request.transport, forwarded)

    async def _body(self, request: BaseRequest, ctx: Context) -> bytes | None:
        """The body, or None when it is too big. Errors: HTTPRequestTimeout (it comes too slowly), Refused."""
        settings = self.settings
        limit = settings.max_body_bytes
        if (request.content_length or 0) > limit:
            return None
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        started = self._loop.time()
        try:
            while True:
                # the whole body, at the least rate: a trickle earns no more time
                deadline = started + settings.body_timeout_seconds + len(body) / settings.min_transfer_rate
                async with asyncio.timeout_at(deadline):
                    part = await request.content.readany()
                if not part:
                    return bytes(body)
                if len(body) + len(part) > limit:
                    return None
                ctx.reserve(len(part))
                body += part
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="the body did not come\n") from None

    async def _websocket(self, request: BaseRequest, version: int, permissions: frozenset[str]) -> web.StreamResponse:
        offered = [p.strip() for p in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if p.strip()]
        ws = web.WebSocketResponse(
            # no heartbeat: its timers are due at whole seconds, those of thousands at once; sessions ping in turns
            compress=False,
            max_msg_size=self.settings.max_ws_message_bytes,
            protocols=offered,
            decode_text=False,
        )
        ws.headers["Access-Control-Allow-Origin"] = "*"
        if self.health.draining:
            return web.Response(status=503)
        account = self._account(request)
        sessions = self.dispatcher.admission.websockets
        try:
            sessions.take(account)
        except Refused as refused:
            path = request.path.encode()
            self._shared.tell_refused(path, refused.http_status, refused.code, lambda: self._client(request))
            again = {"Retry-After": str(retry_after(error=refused))}
            body = encode_error(refused, b"null")
            return web.Response(status=refused.http_status, body=body, content_type=_JSON, headers=again)
        try:
            await ws.prepare(request)
            connection = self._sockets[ws] = WebSocketSession(
                self.dispatcher, ws, version, permissions, self._client(request), account_of(permissions, account)
            )
            handler = request.protocol
            assert isinstance(handler, AiohttpHandler)
            handler.on_data = connection.count_received
            try:
                await connection.run()
            finally:
                handler.on_data = None
                del self._sockets[ws]
        finally:
            sessions.give(account)
        return ws

    # --- metrics ---------------------------------------------------------------------------------------

    async def _metrics(self) -> web.Response:
        if self._loop.time() < self._metrics_until:
            # writing them takes some milliseconds: whoever asks more often reads the same text
            return web.Response(body=self._metrics_text, headers={"Content-Type": CONTENT_TYPE})
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                self._head = await self._services.head_source.current()
        self._metrics_text = self.metrics.text()
        self._metrics_until = self._loop.time() + _METRICS_SECONDS
        return web.Response(body=self._metrics_text, headers={"Content-Type": CONTENT_TYPE})

    def _register_metrics(self) -> None:
        metrics = self.metrics
        metrics.gauge("follower_rpc_in_flight", "Requests under way.", lambda: self.dispatcher.in_flight)
        self._shared.register_metrics(metrics)
        metrics.gauge("follower_rpc_websockets", "WebSocket sessions.", lambda: len(self._sockets))
        metrics.add_budgets(self.dispatcher.admission, self.dispatcher.refusals)
        answers = self.dispatcher.answers
        if answers is not None:
            metrics.gauge("follower_rpc_answers_kept", "Answers that are kept as bytes.", lambda: answers.count)
            metrics.gauge("follower_rpc_answers_kept_bytes", "Memory that they take, about.", lambda: answers.size)
        metrics.counter(
            "follower_rpc_slow_channels",
            "Channels closed because their client read too slowly.",
            lambda: self.dispatcher.slow_channels,
        )
        metrics.gauge(
            "follower_head_height", "Epoch of the head.", lambda: self._head.tipset.height if self._head else 0
        )
        metrics.gauge("follower_head_seq", "Sequence number of the head.", lambda: self._head.seq if self._head else 0)
        with contextlib.suppress(ValueError):
            ProcessCollector(registry=metrics.registry)
            GCCollector(registry=metrics.registry)


async def serve(
    services: Services,
    host: str,
    port: int,
    *,
    settings: ServerSettings | None = None,
    registry: Registry = REGISTRY,
    dispatcher: Dispatcher | None = None,
    reuse_port: bool = True,
) -> Server:
    """Start serving `registry` over `services`; several processes may share one port. Errors: OSError.

    The methods of a follower are in the registry once `rpc.methods` has been imported.
    """
    if dispatcher is not None:
        settings = dispatcher.settings
    server = Server(services, registry, settings or ServerSettings(), dispatcher)
    try:
        await server.listen(host, port, reuse_port=reuse_port)
    except BaseException:
        await server.stop(0)
        raise
    return server
