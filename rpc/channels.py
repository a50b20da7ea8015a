"""One channel: the values of a method's async generator, pushed over a WebSocket as `xrpc.ch.val`.

Between the generator and the socket lie at most `buffer` values. A client that reads too slowly to keep
that from filling loses the channel (`xrpc.ch.close`), as it would at Lotus, never single values.
Source: go-jsonrpc `websocket.go`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from blockstore.errors import StoreError
from chain.errors import ChainError
from rpc.errors import RpcError

log = logging.getLogger("follower.rpc")

_END: Final = None

Send = Callable[[bytes], Awaitable[None]]


class Channel:
    """A running channel. `number` is what the client knows it by; `on_slow` is told when it was too slow."""

    def __init__(
        self,
        number: int,
        values: AsyncIterator[Any],
        encode: Callable[[Any], bytes],
        send: Send,
        buffer: int,
        on_slow: Callable[[], None],
    ) -> None:
        self.number = number
        self._values = values
        self._encode = encode
        self._send = send
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(buffer)
        self._stop = asyncio.Event()
        self._on_slow = on_slow

    def cancel(self) -> None:
        """End it: the client is told by `xrpc.ch.close`."""
        self._stop.set()

    async def run(self, first: asyncio.Task[Any]) -> None:
        """Push the first value and all that follow.

        Ends with the generator, by `cancel`, or when the client is too slow.
        """
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read(first))
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({writer, reader, stop}, return_when=asyncio.FIRST_COMPLETED)
            await _end(reader)
            if not writer.done():
                await self._queue.put(_END)
                await writer
        finally:
            for task in (writer, reader, stop):
                await _end(task)
            close = getattr(self._values, "aclose", None)
            if close is not None:
                with contextlib.suppress(Exception):
                    await close()

    async def _read(self, first: asyncio.Task[Any]) -> None:
        try:
            self._queue.put_nowait(self._frame(await first))
            async for value in self._values:
                self._queue.put_nowait(self._frame(value))
        except asyncio.QueueFull:
            self._on_slow()
            log.warning("channel %d is read too slowly: closed", self.number)
        except StopAsyncIteration:
            pass  # it ended before its first value
        except Exception as error:
            if not isinstance(error, RpcError | ChainError | StoreError):
                log.exception("channel %d failed: closed", self.number)

    async def _write(self) -> None:
        while (frame := await self._queue.get()) is not _END:
            await self._send(frame)
        await self._send(b'{"jsonrpc":"2.0","method":"xrpc.ch.close","params":[%d]}\n' % self.number)

    def _frame(self, value: Any) -> bytes:
        return b'{"jsonrpc":"2.0","method":"xrpc.ch.val","params":[%d,%s]}\n' % (
            self.number,
            self._encode(value),
        )


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end; how it ended does not matter."""
    if not task.done():
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
