"""HTTP as bytes, so that a test says exactly what is sent and sees exactly what comes back."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass


@dataclass
class Answer:
    """One HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> RawClient:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 30))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, head: bool = False) -> Answer:
        """The next answer; `head` when it has no body, whatever its length says."""
        start = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = start.rstrip("\r\n").split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        status = int(first.split()[1])
        body = b""
        if not head and status not in (100, 101, 204):
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(status, headers, body)

    async def closed(self) -> bytes:
        """What still comes until the server closes."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def request(
    body: bytes = b"", method: str = "POST", path: str = "/rpc/v1", headers: dict[str, str] | None = None
) -> bytes:
    """The bytes of a request, with a Content-Length where there is a body or the method wants one."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
    if body or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def post(port: int, body: bytes, path: str = "/rpc/v1", headers: dict[str, str] | None = None) -> Answer:
    """One request on a connection of its own."""
    client = await RawClient.connect(port)
    try:
        await client.send(request(body, "POST", path, headers))
        return await asyncio.wait_for(client.answer(), 60)
    finally:
        await client.close()
