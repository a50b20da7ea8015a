"""A WebSocket session as methods see it. `rpc.server.websocket` has the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol


class Burst(list[Any]):
    """Several values that a channel method yields at once.

    Each becomes a frame of its own. They wait for a client that reads, where single values that find no room in the
    channel's buffer end the channel.
    """


class SharedText:
    """A value as JSON, which many channels push: each puts its name into the same text."""

    __slots__ = ("_parts", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._parts: dict[tuple[object, int], tuple[bytes, bytes]] = {}

    def __len__(self) -> int:
        return len(self.text)

    def around(
        self, form: object, name_size: int, make: Callable[[int, bytes], tuple[bytes, bytes]]
    ) -> tuple[bytes, bytes]:
        """What stands before and after a name of so many bytes, made once by `make` (name's size, text) a `form`."""
        parts = self._parts.get((form, name_size))
        if parts is None:
            parts = self._parts[form, name_size] = make(name_size, self.text)
        return parts


class SharedReader:
    """A channel method yields one where all values that follow are the same for many channels, and encoded once.

    The source calls `push` and `end`; the channel calls `attach` and waits for `wake`. At most `buffer` pushes wait for
    a channel that has not attached yet; more end it. `seen`: the sequence number of the last head change that the
    channel knows.
    """

    __slots__ = ("_buffer", "_take", "_waiting", "is_over", "last", "seen", "wake")

    def __init__(self, seen: int, buffer: int = 64) -> None:
        self.seen = seen
        #: what the last values were of, for values that are told once
        self.last: object = None
        #: set when it is over, and by the channel for itself
        self.wake = asyncio.Event()
        self.is_over = False
        self._buffer = buffer
        self._waiting: list[list[SharedText]] = []
        self._take: Callable[[list[SharedText]], object] | None = None

    def push(self, texts: list[SharedText]) -> None:
        """Values that come at once."""
        if self.is_over:
            return
        if self._take is not None:
            self._take(texts)
        elif len(self._waiting) < self._buffer:
            self._waiting.append(texts)
        else:
            self.end()

    def end(self) -> None:
        """Nothing more comes."""
        self.is_over = True
        self.wake.set()

    def attach(self, take: Callable[[list[SharedText]], object]) -> None:
        """Call this with what comes, and with what waits already."""
        waiting, self._waiting = self._waiting, []
        self._take = take
        for texts in waiting:
            take(texts)


class Session(Protocol):
    """One WebSocket session. It may push by itself, and says when it ends."""

    #: ids of the filters and subscriptions that this session has made; methods bound their number
    filter_ids: set[bytes]

    @property
    def client(self) -> str:
        """The client's address, as `rpc.server.client_address` tells clients apart."""

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call this when the session has ended."""

    async def notify(self, method: str, params: Any) -> None:
        """Push a notification. Errors: ConnectionError, when the session has ended."""

    def subscribe(self, call: object, subscription: bytes, values: AsyncIterator[Any]) -> None:
        """Push what `values` yields as `eth_subscription`, once the call (its context) is answered with the id."""

    def unsubscribe(self, subscription: bytes) -> bool:
        """End a subscription of this session; whether there was one."""
