"""An HTTP server that serves files by ranges, and that fails on demand, as servers and networks do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web


@dataclass
class RangeServer:
    """Serves one file at `url`. Faults are for the next requests, `times` of them."""

    file: Path
    url: str = ""
    requests: int = 0
    sent: list[str] = field(default_factory=list)
    #: what happens to the next requests: a status, "cut", "short", "whole", "wrong", "slow" or "encoded"
    faults: list[int | str] = field(default_factory=list)
    #: whether ranges are ignored
    ignores_ranges: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        self.sent.append(request.headers.get("Range", ""))
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, int):
            return web.Response(status=fault)
        if self.ignores_ranges or fault == "whole":
            return web.Response(body=self.file.read_bytes(), headers=self._headers())
        if fault == "slow":
            await self.closing.wait()
        if fault in ("cut", "short", "wrong", "encoded"):
            return await self._badly(request, str(fault))
        return web.FileResponse(self.file)

    def _headers(self) -> dict[str, str]:
        """As aiohttp's FileResponse has them."""
        state = self.file.stat()
        return {"ETag": f'"{state.st_mtime_ns:x}-{state.st_size:x}"'}

    async def _badly(self, request: web.Request, fault: str) -> web.StreamResponse:
        found = request.http_range
        assert found.start is not None
        assert found.stop is not None
        size = self.file.stat().st_size
        stop = min(found.stop, size)
        data = self.file.read_bytes()[found.start : stop]
        headers = self._headers()
        headers["Content-Range"] = f"bytes {found.start}-{stop - 1}/{size}"
        if fault == "wrong":
            headers["Content-Range"] = f"bytes {found.start + 1}-{stop}/{size}"
        if fault == "encoded":
            headers["Content-Encoding"] = "gzip"
        if fault == "cut":
            headers["Content-Length"] = str(len(data))
        response = web.StreamResponse(status=206, headers=headers)
        await response.prepare(request)
        await response.write(data[: len(data) // 2] if fault in ("cut", "short") else data)
        if fault == "cut":
            assert request.transport is not None
            request.transport.close()
        return response


@contextlib.asynccontextmanager
async def range_server(file: Path) -> AsyncIterator[RangeServer]:
    """Serve `file` on a free port."""
    server = RangeServer(file)
    app = web.Application()
    app.router.add_get("/{name}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/{file.name}"
    try:
        yield server
    finally:
        server.closing.set()
        await runner.cleanup()
