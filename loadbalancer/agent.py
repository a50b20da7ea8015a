"""The agent check: whoever connects gets a line that says whether to send requests. HAProxy asks each second.

    up ready 100%         take requests
    up ready 1%           the same, but others first: the head is behind or old
    drain                 what runs may end, nothing new
    down #reason          not now

`up` takes back `down`, `ready` takes back `drain`: HAProxy leaves alone what a line does not name.
Source: HAProxy's configuration manual, "agent-check".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

#: seconds for an answer; connections that are answered at the same time
_ANSWER_SECONDS: Final = 5.0
_MAX_CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether to send requests. `reason`: why not, in a few words.

    `behind`: its answers are right, but its head is not near the newest one. It counts where `ready` is not set.
    """

    ready: bool
    draining: bool = False
    reason: str = ""
    behind: bool = False

    def line(self) -> bytes:
        """The line of the agent protocol."""
        if self.draining:
            return b"drain\n"
        if self.ready:
            return b"up ready 100%\n"
        if self.behind:
            return b"up ready 1%\n"
        plain = "".join(c if c.isascii() and c.isprintable() and c != "," else " " for c in self.reason)
        return b"down #%s\n" % plain[:120].encode()


class AgentCheck:
    """Answers agent checks on a port of its own, which the workers of one listen address may share."""

    def __init__(self, condition: Callable[[], Awaitable[Condition]]) -> None:
        self._condition = condition
        self._listener: asyncio.Server | None = None
        self._busy = 0
        self.port = 0

    async def listen(self, host: str, port: int) -> None:
        """Start to accept. Port 0 takes a free one. Errors: OSError."""
        self._listener = await asyncio.start_server(self._answer, host, port, reuse_port=True)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Accept no more."""
        if self._listener is not None:
            self._listener.close()
            await self._listener.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._busy += 1
        try:
            if self._busy <= _MAX_CONNECTIONS:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    writer.write((await self._condition()).line())
                    await writer.drain()
        except (TimeoutError, OSError) as error:
            log.debug("an agent check was not answered: %r", error)
        finally:
            self._busy -= 1
            writer.close()
            with contextlib.suppress(OSError, socket.error):
                await writer.wait_closed()
