"""One WebSocket session: calls in any number, answered as they end, and channels.

As at go-jsonrpc a frame that is no request is dropped without a word (not JSON, a batch, fields of the
wrong type, an answer to a call that was never made), and a notification is run but not answered.
Source: go-jsonrpc `websocket.go`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from rpc.admission import RETRY_AFTER_SECONDS
from rpc.context import Context
from rpc.errors import ClientLimit, ParseError, Refused, RpcError, limit_data, wire_error
from rpc.json_wire import SHORT_TEXT, Text, check_values, encode_error, encode_id, parse, parts_of
from rpc.server.dispatch import Dispatcher
from rpc.server.metrics import now
from rpc.server.push.channels import Channel, Pipe, Subscription, text_frame_head
from rpc.server.push.outbox import Outbox
from rpc.server.request import BrokenRequest, Call, Request, read_request
from rpc.server.run_until_blocked import run_until_blocked

#: seconds that a call waits for a place among those under way
_FREE_PLACE_TIMEOUT_SECONDS: Final = 10.0
#: seconds that a channel's first value or error is waited for before the channel is opened
_FIRST_VALUE_SECONDS: Final = 0.2
#: seconds that a client has to take the end of its session
_CLOSE_TIMEOUT_SECONDS: Final = 5.0
#: bytes of the pings and pongs that come between two looks: never more than so much, and no part of a message
_CONTROL_FRAMES_BYTES: Final = 256
#: bytes of an unfinished message that are not counted as memory
_UNCOUNTED: Final = 16 << 10
#: a server's frame that asks for a sign of life (RFC 6455, 5.5.2)
_PING: Final = b"\x89\x00"
#: messages from this size on are sent in two frames, and the second is larger than what aiohttp sends without a look
#: whether the peer reads
_TWO_FRAMES: Final = 512 << 10
_SECOND_FRAME: Final = 64 << 10
_CANCEL: Final = "xrpc.cancel"
_OTHERS: Final = frozenset({"", "xrpc.ch.val", "xrpc.ch.close"})


class WebSocketSession:
    """One session, as methods see it: they may push with `notify` and clean up with `on_close`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        socket: web.WebSocketResponse,
        version: int,
        permissions: frozenset[str],
        client: str = "",
        account: str = "",
    ) -> None:
        #: whom it is with, as `rpc.server.client_address` tells clients apart
        self.client = client
        #: whose shares of the budgets it uses
        self.account = account
        self._admission = dispatcher.admission
        self._pacing = dispatcher.context(version)
        self._pacing.time_budget_seconds = None
        #: bytes that have come since the last whole message, those of them that are counted, and since when
        self._partial_bytes = 0
        self._counted_bytes = 0
        self._partial_since = 0.0
        #: since when the peer takes nothing, while there is something to take; 0: it reads
        self._blocked_since = 0.0
        #: bytes sent so far, and how many of them the peer had taken at the last look
        self._sent_bytes = 0
        self._taken_bytes = 0
        self._loop = asyncio.get_running_loop()
        #: when something came last, and since when a ping waits for an answer; 0: none does
        self._heard_at = self._loop.time()
        self._pinged_at = 0.0
        self._dispatcher = dispatcher
        self._socket = socket
        self._version = version
        self._permissions = permissions
        self._tasks: set[asyncio.Task[None]] = set()
        #: calls that have not been answered; open channels are none
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._running: dict[Any, Callable[[], object]] = {}
        self._places = asyncio.Semaphore(dispatcher.settings.ws_max_calls)
        self._channels = 0
        self._last_channel = 0
        self._closing: list[Callable[[], object]] = []
        #: ids of the filters and subscriptions that this session has made: their number is bounded
        self.filter_ids: set[bytes] = set()
        self._subscriptions: dict[bytes, Subscription] = {}
        self._outbox = Outbox(dispatcher.services.pushes, self._open_transport, self._count_sent)
        #: by call, what is to be pushed once it is answered
        self._opening: dict[object, Subscription] = {}

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call this when the session has ended."""
        self._closing.append(callback)

    async def notify(self, method: str, params: Any) -> None:
        """Push a notification. Errors: ConnectionError, when the session has ended."""
        text = b'{"jsonrpc":"2.0","method":%s,"params":%s}\n'
        await self.send(text % (orjson.dumps(method), self._dispatcher.encode(params)))

    async def send(self, text: Text) -> None:
        """Send one text message; waits while the peer does not read. Errors: ConnectionError."""
        self._sent_bytes += len(text)
        if isinstance(text, bytes) or len(text) < _TWO_FRAMES:
            await self._socket.send_frame(bytes(text), WSMsgType.TEXT)
            return
        # aiohttp takes one piece, and to join a long text keeps the loop: so it gets the end of the message only
        parts = parts_of(text)
        at, size = len(parts), 0
        while size <= _SECOND_FRAME:
            at -= 1
            size += len(parts[at])
        begin, end = parts[:at], parts[at:]
        transport = self._open_transport()
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the session has ended")
        transport.writelines((text_frame_head(len(text) - size, is_whole=False), *begin))
        # written before this waits, so that no other frame comes between the two
        await self._socket.send_frame(b"".join(end), WSMsgType.CONTINUATION)

    # --- what the server watches ---------------------------------------------------------------------

    def count_received(self, size: int) -> None:
        """Count bytes that have come, until they are a whole message. A client beyond its share loses the session."""
        self._heard_at = self._loop.time()
        if not self._partial_bytes:
            self._partial_since = self._heard_at
        self._partial_bytes += size
        if self._partial_bytes <= _UNCOUNTED:
            return
        try:
            self._admission.memory.take(self.account, self._partial_bytes - self._counted_bytes)
        except Refused:
            self._abort()
            return
        self._counted_bytes = self._partial_bytes

    def _whole_message(self) -> None:
        """A message has been read: what had come before is not partial any more."""
        self._partial_bytes = 0
        if self._counted_bytes:
            self._admission.memory.give(self.account, self._counted_bytes)
            self._counted_bytes = 0

    def check_progress(self, now: float) -> None:
        """End the session of a peer that sends a message too slowly, does not read or is gone. Called each second."""
        settings = self._dispatcher.settings
        if self._partial_bytes and not self._calls:
            allowed = settings.body_timeout_seconds + self._partial_bytes / settings.min_transfer_rate
            if now - self._partial_since > allowed:
                if self._partial_bytes > _CONTROL_FRAMES_BYTES:
                    self._abort()
                    return
                # pongs: the socket answers and takes them itself, and nobody is told
                self._whole_message()
        transport = self._transport()
        unsent = 0 if transport is None else transport.get_write_buffer_size()
        taken = self._sent_bytes - unsent
        if not unsent or taken > self._taken_bytes:
            self._blocked_since = 0.0
        elif not self._blocked_since:
            self._blocked_since = now
        elif now - self._blocked_since > settings.write_timeout_seconds:
            self._dispatcher.refusals.count("unread_answers", self.account)
            self._abort()
        self._taken_bytes = taken
        self._check_life(now, settings.ws_ping_seconds)

    def _check_life(self, now: float, ping_seconds: float) -> None:
        """Ping a peer of which nothing was heard for so long; end the session when half as long brings no answer."""
        # uvloop's clock knows whole milliseconds: an answer may come at the time of its ping
        if self._heard_at >= self._pinged_at:
            self._pinged_at = 0.0
        if self._pinged_at:
            if now - self._pinged_at > ping_seconds / 2:
                self._abort()
        elif now - self._heard_at >= ping_seconds:
            self._pinged_at = now
            # thousands may be due at once: they take turns with the pushes
            self._dispatcher.services.pushes.add(self._ping)

    def _ping(self) -> None:
        transport = self._open_transport()
        if transport is not None and not transport.is_closing():
            self._sent_bytes += len(_PING)
            transport.write(_PING)

    def _transport(self) -> asyncio.Transport | None:
        request = self._socket._req
        return None if request is None else request.transport

    def _open_transport(self) -> asyncio.Transport | None:
        """Where frames may be written to, unless the session ends."""
        return None if self._socket.closed else self._transport()

    def _abort(self) -> None:
        transport = self._transport()
        if transport is not None:
            transport.abort()

    async def wait_until_idle(self) -> None:
        """Wait until no call is under way."""
        await self._idle.wait()

    # --- eth_subscribe -------------------------------------------------------------------------------

    def subscribe(self, call: object, subscription: bytes, values: AsyncIterator[Any]) -> None:
        """Push what `values` yields as `eth_subscription`, once the call (its context) is answered with the id."""
        self._admission.channels.take(self.account)
        self._opening[call] = Subscription(subscription, values, self._pipe())
        self.filter_ids.add(subscription)

    def unsubscribe(self, subscription: bytes) -> bool:
        """End a subscription of this session; whether there was one."""
        found = self._subscriptions.pop(subscription, None)
        if found is None:
            return False
        self.filter_ids.discard(subscription)
        found.cancel()
        return True

    def _open(self, subscription: Subscription) -> None:
        self._subscriptions[subscription.subscription] = subscription
        task = asyncio.create_task(self._push(subscription), name=str(subscription))
        self._tasks.add(task)
        task.add_done_callback(self._subscription_ended)

    def _subscription_ended(self, task: asyncio.Task[None]) -> None:
        self._admission.channels.give(self.account)
        self._ended(task, None)

    async def _push(self, subscription: Subscription) -> None:
        """Push until unsubscribed. A client that has missed something is told so by the end of its session."""
        first = asyncio.ensure_future(anext(subscription.values))
        try:
            await subscription.run(first)
        except ConnectionError:
            return
        finally:
            first.cancel()
            self._subscriptions.pop(subscription.subscription, None)
            self.filter_ids.discard(subscription.subscription)
        if not subscription.cancelled:
            await self._close("a subscription has missed something: subscribe again")

    async def _close(self, reason: str) -> None:
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_SECONDS):
                await self._socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=reason.encode())
                return
        self._abort()

    # --- calls ---------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._calls += 1
        self._idle.clear()

    def _end(self) -> None:
        self._calls -= 1
        if not self._calls:
            self._idle.set()

    async def run(self) -> None:
        """Serve until the peer goes."""
        try:
            async for message in self._socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    self._whole_message()
                    # messages that came together are answered one by one, with turns for others between
                    await self._pacing.checkpoint()
                    await self._frame(message.data)
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._whole_message()
            for callback in self._closing:
                callback()

    async def _frame(self, data: bytes) -> None:
        try:
            check_values(data, self._dispatcher.settings.max_values)
            value = parse(data, whole=True)
            request = read_request(value)
        except (ParseError, BrokenRequest):
            return
        if request.fault is not None or request.method in _OTHERS:
            return
        if request.method == _CANCEL:
            self._cancel(request.params)
            return
        try:
            async with asyncio.timeout(_FREE_PLACE_TIMEOUT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            most = self._dispatcher.settings.ws_max_calls
            again = limit_data("calls_per_connection", most, retry_after_seconds=RETRY_AFTER_SECONDS)
            await self._refuse(request, ClientLimit(f"too many calls at once of a connection: at most {most}", again))
            return
        task = run_until_blocked(self._loop, self._call(request, len(data))).task
        if task is None:
            return
        self._tasks.add(task)
        if request.id is not None:
            self._running[request.id] = task.cancel
        task.add_done_callback(lambda done: self._ended(done, request.id))

    def _ended(self, task: asyncio.Task[None], request_id: Any) -> None:
        self._tasks.discard(task)
        if self._running.get(request_id) == task.cancel:
            del self._running[request_id]
        if not task.cancelled():
            task.exception()

    def _cancel(self, params: Any) -> None:
        if not isinstance(params, list) or not params or isinstance(params[0], list | dict):
            return
        cancel = self._running.get(params[0])
        if cancel is not None:
            cancel()

    async def _call(self, request: Request, size: int) -> None:
        """Run one call to its end; a channel gives its place back once it is open. `size`: of its message, bytes."""
        dispatcher = self._dispatcher
        ctx = dispatcher.context(self._version, self._permissions, self)
        ctx.account = self.account
        started = now()
        try:
            self._admission.working.take(self.account)
        except Refused as refused:
            self._places.release()
            self._tell(ctx, request, started, refused)
            await self._refuse(request, refused)
            return
        is_working = True
        self._begin()
        try:
            if size > SHORT_TEXT:
                ctx.reserve(size)
            call: Call | None = None
            with contextlib.suppress(RpcError):
                call = dispatcher.resolve(ctx, request)
            if call is None or not call.method.channel:
                try:
                    answer = await dispatcher.answer(ctx, request)
                except asyncio.CancelledError as error:
                    if self._socket.closed:
                        raise
                    await self._refuse(request, wire_error(error))
                    return
                if answer is not None:
                    await self.send(answer)
                if ctx in self._opening:
                    self._open(self._opening.pop(ctx))
                return
            if request.id is None:
                return
            if self._channels >= dispatcher.settings.ws_max_channels:
                most = dispatcher.settings.ws_max_channels
                data = limit_data("channels_per_connection", most)
                raise ClientLimit(f"too many channels on this connection: at most {most}", data)
            if dispatcher.gate is not None:
                await dispatcher.gate.check(ctx, call)
            self._admission.channels.take(self.account)
            try:
                self._places.release()
                self._end()
                is_working = False
                dispatcher.leave(ctx)
                await self._channel(ctx, call, request, started)
            finally:
                self._admission.channels.give(self.account)
        except RpcError as refused:
            self._tell(ctx, request, started, refused)
            await self._refuse(request, refused)
        except ConnectionError:
            pass  # the peer is gone; `run` ends by itself
        finally:
            ctx.release()
            if self._opening.pop(ctx, None) is not None:
                self._admission.channels.give(self.account)
            if is_working:
                dispatcher.leave(ctx)
                self._places.release()
                self._end()

    async def _channel(self, ctx: Context, call: Call, request: Request, started: float) -> None:
        dispatcher = self._dispatcher
        self._channels += 1
        await self._pacing.checkpoint()
        values = dispatcher.channel(ctx, call)
        first = asyncio.ensure_future(anext(values))
        try:
            # an error of the method itself is the call's answer; a first value may be long in coming
            await asyncio.wait({first}, timeout=_FIRST_VALUE_SECONDS)
            fault = first.exception() if first.done() and not first.cancelled() else None
            if fault is not None and not isinstance(fault, StopAsyncIteration):
                error = wire_error(fault, request.method)
                self._tell(ctx, request, started, error)
                await self._refuse(request, error)
                return
            self._tell(ctx, request, started, None)
            self._last_channel += 1
            number = self._last_channel
            channel = Channel(number, values, self._pipe())
            self._running[request.id] = channel.cancel
            result = b'{"id":%s,"jsonrpc":"2.0","result":%d}\n'
            await self.send(result % (encode_id(request.id), number))
            try:
                await channel.run(first)
            finally:
                if self._running.get(request.id) == channel.cancel:
                    del self._running[request.id]
        finally:
            first.cancel()
            self._channels -= 1

    def _pipe(self) -> Pipe:
        settings = self._dispatcher.settings
        return Pipe(
            encode=self._dispatcher.encode,
            send=self.send,
            buffer=settings.ws_channel_buffer,
            slow_reader_timeout_seconds=settings.ws_slow_reader_seconds,
            on_slow=self._slow,
            memory=self._admission.memory,
            account=self.account,
            push=self._outbox.push,
            checkpoint=self._pacing.checkpoint,
        )

    def _count_sent(self, size: int) -> None:
        self._sent_bytes += size

    def _slow(self) -> None:
        self._dispatcher.slow_channels += 1
        self._dispatcher.refusals.count("slow_channels", self.account)

    def _tell(self, ctx: Context, request: Request, started: float, error: RpcError | None) -> None:
        """Tell the observer, where there is one, of a call that the dispatcher does not answer."""
        if self._dispatcher.observer is not None:
            self._dispatcher.observer.channel(ctx, request, started, error)

    async def _refuse(self, request: Request, error: RpcError) -> None:
        if request.id is not None:
            with contextlib.suppress(ConnectionError):
                await self.send(encode_error(error, encode_id(request.id)))
