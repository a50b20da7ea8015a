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

from rpc.errors import LimitExceeded, ParseError, RpcError, wire_error
from rpc.json_wire import encode_error, encode_id, parse
from rpc.server.channels import Channel, Subscription
from rpc.server.dispatch import Call, Dispatcher
from rpc.server.request import BrokenRequest, Request, read_request
from rpc.server.run_until_blocked import run_until_blocked

#: seconds that a call waits for a place among those under way
_FREE_PLACE_TIMEOUT_SECONDS: Final = 10.0
#: seconds that a channel's first value or error is waited for before the channel is opened
_FIRST_VALUE_SECONDS: Final = 0.2
#: seconds that a client has to take the end of its session
_CLOSE_TIMEOUT_SECONDS: Final = 5.0
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
    ) -> None:
        #: whom it is with, as `rpc.server.client_address` tells clients apart
        self.client = client
        self._loop = asyncio.get_running_loop()
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
        #: by call, what is to be pushed once it is answered
        self._opening: dict[object, Subscription] = {}

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call this when the session has ended."""
        self._closing.append(callback)

    async def notify(self, method: str, params: Any) -> None:
        """Push a notification. Errors: ConnectionError, when the session has ended."""
        text = b'{"jsonrpc":"2.0","method":%s,"params":%s}\n'
        await self.send(text % (orjson.dumps(method), self._dispatcher.encode(params)))

    async def send(self, frame: bytes) -> None:
        """Send one text frame; waits while the peer does not read. Errors: ConnectionError."""
        await self._socket.send_frame(frame, WSMsgType.TEXT)

    async def wait_until_idle(self) -> None:
        """Wait until no call is under way."""
        await self._idle.wait()

    # --- eth_subscribe -------------------------------------------------------------------------------

    def subscribe(self, call: object, subscription: bytes, values: AsyncIterator[Any]) -> None:
        """Push what `values` yields as `eth_subscription`, once the call (its context) is answered with the id."""
        settings = self._dispatcher.settings
        self._opening[call] = Subscription(
            subscription,
            values,
            self._dispatcher.encode,
            self.send,
            settings.ws_channel_buffer,
            self._slow,
            settings.ws_slow_reader_seconds,
        )
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
        task.add_done_callback(lambda done: self._ended(done, None))

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
        request = self._socket._req
        if request is not None and request.transport is not None:
            request.transport.abort()

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
                    await self._frame(message.data)
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for callback in self._closing:
                callback()

    async def _frame(self, data: bytes) -> None:
        try:
            value = parse(data, self._dispatcher.settings.max_values, whole=True)
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
            await self._refuse(request, LimitExceeded("too many calls at once on this connection"))
            return
        task = run_until_blocked(self._loop, self._call(request)).task
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

    async def _call(self, request: Request) -> None:
        """Run one call to its end; a channel gives its place back once it is open."""
        dispatcher = self._dispatcher
        ctx = dispatcher.context(self._version, self._permissions, self)
        held = True
        self._begin()
        dispatcher.in_flight += 1
        try:
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
                await self._refuse(request, LimitExceeded("too many channels on this connection"))
                return
            self._places.release()
            self._end()
            held = False
            await self._channel(ctx, call, request)
        except ConnectionError:
            pass  # the peer is gone; `run` ends by itself
        finally:
            dispatcher.leave()
            self._opening.pop(ctx, None)
            if held:
                self._places.release()
                self._end()

    async def _channel(self, ctx: Any, call: Call, request: Request) -> None:
        dispatcher = self._dispatcher
        self._channels += 1
        values = dispatcher.channel(ctx, call)
        first = asyncio.ensure_future(anext(values))
        try:
            # an error of the method itself is the call's answer; a first value may be long in coming
            await asyncio.wait({first}, timeout=_FIRST_VALUE_SECONDS)
            fault = first.exception() if first.done() and not first.cancelled() else None
            if fault is not None and not isinstance(fault, StopAsyncIteration):
                await self._refuse(request, wire_error(fault, request.method))
                return
            self._last_channel += 1
            number = self._last_channel
            settings = dispatcher.settings
            channel = Channel(
                number,
                values,
                dispatcher.encode,
                self.send,
                settings.ws_channel_buffer,
                self._slow,
                settings.ws_slow_reader_seconds,
            )
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

    def _slow(self) -> None:
        self._dispatcher.slow_channels += 1

    async def _refuse(self, request: Request, error: RpcError) -> None:
        if request.id is not None:
            with contextlib.suppress(ConnectionError):
                await self.send(encode_error(error, encode_id(request.id)))
