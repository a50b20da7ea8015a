"""The hot path: POST of a request with a length, read by httptools and answered in the same stack.

One `HttpProtocol` is one connection. It reads a request's head, looks whether it is one of its own (POST or
PUT to an RPC path, with a Content-Length), takes the body, runs the dispatcher at once and writes the
answer; the next request of the connection is looked at only then, so answers keep their order and one
connection holds one request. Anything else (WebSocket upgrades, GET, chunked bodies, health, metrics) is
handed over, with its bytes and the transport, to what `ServerState.other` makes: aiohttp's handler.

Everything here is bounded: the head, the body, the memory of all bodies and unsent answers (`Admission.memory`), the
time that each stage may take, and what is read ahead while an answer is under way or the peer does not take it.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

import httptools

from rpc.context import Context
from rpc.errors import InvalidRequest, ParseError, Refused, RpcError
from rpc.json_wire import Text, encode_error
from rpc.server.gate.tenants import account_of
from rpc.server.http_head import CLOSE, HEAD_END, RPC_BEGINNINGS, RPC_PATHS, STAY_OPEN, RequestHead
from rpc.server.limits import body_too_big, head_too_long
from rpc.server.run_until_blocked import Running, run_until_blocked
from rpc.server.server_state import TURN_REQUESTS, ServerState, retry_after, wants_verbose

log = logging.getLogger("follower.rpc")

#: parts of bodies up to this size are not counted as memory
_SMALL: Final = 16 << 10
#: how much of a refused body is read and dropped, so that the peer gets to read the refusal
_LINGER_BYTES: Final = 256 << 20

# what a connection is doing
_HEAD: Final = 0  # between requests, or in the middle of a head
_BODY: Final = 1
_RUN: Final = 2
_LINGER: Final = 3  # refused; what still comes is dropped
_GONE: Final = 4


class HttpProtocol(RequestHead, asyncio.Protocol):
    """One connection. `deadline` (loop time; 0: none) is looked at by the server's sweeper."""

    __slots__ = (
        "_account", "_body", "_body_started", "_dropped", "_eof", "_is_parsed", "_keep", "_peer_account", "_reading",
        "_reserved", "_rest", "_running", "_shared", "_state", "_unsent", "_unsent_mark", "_writable", "deadline",
        "parser", "transport",
    )  # fmt: skip

    def __init__(self, shared: ServerState) -> None:
        super().__init__()
        self._shared = shared
        self._state = _HEAD
        #: bytes not looked at yet: an unfinished head, or requests behind the one under way
        self._rest = b""
        self._body: bytearray | bytes = b""
        #: whose shares the connection and the request use
        self._peer_account = ""
        self._account = ""
        #: bytes of memory that are counted for the body, and the requests whose answers have not left
        self._reserved = 0
        self._unsent: list[Context] = []
        self._unsent_mark = 0
        self._eof = False
        self._keep = False
        self._writable = True
        self._reading = True
        self._running: Running[tuple[int, Text]] | None = None
        self.deadline = 0.0
        self.transport: asyncio.Transport = None  # type: ignore[assignment]

    # --- connection ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        shared = self._shared
        self.transport = transport  # type: ignore[assignment]
        self._peer_account = shared.clients.account_of_transport(transport)
        try:
            shared.dispatcher.admission.connections.take(self._peer_account)
        except Refused as refused:
            self._state = _GONE
            shared.tell_refused(self.url, refused.http_status, refused.code, self._client)
            lines = b"\r\nRetry-After: %d" % retry_after(error=refused)
            self._write(refused.http_status, encode_error(refused, b"null"), close=True, lines=lines)
            shared.send(self.transport, None)
            return
        shared.connections.add(self)
        self.parser = httptools.HttpRequestParser(self)
        self.deadline = shared.loop.time() + shared.settings.idle_timeout_seconds

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _GONE
        if self in self._shared.connections:
            self._shared.leave(self)
            self._shared.dispatcher.admission.connections.give(self._peer_account)
        self._rest = self._body = b""
        if self._running is not None and self._running.task is not None:
            self._running.task.cancel()
        self._release()
        for ctx in self._unsent:
            ctx.release()
        self._unsent.clear()

    def eof_received(self) -> bool:
        """A peer that has said all may still read: for a while its answer is waited for."""
        self._eof = True
        if self._state == _RUN:
            self.deadline = self._shared.loop.time() + self._shared.settings.eof_timeout_seconds
        if self._state != _RUN:
            self._shared.send(self.transport, None)
        return True

    def pause_writing(self) -> None:
        self._writable = False
        self._unsent_mark = self.transport.get_write_buffer_size()
        self.deadline = self._shared.loop.time() + self._shared.settings.write_timeout_seconds
        self._pause()

    def resume_writing(self) -> None:
        self._writable = True
        self.settle()
        if self._state == _RUN:
            self.deadline = 0.0
        if self._state == _HEAD:
            self.deadline = self._shared.loop.time() + self._shared.settings.idle_timeout_seconds
            self._shared.loop.call_soon(self._work)

    @property
    def idle(self) -> bool:
        """Whether nothing of a request has come."""
        return self._state == _HEAD and not self._rest and self._writable

    def expire(self) -> None:
        """The deadline has passed: tell the peer where that helps, then close."""
        state = self._state
        if not self._writable and self._reads_on():
            return
        if not self._writable or state in (_RUN, _LINGER, _GONE):
            self.transport.abort()
        elif state == _HEAD and not self._rest:
            self._shared.send(self.transport, None)
        else:
            self._refuse(408, ParseError("reading request: timed out"))

    def _reads_on(self) -> bool:
        """Whether the peer has taken enough since the last look; it has that much time again then."""
        settings = self._shared.settings
        size = self.transport.get_write_buffer_size()
        if self._unsent_mark - size < settings.write_timeout_seconds * settings.min_transfer_rate:
            return False
        self._unsent_mark = size
        self.deadline = self._shared.loop.time() + settings.write_timeout_seconds
        return True

    def settle(self) -> None:
        """Give back the memory of answers that have left."""
        if self._unsent and not self.transport.get_write_buffer_size():
            for ctx in self._unsent:
                ctx.release()
            self._unsent.clear()

    def drain(self) -> None:
        """The server stops: close at once when idle, else behind the answer."""
        if self.idle:
            self._shared.send(self.transport, None)

    # --- reading -------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _HEAD:
            self._rest = self._rest + data if self._rest else data
            if self._writable:
                self._work()
        elif state == _BODY:
            self._more_body(data)
        elif state == _LINGER:
            self._dropped += len(data)
            if self._dropped > _LINGER_BYTES:
                self.transport.abort()
        elif state != _GONE:
            self._rest += data
            if len(self._rest) > self._shared.settings.max_head_bytes:
                self._pause()

    def _work(self) -> None:
        """Take requests from what has come, until one must wait for something."""
        shared = self._shared
        heads = shared.known_heads.heads
        answered = 0
        while self._state == _HEAD and self._rest and self._writable:
            data = self._rest
            end = data.find(HEAD_END)
            if end < 0:
                self._unfinished(data)
                break
            end += 4
            known = heads.get(data[:end])
            if known is None and not data.startswith(RPC_BEGINNINGS):
                self._hand_over()
                return
            if answered == 32:
                # others want their turn too, and what is behind these can wait outside
                self._pause()
                shared.loop.call_soon(self._work)
                return
            answered += 1
            if (
                known is None
                or known.version < 0
                or len(data) != end + known.length
                or shared.turn_total >= TURN_REQUESTS
                or not shared.dispatcher.finds_raw
                or shared.draining
            ):
                self._begin(data, end)
                continue
            # what nearly every client sends: all that could set it apart has been seen with its head
            self._rest = b""
            if known.forwarded or self._account is not self._peer_account:
                self.take_head(known)
                self._find_account()
            shared.turn_total += 1
            body = data[end:]
            sent = shared.send_kept(
                self.transport, known.version, body, None, self._account, known.last_lines, known.gzip
            )
            if sent is False:
                self.take_head(known)
                self._is_parsed, self._keep = False, True
                self._make(known.version, b"", body, None, self._account)
            elif sent is not True:
                self._sent(sent, keep=True)
        if self._state == _HEAD and self._writable:
            if not self._rest:
                self.deadline = shared.loop.time() + shared.settings.idle_timeout_seconds
            if not self._reading:
                self._resume()
            if self._eof and not self._rest:
                self._shared.send(self.transport, None)

    def _unfinished(self, data: bytes) -> None:
        if len(data) > self._shared.settings.max_head_bytes:
            self._refuse(431, head_too_long(self._shared.settings.max_head_bytes))
        elif b"\n\n" in data or not data[:3].isalpha():
            # lines that end without a carriage return, or no HTTP: the other handler knows
            self._hand_over()
        else:
            latest = self._shared.loop.time() + self._shared.settings.head_timeout_seconds
            self.deadline = min(self.deadline or latest, latest)
            if self._eof:
                self._shared.send(self.transport, None)

    def _begin(self, data: bytes, head_end: int) -> None:
        """Read one head; what is no request of ours goes to the other handler, whole."""
        if head_end > self._shared.settings.max_head_bytes:
            self._refuse(431, head_too_long(self._shared.settings.max_head_bytes))
            return
        head = data[:head_end]
        known = self._shared.known_heads.heads.get(head)
        self._is_parsed = known is None
        if known is None:
            try:
                known = self.read_head(self.parser, head)
            except httptools.HttpParserError:
                self._refuse(400, InvalidRequest("not an HTTP request"))
                return
            if self.is_special or self.length < 0:
                self._rest = data
                self._hand_over()
                return
            if self.authorization is None and self.length <= self._shared.settings.max_body_bytes:
                self._shared.known_heads.remember(head, known)
        else:
            self.take_head(known)
        self._keep = known.keep and not self._shared.draining
        self._rest = b""
        if self.length > self._shared.settings.max_body_bytes:
            self._refuse(500, body_too_big(self._shared.settings.max_body_bytes))
            return
        end = head_end + self.length
        if len(data) >= end:
            self._rest = data[end:]
            self._whole(data[head_end:end])
            return
        self._find_account()
        self._state = _BODY
        self._body = bytearray(data[head_end:])
        self._body_started = self._shared.loop.time()
        self._resume()
        self._reserve_body()

    def _reserve_body(self) -> None:
        """Count what has come of the body, and give the peer the time that the next piece may take."""
        settings = self._shared.settings
        size = len(self._body)
        if size - self._reserved > _SMALL:
            try:
                self._shared.dispatcher.admission.memory.take(self._account, size - self._reserved)
            except Refused as refused:
                self._refuse(refused.http_status, refused)
                return
            self._reserved = size
        # the whole body, at the least rate: a trickle earns no more
        self.deadline = self._body_started + settings.body_timeout_seconds + size / settings.min_transfer_rate

    def _more_body(self, data: bytes) -> None:
        missing = self.length - len(self._body)
        self._body += data[:missing] if len(data) > missing else data
        if len(data) >= missing:
            self._rest = data[missing:]
            body = bytes(self._body)
            self._body = b""
            self._whole(body)
            self._work()
        else:
            self._reserve_body()

    # --- answering -----------------------------------------------------------------------------------

    def _whole(self, body: bytes) -> None:
        """A request is whole: bring the parser behind it, and run it."""
        if body and self._is_parsed:
            self.parser.feed_data(body)
        shared = self._shared
        query = b""
        version = RPC_PATHS.get(self.url)
        if version is None:
            path, _, query = self.url.partition(b"?")
            version = RPC_PATHS[path]
        permissions: frozenset[str] | None = None
        if self.authorization is not None or query:
            permissions = shared.wire.permissions(self.authorization, query)
            if permissions is None:
                shared.tell_refused(self.url, 401, 0, self._client)
                self._answered(401, b"", None)
                return
        if self.forwarded or self._account is not self._peer_account:
            self._find_account()
        shared.turn_total += 1
        if self._account and shared.turn_total > TURN_REQUESTS:
            counts = shared.turn_counts
            count = counts.get(self._account, 0)
            if count >= TURN_REQUESTS:
                # others want their turn of the loop too
                self._state = _RUN
                self.deadline = 0.0
                shared.defer(self._account, partial(self._run_deferred, version, query, body, permissions))
                return
            counts[self._account] = count + 1
        self._run(version, query, body, permissions)

    def _run_deferred(self, version: int, query: bytes, body: bytes, permissions: frozenset[str] | None) -> None:
        if self._state == _RUN:
            self._run(version, query, body, permissions)
            self._work()

    def _run(self, version: int, query: bytes, body: bytes, permissions: frozenset[str] | None) -> None:
        """Answer the request that has been read: at once, from what is kept, or when its task ends."""
        shared = self._shared
        account = account_of(permissions, self._account)
        if shared.dispatcher.finds_raw and not query and self.min_head is None:
            keep = self._keep and not shared.draining
            last_lines = CLOSE if not keep else STAY_OPEN if self.has_connection_header else HEAD_END
            sent = shared.send_kept(self.transport, version, body, permissions, account, last_lines, self.gzip)
            if sent is not False:
                self._release()
                self._state = _HEAD
                self._sent(None if sent is True else sent, keep)
                return
        self._make(version, query, body, permissions, account)

    def _make(self, version: int, query: bytes, body: bytes, permissions: frozenset[str] | None, account: str) -> None:
        """Have the dispatcher answer the request."""
        shared = self._shared
        dispatcher = shared.dispatcher
        ctx = dispatcher.context(version, permissions)
        ctx.account = account
        if query:
            ctx.verbose = wants_verbose(query)
        ctx.find_client = self._client
        self._state = _RUN
        self.deadline = 0.0
        answer = dispatcher.answer_http(version, body, ctx, self.min_head)
        try:
            running = run_until_blocked(shared.loop, answer)
        except Exception:
            log.exception("a request could not be answered")
            self.transport.abort()
            return
        if running.task is None:
            assert running.value is not None
            self._answered(*running.value, ctx)
            return
        shared.end_of_turn()
        self._running = running
        running.task.add_done_callback(partial(self._later, ctx))

    def _find_account(self) -> None:
        """Say whose shares the request uses: a balancer's connection carries many clients."""
        if self.forwarded:
            self._account = self._shared.clients.account_of_transport(self.transport, self.forwarded.decode("latin-1"))
        else:
            self._account = self._peer_account

    def _client(self) -> str:
        return self._shared.clients.of_transport(self.transport, self.forwarded.decode("latin-1"))

    def _later(self, ctx: Context, task: asyncio.Task[tuple[int, Text]]) -> None:
        self._running = None
        if self._state == _GONE:
            ctx.release()
            if not task.cancelled():
                task.exception()
            return
        if task.cancelled() or task.exception() is not None:
            ctx.release()
            self.transport.abort()
            return
        self._answered(*task.result(), ctx)
        self._work()

    def _answered(self, status: int, body: Text, ctx: Context | None) -> None:
        """Write an answer."""
        self._release()
        self._state = _HEAD
        keep = self._keep and not self._shared.draining
        self._write(status, body, not keep, ctx)
        self._sent(ctx, keep)

    def _sent(self, ctx: Context | None, keep: bool) -> None:
        """The answer is on its way: count its memory until the peer has taken it, and close behind it unless `keep`."""
        if ctx is not None and ctx.reserved_bytes:
            self._unsent.append(ctx)
            self._shared.loop.call_soon(self.settle)
        if not keep:
            self._state = _GONE
            self._shared.send(self.transport, None)

    def _write(self, status: int, body: Text, close: bool, ctx: Context | None = None, lines: bytes = b"") -> None:
        """Write an answer. `lines`: header lines, each with its line end before it."""
        last_lines = CLOSE if close else STAY_OPEN if self.has_connection_header else HEAD_END
        self._shared.send_made(self.transport, status, body, last_lines, self.gzip, ctx, lines)

    def _refuse(self, status: int, error: RpcError) -> None:
        """Answer that nothing more is read of this connection, and let the peer read the answer."""
        self._shared.tell_refused(self.url, status, error.code, self._client)
        self._write(status, encode_error(error, b"null"), close=True)
        self._release()
        self._rest = self._body = b""
        if self._eof:
            self._state = _GONE
            self._shared.send(self.transport, None)
            return
        self._shared.flush()
        self._state = _LINGER
        self._dropped = 0
        self._resume()
        self.deadline = self._shared.loop.time() + self._shared.settings.linger_seconds
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _release(self) -> None:
        reserved, self._reserved = self._reserved, 0
        if reserved:
            self._shared.dispatcher.admission.memory.give(self._account, reserved)

    def _hand_over(self) -> None:
        """The rest of this connection belongs to the other handler."""
        data, self._rest = self._rest, b""
        self._state = _GONE
        self._shared.leave(self)
        self._shared.flush()
        self.deadline = 0.0
        # the connection stays counted: the other handler gives it back
        other = self._shared.other(self._peer_account)
        transport = self.transport
        transport.set_protocol(other)
        other.connection_made(transport)
        if not self._reading:
            transport.resume_reading()
        other.data_received(data)
        if self._eof:
            other.eof_received()

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    def _resume(self) -> None:
        if not self._reading and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()
