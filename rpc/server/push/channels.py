"""One channel: the values of a method's async generator, pushed over a WebSocket as `xrpc.ch.val`.

Between the generator and the socket lie at most `buffer` values. A client that reads too slowly to keep
that from filling loses the channel (`xrpc.ch.close`), as it would at Lotus, never single values. Values that come many
at once (`Burst`) wait for room, so long as the client goes on reading. Source: go-jsonrpc `websocket.go`.

A `Subscription` is the same for `eth_subscribe`: its values are pushed as `eth_subscription`. Values of a shared source
(`SharedReader`) go past the buffer, through `rpc.server.push.outbox`, for as long as the client takes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

from blockstore.errors import StoreError
from chain.checkpoint import Checkpoint, no_checkpoint
from chain.errors import ChainError
from rpc.admission import Budget
from rpc.errors import Refused, RpcError
from rpc.session import Burst, SharedReader, SharedText

log = logging.getLogger("follower.rpc")

_END: Final = None

Send = Callable[[bytes], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Pipe:
    """The way of a channel's values to its client.

    At most `buffer` frames wait; they count as `memory` of `account`. `slow_reader_timeout_seconds` is how long one
    value of a burst waits for room; `on_slow` is called when the client was too slow.
    """

    encode: Callable[[Any], bytes]
    send: Send
    buffer: int
    slow_reader_timeout_seconds: float
    on_slow: Callable[[], None]
    memory: Budget
    account: str = ""
    #: takes shared values, and pushes or `keep`s them when their turn comes; None: they are kept
    push: Callable[[Channel, SharedReader, Sequence[SharedText]], object] | None = None
    #: called before each value is written: many channels push at the same time
    checkpoint: Checkpoint = no_checkpoint


class Channel:
    """A running channel. `number` is what the client knows it by."""

    #: what stands in a frame before the channel's name, between it and the value, and behind that
    _before: ClassVar[bytes] = b'{"jsonrpc":"2.0","method":"xrpc.ch.val","params":['
    _between: ClassVar[bytes] = b","
    _after: ClassVar[bytes] = b"]}\n"

    __slots__ = ("_pipe", "_queue", "_stop", "_waiting", "is_over", "name", "number", "queued_bytes", "values")

    def __init__(self, number: int, values: AsyncIterator[Any], pipe: Pipe) -> None:
        self.number = number
        self.name = b"%d" % number
        self.values = values
        self._pipe = pipe
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(pipe.buffer)
        #: bytes of frames that wait for the client, or are being sent
        self.queued_bytes = 0
        #: whether nothing more is taken
        self.is_over = False
        #: frames of a shared source that the queue has no room for
        self._waiting: deque[list[bytes]] = deque()
        self._stop = asyncio.Event()

    def cancel(self) -> None:
        """End it: the client is told by `xrpc.ch.close`."""
        self.is_over = True
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
            self.is_over = True
            await _end(reader)
            if not writer.done():
                await self._finish(writer)
        finally:
            self.is_over = True
            for task in (writer, reader, stop):
                await _end(task)
            self._uncount(self.queued_bytes)
            close = getattr(self.values, "aclose", None)
            if close is not None:
                with contextlib.suppress(Exception):
                    await close()

    async def _read(self, first: asyncio.Task[Any]) -> None:
        try:
            await self._take(await first)
            async for value in self.values:
                await self._take(value)
        except (asyncio.QueueFull, TimeoutError, Refused):
            self._pipe.on_slow()
        except StopAsyncIteration:
            pass  # it ended before its first value
        except Exception as error:
            if not isinstance(error, RpcError | ChainError | StoreError):
                log.exception("%s failed: closed", self)

    async def _take(self, value: Any) -> None:
        """Errors: QueueFull, TimeoutError (the client reads too slowly), Refused (it holds too much memory)."""
        if isinstance(value, SharedReader):
            await self._hear(value)
            return
        await self._pipe.checkpoint()
        if not isinstance(value, Burst):
            frame = self._frame(value)
            self._count(len(frame))
            self._queue.put_nowait(frame)
            return
        for one in value:
            await self._pipe.checkpoint()
            frame = self._frame(one)
            self._count(len(frame))
            if not self._queue.full():
                self._queue.put_nowait(frame)
                continue
            async with asyncio.timeout(self._pipe.slow_reader_timeout_seconds):
                await self._queue.put(frame)

    async def _hear(self, reader: SharedReader) -> None:
        """Push the values of a shared source until it ends. Errors: TimeoutError (the client reads too slowly)."""
        waiting = self._waiting
        reader.attach(partial(self._pipe.push or Channel.keep, self, reader))
        while not reader.is_over:
            await reader.wake.wait()
            reader.wake.clear()
            while waiting:
                for frame in waiting[0]:
                    if not self._queue.full():
                        self._queue.put_nowait(frame)
                        continue
                    async with asyncio.timeout(self._pipe.slow_reader_timeout_seconds):
                        await self._queue.put(frame)
                waiting.popleft()

    @property
    def is_behind(self) -> bool:
        """Whether frames wait that must leave before those that come now."""
        return self.queued_bytes > 0

    def keep(self, reader: SharedReader, texts: Sequence[SharedText]) -> None:
        """Have values of a shared source wait for a client that does not take them now. Too many end the channel."""
        if self.is_over:
            return
        frames = [self._framed(one.text) for one in texts]
        try:
            if len(self._waiting) >= self._pipe.buffer:
                raise asyncio.QueueFull
            for frame in frames:
                self._count(len(frame))
        except (asyncio.QueueFull, Refused):
            self._pipe.on_slow()
            reader.end()
            return
        self._waiting.append(frames)
        reader.wake.set()

    def _count(self, size: int) -> None:
        self._pipe.memory.take(self._pipe.account, size)
        self.queued_bytes += size

    def _uncount(self, size: int) -> None:
        self.queued_bytes -= size
        self._pipe.memory.give(self._pipe.account, size)

    async def _write(self) -> None:
        while (frame := await self._queue.get()) is not _END:
            await self._pipe.send(frame)
            self._uncount(len(frame))
        await self._pipe.send(b'{"jsonrpc":"2.0","method":"xrpc.ch.close","params":[%d]}\n' % self.number)

    async def _finish(self, writer: asyncio.Task[None]) -> None:
        """What was made goes out, and then the end."""
        await self._queue.put(_END)
        await writer

    def _frame(self, value: Any) -> bytes:
        return self._framed(self._pipe.encode(value))

    def _framed(self, text: bytes) -> bytes:
        return self._before + self.name + self._between + text + self._after

    def parts(self, text: SharedText) -> tuple[bytes, bytes, bytes]:
        """A WebSocket frame of a shared value, in three parts; the last one is a copy of the text."""
        begin, end = text.around(type(self), len(self.name), self._make_parts)
        return begin, self.name, end

    @classmethod
    def _make_parts(cls, name_size: int, text: bytes) -> tuple[bytes, bytes]:
        end = cls._between + text + cls._after
        return text_frame_head(len(cls._before) + name_size + len(end)) + cls._before, end

    def __str__(self) -> str:
        return f"channel {self.number}"


class Subscription(Channel):
    """What `eth_subscribe` opens. No frame ends it: `cancelled` says whether the client wanted its end."""

    _before = b'{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x'
    _between = b'","result":'
    _after = b"}}\n"

    __slots__ = ("subscription",)

    def __init__(self, subscription: bytes, values: AsyncIterator[Any], pipe: Pipe) -> None:
        super().__init__(0, values, pipe)
        self.subscription = subscription
        self.name = subscription.hex().encode()

    @property
    def cancelled(self) -> bool:
        """Whether it was ended by `cancel`."""
        return self._stop.is_set()

    async def _finish(self, writer: asyncio.Task[None]) -> None:
        """Nothing more goes out: who unsubscribed wants none, who is too slow would not take it."""

    def __str__(self) -> str:
        return f"subscription 0x{self.subscription.hex()}"


def text_frame_head(size: int, *, is_whole: bool = True) -> bytes:
    """The head of a server's text frame with a payload of `size` bytes (RFC 6455, 5.2).

    `is_whole`: whether that is all of a message; else continuation frames follow.
    """
    first = b"\x81" if is_whole else b"\x01"
    if size < 126:
        return first + bytes((size,))
    return first + (b"\x7e" + size.to_bytes(2) if size < 1 << 16 else b"\x7f" + size.to_bytes(8))


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end; how it ended does not matter."""
    if not task.done():
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
