"""Which server belongs in front of the dispatcher: the same answer through each, and the project's own.

    python -m benches.http_servers [seconds]

The first four parse the request with orjson and answer from a dictionary, nothing more; the last two are the
whole of this project's server and dispatcher, which do everything (auth, limits, metrics, arity, ids).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import orjson

from benches.rpc_load import free_port, load, server_process

BODY = b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}'
BATCH = b"[" + b",".join([BODY] * 100) + b"]"
ANSWERS = {"eth_chainId": b"0x13a"}


def answer(body: bytes) -> bytes:
    """The least that an answer takes."""
    request = orjson.loads(body)
    return b'{"id":%d,"jsonrpc":"2.0","result":"%s"}\n' % (request["id"], ANSWERS[request["method"]])


def aiohttp_application(port: int) -> None:
    """aiohttp with its router."""
    from aiohttp import web

    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=answer(await request.read()), content_type="application/json")

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/rpc/v1", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()

    run(main)


def aiohttp_server(port: int) -> None:
    """aiohttp without router and application."""
    from aiohttp import web

    async def handle(request: web.BaseRequest) -> web.Response:
        return web.Response(body=answer(await request.read()), content_type="application/json")

    async def main() -> None:
        server = web.Server(handle, access_log=None)
        await asyncio.get_running_loop().create_server(server, "127.0.0.1", port)
        await asyncio.Event().wait()

    run(main)


def bare_protocol(port: int) -> None:
    """asyncio.Protocol and httptools."""
    import httptools

    class Bare(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport
            self.parser = httptools.HttpRequestParser(self)

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_body(self, body: bytes) -> None:
            out = answer(body)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            self.transport.write(head % len(out) + out)  # type: ignore[attr-defined]

    async def main() -> None:
        await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", port)
        await asyncio.Event().wait()

    run(main)


def echo_protocol(port: int) -> None:
    """A fixed answer to whatever comes: the floor that socket calls set on this machine."""
    out = answer(BODY)
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(out) + out

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(whole)  # type: ignore[attr-defined]

    async def main() -> None:
        await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
        await asyncio.Event().wait()

    run(main)


def this_project(port: int) -> None:
    """The server of this project."""

    async def main() -> None:
        import rpc.methods.node.node  # noqa: F401
        from rpc.server.server import serve
        from tests.support.wire_node import services

        await serve(services(), "127.0.0.1", port)
        await asyncio.Event().wait()

    run(main)


def run(main: Callable[[], object]) -> None:
    """Under uvloop, as the product runs."""
    import uvloop

    uvloop.run(main())  # type: ignore[arg-type]


SERVERS: tuple[tuple[str, Callable[[int], None], str, bytes], ...] = (
    ("aiohttp application", aiohttp_application, "/rpc/v1", BODY),
    ("aiohttp low-level server", aiohttp_server, "/rpc/v1", BODY),
    ("asyncio.Protocol + httptools, nothing else", bare_protocol, "/rpc/v1", BODY),
    ("a fixed answer, not even parsed", echo_protocol, "/rpc/v1", BODY),
    ("this project", this_project, "/rpc/v1", BODY),
    ("this project, batches of 100", this_project, "/rpc/v1", BATCH),
)


def main(seconds: float = 3.0) -> list[str]:
    """Measure each; one line each."""
    lines = []
    for name, serve, path, body in SERVERS:
        port = free_port()
        with server_process(serve, port) as pid:
            result = load(f"http://127.0.0.1:{port}{path}", [body], pids=[pid], seconds=seconds)
        lines.append(result.row(name))
        print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 3.0)
