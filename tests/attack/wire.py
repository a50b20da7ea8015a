"""One HTTP connection as an attacker or a witness uses it: from an address of its own, with bytes of its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

#: addresses of this machine, so that the server tells the clients apart
WITNESS = "127.0.0.2"
ATTACKER = "127.0.0.3"
HOST = "127.0.0.1"


def call(method: str, *params: Any, request_id: Any = 1) -> bytes:
    """The body of one request."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": list(params)}).encode()


def post(body: bytes, *headers: str, path: str = "/rpc/v1") -> bytes:
    """The bytes of one POST request. Each of `headers` is a whole line."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {HOST}", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}"]).encode() + b"\r\n\r\n" + body


class Peer:
    """One connection. Errors of all methods: OSError, asyncio.IncompleteReadError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, source: str = ATTACKER, limit: int = 1 << 16) -> Peer:
        """Connect from the address `source`. `limit`: bytes that may wait here unread."""
        return cls(*await asyncio.open_connection(HOST, port, local_addr=(source, 0), limit=limit))

    async def send(self, data: bytes) -> None:
        """Send, waiting while the server does not read."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """(HTTP status, body) of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return int(head.split(b" ", 2)[1]), await self.reader.readexactly(length)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send and read the answer."""
        await self.send(request)
        return await self.answer()

    def drop(self) -> None:
        """Close without a word."""
        self.writer.transport.abort()
