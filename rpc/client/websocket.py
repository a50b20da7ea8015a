"""go-jsonrpc's client side of one WebSocket connection: calls, and channels of values.

A channel method answers with the channel's id; values then come as `xrpc.ch.val [id, value]`, the end as
`xrpc.ch.close [id]`, and the caller stops it with `xrpc.cancel [request id]`.
Source: go-jsonrpc `websocket.go`.

A connection is used once: when it breaks, every waiting call fails with `NodeUnavailable`, every channel
ends, and the caller makes another. It never reads less because a channel is slow: a full channel ends,
marked as overrun, for a node drops a subscriber that does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
import orjson

from rpc.client.node_info import NodeInfo
from rpc.node_errors import BadAnswer, CallFailed, NodeRefused, NodeTimeout, NodeUnavailable

log = logging.getLogger(__name__)

#: the biggest frame read from a node, bytes (a head change of a few hundred tipsets)
MAX_FRAME: Final = 256 << 20
#: values that may wait in a channel
CHANNEL_ITEMS: Final = 1024


class Channel:
    """The values of one channel, in order. Iteration ends when the channel does; `reason` says why."""

    def __init__(self, connection: WsConnection, request_id: int, limit: int) -> None:
        self._connection = connection
        self._request_id = request_id
        self._limit = limit
        self._values: deque[Any] = deque()
        self._wake = asyncio.Event()
        self.closed = False
        self.reason = ""

    def push(self, value: Any) -> None:
        """Take a value from the wire; beyond the bound the channel ends, overrun."""
        if self.closed:
            return
        if len(self._values) >= self._limit:
            self._values.clear()
            self.end(f"overrun: {self._limit} values waited")
            return
        self._values.append(value)
        self._wake.set()

    def end(self, reason: str) -> None:
        """No more values come; those that wait can still be read."""
        if not self.closed:
            self.closed = True
            self.reason = reason
            self._wake.set()

    @property
    def waiting(self) -> int:
        """How many values wait to be read."""
        return len(self._values)

    async def next(self, timeout: float | None = None) -> Any:
        """The next value. Errors: NodeUnavailable at the end, NodeTimeout after `timeout` seconds."""
        while not self._values:
            if self.closed:
                raise NodeUnavailable(f"{self._connection.name}: the channel ended ({self.reason})")
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), timeout)
            except TimeoutError:
                raise NodeTimeout(f"{self._connection.name}: nothing came in {timeout} s") from None
        return self._values.popleft()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            try:
                value = await self.next()
            except NodeUnavailable:
                return
            yield value

    async def cancel(self) -> None:
        """Ask the node to stop, and end the channel here."""
        self.end("cancelled")
        await self._connection.notify("xrpc.cancel", [self._request_id])


class WsConnection:
    """One connection. Make it with `connect`; `await close()` when done."""

    def __init__(self, name: str, socket: aiohttp.ClientWebSocketResponse, max_in_flight: int) -> None:
        self.name = name
        self._socket = socket
        self._next_id = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._opening: dict[int, int] = {}
        self._channels: dict[int, Channel] = {}
        self._slots = asyncio.Semaphore(max_in_flight)
        self._broken = ""
        self._reader = asyncio.create_task(self._read())

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as is known."""
        return not self._broken

    async def call(self, method: str, params: list[Any], timeout: float) -> Any:
        """One call's result. Errors: NodeUnavailable, NodeTimeout, CallFailed."""
        async with self._slots:
            return await self._request(method, params, timeout)

    async def open_channel(self, method: str, params: list[Any], timeout: float, limit: int = CHANNEL_ITEMS) -> Channel:
        """Call a channel method. Errors: as `call`; BadAnswer when the result is no channel id."""
        channel = await self._request(method, params, timeout, limit)
        assert isinstance(channel, Channel)
        return channel

    async def notify(self, method: str, params: list[Any]) -> None:
        """Send a notification; a broken connection is no error."""
        with contextlib.suppress(ConnectionError, aiohttp.ClientError, RuntimeError):
            await self._socket.send_bytes(
                orjson.dumps({"jsonrpc": "2.0", "method": method, "params": params}), compress=None
            )

    async def close(self) -> None:
        """End the connection and all that waits on it."""
        self._reader.cancel()
        # not `await self._reader`: a cancellation of the caller would be taken for the reader's
        await asyncio.gather(self._reader, return_exceptions=True)
        self._break("closed here")
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._socket.close(), 2)

    async def _request(self, method: str, params: list[Any], timeout: float, limit: int | None = None) -> Any:
        if self._broken:
            raise NodeUnavailable(f"{self.name}: {self._broken}")
        self._next_id += 1
        request_id = self._next_id
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        if limit is not None:
            self._opening[request_id] = limit
        frame = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        try:
            async with asyncio.timeout(timeout):
                await self._socket.send_str(orjson.dumps(frame).decode())
                return await future
        except TimeoutError:
            await self.notify("xrpc.cancel", [request_id])
            raise NodeTimeout(f"{self.name}: {method} was not answered in {timeout} s") from None
        except (ConnectionError, aiohttp.ClientError, RuntimeError) as error:
            raise NodeUnavailable(f"{self.name}: {type(error).__name__}") from None
        finally:
            self._waiting.pop(request_id, None)
            self._opening.pop(request_id, None)

    async def _read(self) -> None:
        reason = "the node closed the connection"
        try:
            async for message in self._socket:
                if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    self._frame(message.data)
                elif message.type == aiohttp.WSMsgType.ERROR:
                    reason = f"the connection broke ({type(self._socket.exception()).__name__})"
        except (ConnectionError, aiohttp.ClientError, OSError) as error:
            reason = f"the connection broke ({type(error).__name__})"
        except asyncio.CancelledError:
            reason = "closed here"
            raise
        finally:
            self._break(reason)

    def _break(self, reason: str) -> None:
        if self._broken:
            return
        self._broken = reason
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NodeUnavailable(f"{self.name}: {reason}"))
        for channel in self._channels.values():
            channel.end(reason)
        self._channels.clear()

    def _frame(self, data: str | bytes) -> None:
        try:
            frame = orjson.loads(data)
        except orjson.JSONDecodeError:
            log.warning("%s sent a frame that is not JSON (%d bytes)", self.name, len(data))
            return
        if not isinstance(frame, dict):
            log.warning("%s sent a frame that is not an object", self.name)
            return
        method = frame.get("method")
        params = frame.get("params")
        if method is None:
            self._answer(frame)
        elif method == "xrpc.ch.val" and isinstance(params, list) and len(params) == 2:
            channel = self._channels.get(params[0])
            if channel is not None:
                channel.push(params[1])
        elif method == "xrpc.ch.close" and isinstance(params, list) and params:
            channel = self._channels.pop(params[0], None)
            if channel is not None:
                channel.end("the node closed it")
        else:
            log.warning("%s sent something that was not asked for: %s", self.name, str(method)[:80])

    def _answer(self, frame: dict[str, Any]) -> None:
        request_id = frame.get("id")
        future = self._waiting.get(request_id) if isinstance(request_id, int) else None
        if future is None or future.done() or not isinstance(request_id, int):
            return  # given up on
        error = frame.get("error")
        if error is not None:
            future.set_exception(call_failed(error))
            return
        result = frame.get("result")
        limit = self._opening.get(request_id)
        if limit is not None:
            # registered before the next frame is read, so that no value can come too early
            if not isinstance(result, int):
                future.set_exception(BadAnswer(f"{self.name}: a channel's id is {str(result)[:80]}"))
                return
            channel = Channel(self, request_id, limit)
            self._channels[result] = channel
            result = channel
        future.set_result(result)


