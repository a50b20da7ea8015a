"""What shared values a session has to push: written at once, when the process's `PushQueue` calls.

A session's frames leave in as few writes as possible: to write costs a system call and wakes the client, which takes
longer than all the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from rpc.pacer import PushQueue
from rpc.server.push.channels import Channel
from rpc.session import SharedReader, SharedText

#: bytes of a session that its client has not taken, from which on nothing is written: the client is behind
ROOM_BYTES: Final = 32 << 10
#: pushes that wait for a session's turn; they share their texts. More of them: the client is behind
_MOST_WAITING: Final = 1024


class Outbox:
    """The shared values that wait for one session's turn.

    `transport`: where to; None when the session has ended. `on_sent` is called with the bytes of each write.
    """

    __slots__ = ("_on_sent", "_queue", "_transport", "_waiting")

    def __init__(
        self,
        queue: PushQueue,
        transport: Callable[[], asyncio.WriteTransport | None],
        on_sent: Callable[[int], object],
    ) -> None:
        self._queue = queue
        self._transport = transport
        self._on_sent = on_sent
        self._waiting: list[tuple[Channel, SharedReader, Sequence[SharedText]]] = []

    def push(self, channel: Channel, reader: SharedReader, texts: Sequence[SharedText]) -> None:
        """Push values of a channel in this session's turn."""
        if not self._waiting:
            self._queue.add(self._write)
        elif len(self._waiting) >= _MOST_WAITING:
            self._keep_all()
            channel.keep(reader, texts)
            return
        self._waiting.append((channel, reader, texts))

    def _keep_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for channel, reader, texts in waiting:
            channel.keep(reader, texts)

    def _write(self) -> None:
        transport = self._transport()
        if transport is None or transport.is_closing():
            self._waiting.clear()
            return
        room = ROOM_BYTES - transport.get_write_buffer_size()
        if room <= 0:
            self._keep_all()
            return
        parts: list[bytes] = []
        rest: list[tuple[Channel, SharedReader, Sequence[SharedText]]] = []
        for channel, reader, texts in self._waiting:
            if channel.is_over:
                continue
            if channel.is_behind:
                channel.keep(reader, texts)
                continue
            for number, text in enumerate(texts):
                if room <= 0:
                    rest.append((channel, reader, texts[number:]))
                    break
                frame = channel.parts(text)
                parts += frame
                room -= len(frame[2])
        self._waiting = rest
        if rest:
            # what the client takes of this is known in the next turn
            self._queue.add(self._write)
        if parts:
            data = b"".join(parts)
            self._on_sent(len(data))
            transport.write(data)
