"""A TCP proxy that passes every answer on later, as a far server would: `python -m benches.stores.delay_proxy`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections import deque
from typing import Any, Final

#: bytes on their way from the server before it is read no further
_WINDOW: Final = 32 << 20


class _Side(asyncio.Protocol):
    """One end of a connection. What it receives leaves at `other`, `delay` seconds later."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self.transport: Any = None
        self.other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if self.other is not None:
            # the server's end: the client has waited for it
            self.other.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        if not self._delay:
            self.other.transport.write(data)
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > _WINDOW:
            self.transport.pause_reading()
        self._loop.call_later(self._delay, self._pass_on)

    def _pass_on(self) -> None:
        """The oldest piece: timers of one moment may run in any order."""
        data = self._waiting.popleft()
        self._waiting_bytes -= len(data)
        if not self.transport.is_closing():
            self.transport.resume_reading()
        assert self.other is not None
        if not self.other.transport.is_closing():
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class _Client(_Side):
    def __init__(self, host: str, port: int, delay: float) -> None:
        super().__init__(0.0)
        self._server = (host, port)
        self._answers = delay
        self._connecting: asyncio.Task[Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        server = self.other = _Side(self._answers)
        server.other = self
        try:
            await self._loop.create_connection(lambda: server, *self._server)
        except OSError:
            self.transport.abort()


async def run(listen: int, host: str, port: int, delay: float) -> None:
    """Serve until SIGTERM. `delay`: seconds that answers come later."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: _Client(host, port, delay), "127.0.0.1", listen)
    await stop.wait()
    server.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.stores.delay_proxy", description=__doc__)
    parser.add_argument("--listen", type=int, required=True, metavar="PORT")
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--delay-ms", type=float, required=True, metavar="N")
    args = parser.parse_args()
    host, _, port = args.server.rpartition(":")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(args.listen, host, int(port), args.delay_ms / 1e3))


if __name__ == "__main__":
    main()