def call_failed(error: Any) -> CallFailed | BadAnswer:
    """The exception that a JSON-RPC error object stands for."""
    if not isinstance(error, dict):
        return BadAnswer(f"an error that is not an object: {str(error)[:80]}")
    code = error.get("code")
    return CallFailed(code if isinstance(code, int) else 1, str(error.get("message", "")), error.get("data"))


async def connect(
    session: aiohttp.ClientSession,
    info: NodeInfo,
    version: str = "v1",
    *,
    timeout: float = 10.0,
    heartbeat: float = 15.0,
    max_in_flight: int = 64,
) -> WsConnection:
    """Open a connection. Errors: NodeUnavailable, NodeTimeout, NodeRefused; BadAnswer: no WebSocket there.

    `heartbeat` is how often (seconds) a silent node is pinged; without an answer the connection breaks, so
    a half-open one is noticed.
    """
    try:
        async with asyncio.timeout(timeout):
            socket = await session.ws_connect(
                info.url(version, websocket=True),
                headers=info.headers(),
                heartbeat=heartbeat,
                max_msg_size=MAX_FRAME,
                autoping=True,
            )
    except TimeoutError:
        raise NodeTimeout(f"{info.name}: no connection in {timeout} s") from None
    except aiohttp.WSServerHandshakeError as error:
        if error.status in (401, 403):
            raise NodeRefused(f"{info.name}: the token is not taken (HTTP {error.status})") from None
        if error.status in (408, 429) or error.status >= 500:
            raise NodeUnavailable(f"{info.name}: HTTP {error.status}") from None
        raise BadAnswer(f"{info.name}: no WebSocket there (HTTP {error.status})") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NodeUnavailable(f"{info.name}: no connection ({type(error).__name__})") from None
    return WsConnection(info.name, socket, max_in_flight)
