"""A real HTTP server of one file, which breaks off, stalls, refuses and changes as a test tells it."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class FileServer:
    """`content` at /snapshot.car.zst. `cuts`: bytes after which each of the next answers breaks off."""

    content: bytes
    etag: str = '"one"'
    ranges: bool = True
    checksum: str | None = None
    #: the checksum's name, as services have it
    checksum_name: str = "snapshot.car.zst.sha256sum"
    cuts: list[int] = field(default_factory=list)
    #: HTTP codes of the next answers
    codes: list[int] = field(default_factory=list)
    #: send nothing more after so many bytes, once
    stall_after: int | None = None
    #: bytes a second
    rate: int | None = None
    redirect: str | None = None
    declared_length: int | None = None
    #: what the file and its ETag are after the first answer
    later: bytes | None = None
    later_etag: str | None = None
    port: int = 0
    #: (Range header, code) of each answer
    asked: list[tuple[str, int]] = field(default_factory=list)
    sent: int = 0
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/snapshot.car.zst"

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        app = web.Application()
        app.router.add_get("/snapshot.car.zst", self._file)
        app.router.add_get("/latest/", self._latest)
        app.router.add_get("/{name:.*sha256sum}", self._sum)
        # a connection that a test's client has left ends at once
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def right_checksum(self) -> str:
        return f"{hashlib.sha256(self.content).hexdigest()} *snapshot.car.zst\n"

    def change(self) -> None:
        self.content, self.later = self.later or self.content, None
        self.etag, self.later_etag = self.later_etag or self.etag, None

    async def _latest(self, request: web.Request) -> web.StreamResponse:
        assert self.redirect is not None
        raise web.HTTPFound(self.redirect)

    async def _sum(self, request: web.Request) -> web.StreamResponse:
        if self.checksum is None or request.match_info["name"] != self.checksum_name:
            raise web.HTTPNotFound
        return web.Response(text=self.checksum)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        wanted = request.headers.get("Range", "")
        if self.codes:
            code = self.codes.pop(0)
            self.asked.append((wanted, code))
            return web.Response(status=code, headers={"Retry-After": "0"})
        content, start, code = self.content, 0, 200
        total = self.declared_length or len(content)
        same = request.headers.get("If-Range", self.etag) == self.etag
        headers = {"ETag": self.etag} if self.etag else {}
        if self.ranges and wanted and same:
            start, code = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self.asked.append((wanted, code))
        self.change()
        response = web.StreamResponse(status=code, headers=headers)
        response.content_length = total - start
        await response.prepare(request)
        end = start + self.cuts.pop(0) if self.cuts else len(content)
        step = 64 << 10
        while start < end:
            part = content[start : min(end, start + step)]
            await response.write(part)
            self.sent += len(part)
            start += len(part)
            if self.rate:
                await asyncio.sleep(len(part) / self.rate)
            if self.stall_after is not None and self.sent >= self.stall_after:
                self.stall_after = None
                await asyncio.sleep(3600)
        if end < len(content) or self.declared_length:
            assert request.transport is not None
            request.transport.close()
        return response
