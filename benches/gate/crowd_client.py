"""`python -m benches.gate.crowd_client`: one process of many clients of a follower: idle ones, and subscribers.

Prints a line of JSON each second: `{"idle", "subscriptions", "refused", "pushes", "closed"}`. Its connections
come from 127.0.0.2 and the addresses behind it. Ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import resource
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Final

import orjson
import uvloop

_ASKED: Final = b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}'
#: connections that come from one local address
_PER_ADDRESS: Final = 2000
#: connections that are made at the same time
_AT_ONCE: Final = 64
#: what subscribers ask for, in turn
SUBSCRIPTIONS: Final = (
    b'{"jsonrpc":"2.0","id":%d,"method":"eth_subscribe","params":["newHeads"]}',
    b'{"jsonrpc":"2.0","id":%d,"method":"eth_subscribe","params":["logs",{}]}',
    b'{"jsonrpc":"2.0","id":%d,"method":"Filecoin.ChainNotify","params":[]}',
)
_TEXT: Final = 1
_CLOSE: Final = 8
_PING: Final = 9
_PONG: Final = 10


def frame(payload: bytes, opcode: int = _TEXT) -> bytes:
    """A client's frame: masked, by zeros."""
    size = len(payload)
    head = bytes((0x80 | opcode, 0x80 | size)) if size < 126 else bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2)
    return head + bytes(4) + payload


class Client(asyncio.Protocol):
    """One connection. `wanted`: subscriptions to make, -1: an idle HTTP connection, 0: an idle WebSocket."""

    def __init__(self, wanted: int, found: Counter[str]) -> None:
        self._wanted = wanted
        self._found = found
        self._rest = b""
        self._is_open = False
        self._answers = 0
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        #: done once everything that this client asked for is answered
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        if self._wanted < 0:
            self._transport.write(
                b"POST /rpc/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(_ASKED) + _ASKED
            )
            return
        key = base64.b64encode(os.urandom(16))
        self._transport.write(
            b"GET /rpc/v1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        self._rest += data
        if not self._is_open:
            head, end, rest = self._rest.partition(b"\r\n\r\n")
            if not end:
                return
            self._rest, self._is_open = rest, True
            if not head.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")):
                self._found["refused"] += 1
                self._transport.close()
            if self._wanted < 0:
                self._finish("idle")
                return
            texts = [_ASKED] if not self._wanted else [SUBSCRIPTIONS[at % 3] % at for at in range(self._wanted)]
            for text in texts:
                self._transport.write(frame(text))
        if self._wanted >= 0:
            self._frames()

    def _frames(self) -> None:
        data, at = self._rest, 0
        while len(data) - at >= 2:
            size, start = data[at + 1] & 0x7F, at + 2
            if size >= 126:
                width = 2 if size == 126 else 8
                size, start = int.from_bytes(data[start : start + width]), start + width
            if len(data) < start + size:
                break
            self._frame(data[at] & 0x0F, data[start : start + size])
            at = start + size
        self._rest = data[at:]

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            self._transport.write(frame(payload, _PONG))
        elif opcode == _TEXT and b'"method"' in payload[:60]:
            self._found["pushes"] += 1
            self._found["bytes"] += len(payload)
        elif opcode == _TEXT:
            self._answers += 1
            if b'"error"' in payload[:200]:
                self._found["refused"] += 1
            elif self._wanted:
                self._found["subscriptions"] += 1
            if self._answers == max(self._wanted, 1):
                self._finish("" if self._wanted else "idle")

    def _finish(self, counted: str) -> None:
        if counted:
            self._found[counted] += 1
        if not self.ready.done():
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._found["closed"] += 1
        if not self.ready.done():
            self.ready.set_result(None)


async def run(port: int, idle: int, subscriptions: int, per_connection: int) -> None:
    """Open everything, then print what comes until standard input ends."""
    found: Counter[str] = Counter()
    wanted = [-1, 0] * (idle // 2) + [per_connection] * (subscriptions // per_connection)
    loop = asyncio.get_running_loop()
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int, kind: int) -> None:
        async with places:
            source = f"127.0.0.{2 + number // _PER_ADDRESS}"
            _, client = await loop.create_connection(
                lambda: Client(kind, found), "127.0.0.1", port, local_addr=(source, 0)
            )
            await client.ready

    async def tell() -> None:
        while True:
            print(orjson.dumps(found).decode(), flush=True)
            await asyncio.sleep(1)

    telling = asyncio.create_task(tell())
    await asyncio.gather(*(one(number, kind) for number, kind in enumerate(wanted)))
    with contextlib.suppress(EOFError):
        await asyncio.to_thread(sys.stdin.read)
    telling.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    """Be many clients."""
    parser = argparse.ArgumentParser(prog="python -m benches.gate.crowd_client", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--idle", type=int, default=0, help="connections that ask once: half of them WebSockets")
    parser.add_argument("--subscriptions", type=int, default=0)
    parser.add_argument("--per-connection", type=int, default=8, help="subscriptions of a connection")
    args = parser.parse_args(arguments)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(run(args.port, args.idle, args.subscriptions, args.per_connection))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
