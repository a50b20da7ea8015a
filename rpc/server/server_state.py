"""What the connections of one server have in common: settings, the way out."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from time import perf_counter, time
from typing import Final, Protocol
from wsgiref.handlers import format_date_time

from rpc.admission import RETRY_AFTER_SECONDS
from rpc.context import Context
from rpc.errors import RpcError
from rpc.json_wire import JsonText, Text, parts_of
from rpc.server.answer_text import BEFORE_ID
from rpc.server.answers.answer_lru import KeptText
from rpc.server.answers.kept_answers import HIT
from rpc.server.answers.packed import GZIP, MOST_PACKED, VARY, Packed, pack
from rpc.server.client_address import Clients
from rpc.server.dispatch import Dispatcher
from rpc.server.http_head import RPC_PATHS, KnownHeads, header_lines
from rpc.server.limits import ServerSettings
from rpc.server.metrics import Metrics
from rpc.services import Head

#: bytes of answers that wait for the end of a turn of the loop
_OUTBOX: Final = 256 << 10
#: bodies from this size on are not copied behind their heads: fresh memory for them costs more than a system call that
#: gathers parts
_UNCOPIED: Final = 12 << 10
#: requests that are begun in one turn of the loop, and beyond them of one client
TURN_REQUESTS: Final = 64
#: the header names of ours that a browser lets its page read
EXPOSED: Final = "X-Filecoin-Head, X-Filecoin-Head-Age, X-Filecoin-Not-Found, X-Cache, Server-Timing"
_HIT_LINE: Final = b"\r\nX-Cache: " + HIT


class Wire(Protocol):
    """What a connection needs of the server around it."""

    def permissions(self, authorization: str | None, query: bytes) -> frozenset[str] | None:
        """What the caller may do; None for a bad token."""


class HttpConnection(Protocol):
    """One connection on the hot path. `deadline`: loop time at which it expires; 0 for none."""

    deadline: float
    transport: asyncio.Transport

    def expire(self) -> None:
        """The deadline has passed: tell the peer where that helps, then close."""

    def drain(self) -> None:
        """The server stops: close at once when idle, else behind the answer."""

    def settle(self) -> None:
        """Give back the memory of answers that have left."""


@dataclass(slots=True)
class ServerState:
    """What all connections of a server have in common."""

    loop: asyncio.AbstractEventLoop
    dispatcher: Dispatcher
    settings: ServerSettings
    wire: Wire
    #: makes what takes a connection over, given the account that the connection is counted for
    other: Callable[[str], asyncio.Protocol]
    clients: Clients
    connections: set[HttpConnection] = field(default_factory=set)
    known_heads: KnownHeads = field(default_factory=KnownHeads)
    draining: bool = False
    #: what leaves when this turn of the loop is over; None behind it closes the connection
    _outbox: list[tuple[asyncio.Transport, Text | None]] = field(default_factory=list)
    _outbox_bytes: int = 0
    #: requests begun in this turn of the loop, and by client once there are many
    turn_total: int = 0
    turn_counts: dict[str, int] = field(default_factory=dict)
    #: by client, requests that wait for another turn
    _is_deferral_due: bool = False
    _deferred: dict[str, deque[Callable[[], None]]] = field(default_factory=dict)
    _empty: asyncio.Event | None = None
    #: the time in whole seconds, and when (by `perf_counter`) it is another
    _second: int = 0
    _second_ends: float = 0.0
    #: the status line and the lines that every answer has by status, and those of 200
    _starts: dict[int, bytes] = field(default_factory=dict)
    _start: bytes = b""
    _head: Head | None = None
    _head_lines: bytes = b""
    #: the head of the last kept answer that has one, and its lines with that of its cache
    _kept_head: Head | None = None
    _kept_lines: bytes = b""
    #: the shortest answer that clients get in gzip's form who take it; those that did, and the bytes that it saved
    gzip_from: int = field(init=False)
    _gzip_answers: int = 0
    _gzip_saved: int = 0

    def __post_init__(self) -> None:
        self.gzip_from = self.settings.gzip_from

    def register_metrics(self, metrics: Metrics) -> None:
        """Have these metrics tell of the connections and of what leaves by them."""
        metrics.gauge("follower_rpc_connections", "Connections on the hot path.", lambda: len(self.connections))
        metrics.counter("follower_rpc_gzip_answers", "Answers sent in gzip's form.", lambda: self._gzip_answers)
        metrics.counter("follower_rpc_gzip_saved_bytes", "Bytes that it saved.", lambda: self._gzip_saved)

    def tell_refused(self, url: bytes, status: int, code: int, client: Callable[[], str]) -> None:
        """Tell the observer, where there is one, of a request that was refused before it was read."""
        observer = self.dispatcher.observer
        if observer is not None:
            observer.refused(RPC_PATHS.get(url.partition(b"?")[0]), status, code, client())

    def leave(self, connection: HttpConnection) -> None:
        """A connection has ended or is another's now."""
        self.connections.discard(connection)
        if self._empty is not None and not self.connections:
            self._empty.set()

    async def empty(self) -> None:
        """Wait until there is no connection."""
        if self.connections:
            self._empty = asyncio.Event()
            await self._empty.wait()

    def send(self, transport: asyncio.Transport, data: Text | None) -> None:
        """Write, or close for None, together with all that this turn of the loop answers.

        One system call an answer stays; what is saved is waking the peers one by one (twice the answers
        a second, see docs/adr/0001).
        """
        if not self._outbox:
            self.loop.call_soon(self.flush)
        self._outbox.append((transport, data))
        if data is not None:
            self._outbox_bytes += len(data)
            if self._outbox_bytes > _OUTBOX:
                # so that the transport can say that its peer does not read
                self.flush()

    def send_made(
        self,
        transport: asyncio.Transport,
        status: int,
        body: Text,
        last_lines: bytes,
        gzip: bool,
        ctx: Context | None,
        lines: bytes,
    ) -> None:
        """Write an answer. `lines`: header lines, each with its line end before it; the rest as for `send_kept`."""
        if status == 200 and len(body) >= self.gzip_from:
            lines += VARY
            if gzip and len(body) <= MOST_PACKED:
                lines += GZIP
                plain_length = len(body)
                body = self._packed(body)
                self._count_packed(plain_length, len(body))
        self._send(transport, self.head(status, len(body), last_lines, ctx, lines), body)

    def _packed(self, body: Text) -> Text:
        if isinstance(body, KeptText) and self.dispatcher.answers is not None:
            return self.dispatcher.answers.packed(body.kept).behind(body.start)
        return pack(body)

    def _count_packed(self, plain_length: int, length: int) -> None:
        self._gzip_answers += 1
        self._gzip_saved += max(0, plain_length - length)

    def _send(self, transport: asyncio.Transport, start: bytes, body: Text) -> None:
        """Write a body behind its `start`."""
        if isinstance(body, bytes) and len(body) < _UNCOPIED:
            self.send(transport, start + body)
        else:
            self.send(transport, JsonText((start, *parts_of(body))))

    def end_of_turn(self) -> None:
        """See to it that `flush` is called when this turn of the loop is over."""
        if not self._outbox:
            self.loop.call_soon(self.flush)

    def defer(self, client: str, run: Callable[[], None]) -> None:
        """Call `run` in another turn of the loop: this client has had its share of this one."""
        self._deferred.setdefault(client, deque()).append(run)
        self._run_deferred_soon()

    def _run_deferred_soon(self) -> None:
        if self._deferred and not self._is_deferral_due:
            self._is_deferral_due = True
            self.loop.call_soon(self._run_deferred)

    def _run_deferred(self) -> None:
        self._is_deferral_due = False
        for client in list(self._deferred):
            waiting = self._deferred[client]
            count = min(len(waiting), TURN_REQUESTS)
            self.turn_counts[client] = TURN_REQUESTS
            for _ in range(count):
                waiting.popleft()()
            if not waiting:
                del self._deferred[client]
        self._run_deferred_soon()

    def flush(self) -> None:
        """Write what is waiting."""
        self.turn_total = 0
        if self.turn_counts:
            self.turn_counts.clear()
        outbox, self._outbox = self._outbox, []
        self._outbox_bytes = 0
        for transport, data in outbox:
            if data is None:
                transport.close()
            elif not transport.is_closing():
                # a peer that is gone by now: uvloop raises at a write, and the others' answers would be lost
                if isinstance(data, bytes):
                    transport.write(data)
                else:
                    transport.writelines(data.parts)

    def start(self, status: int) -> bytes:
        """The status line and the header lines that every answer has; made anew once a second."""
        if perf_counter() >= self._second_ends:
            self._begin_second()
        return self._starts.get(status) or self._make_start(status, self._second)

    def head(self, status: int, length: int, last_lines: bytes, ctx: Context | None, lines: bytes) -> bytes:
        """The head of an answer with so many bytes of body. `lines`: further ones, each with its line end before it."""
        start = self.start(status)
        if status in (429, 503) and not lines:
            lines = b"\r\nRetry-After: %d" % retry_after(ctx)
        if ctx is not None:
            if ctx.pinned is not None:
                lines = self.head_lines(ctx.pinned) + lines
            if ctx.has_headers:
                lines = header_lines(ctx.added_headers()) + lines
        return b"%b%d%b%b" % (start, length, lines, last_lines)

    def head_lines(self, head: Head) -> bytes:
        """The header lines that name an answer's head and its age; made anew once a second. Called after `start`."""
        if head is not self._head:
            age = head.age_seconds(self._second)
            self._head_lines = b"\r\nX-Filecoin-Head: %b\r\nX-Filecoin-Head-Age: %d" % (head.text, age)
            self._head = head
        return self._head_lines

    def send_kept(
        self,
        transport: asyncio.Transport,
        version: int,
        body: bytes,
        permissions: frozenset[str] | None,
        account: str,
        last_lines: bytes,
        gzip: bool,
    ) -> Context | bool:
        """Answer a request with these bytes, where its answer is kept; whether it is.

        Of a large answer, what counts its memory. `last_lines`: how the answer's HTTP head ends. `gzip`: whether the
        client takes it.
        """
        answers = self.dispatcher.answers
        if answers is None:
            return False
        found = answers.find_raw(version, body, permissions, account, gzip)
        if found is None:
            return False
        request_id, text, head, started, counted, own_lines = found
        if started >= self._second_ends:
            self._begin_second()
        lines = _HIT_LINE
        if head is not None:
            if head is not self._kept_head:
                self._kept_head, self._kept_lines = head, self.head_lines(head) + _HIT_LINE
            lines = self._kept_lines
        if own_lines:
            lines += own_lines
        if self.settings.server_timing:
            lines += b"\r\nServer-Timing: cache;dur=%.3f" % ((perf_counter() - started) * 1e3)
        if isinstance(text, Packed):
            packed = text.behind(BEFORE_ID + request_id)
            self._count_packed(text.plain_length, len(packed))
            self._send(transport, b"%b%d%b%b" % (self._start, len(packed), lines + VARY + GZIP, last_lines), packed)
            return True if counted is None else counted
        if len(text) >= self.gzip_from:
            lines += VARY
        length = len(BEFORE_ID) + len(request_id) + len(text)
        if type(text) is bytes and length < _UNCOPIED:
            values = self._start, length, lines, last_lines, request_id, text
            self.send(transport, b'%b%d%b%b{"id":%b%b' % values)
        else:
            start = b'%b%d%b%b{"id":%b' % (self._start, length, lines, last_lines, request_id)
            self._send(transport, start, text)
        return True if counted is None else counted

    def _begin_second(self) -> None:
        moment = time()
        self._second = int(moment)
        self._second_ends = perf_counter() + 1 - moment % 1
        self._starts = {}
        self._start = self._make_start(200, self._second)
        self._head = self._kept_head = None

    def _make_start(self, status: int, second: int) -> bytes:
        lines = [
            f"HTTP/1.1 {status} {_phrase(status)}",
            f"Date: {format_date_time(second)}",
            "Content-Type: application/json",
        ]
        if self.settings.cors_origin:
            lines.append(f"Access-Control-Allow-Origin: {self.settings.cors_origin}")
            lines.append(f"Access-Control-Expose-Headers: {EXPOSED}")
        lines.append("Content-Length: ")
        found = self._starts[status] = "\r\n".join(lines).encode()
        return found


def retry_after(ctx: Context | None = None, error: RpcError | None = None) -> int:
    """Whole seconds until a client may ask again that was refused: those of the quota that refused it, else one."""
    if ctx is not None and ctx.retry_after:
        return ctx.retry_after
    data = None if error is None else error.data
    wait = data.get("retryAfterSeconds") if isinstance(data, dict) else None
    return RETRY_AFTER_SECONDS if wait is None else max(1, math.ceil(wait))


def wants_verbose(query: bytes) -> bool:
    """Whether a URL's query says `verbose` (whatever its value)."""
    return any(part.partition(b"=")[0] == b"verbose" for part in query.split(b"&"))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
