"""The administration API of a process: a small plain JSON-RPC 2.0 service of its own, made with jsonrpcserver.

Callers over TCP hold a token that allows "admin", from this machine too unless a setting trusts it: any local user, and
any program that can be made to send a request, comes from there. A Unix socket is for its owner alone, who needs none.
Web pages are kept out three times over: the body must be `application/json`, a request with `Origin` is refused, and
`Host` must be an address, `localhost`, or a name that the operator has given (a page cannot make a name of its own lead
here). What goes wrong inside a method is logged, never told.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web
from aiohttp.web_request import BaseRequest
from jsonrpcserver import Error, Result, async_dispatch_to_serializable

from rpc.server.auth import Tokens

log = logging.getLogger("follower.admin")

_MAX_BODY: Final = 64 << 10
#: codes of the specification whose `data` is ours to tell, not the library's
_TOLD: Final = frozenset({-32602})

AdminMethod = Callable[..., Awaitable[Result]]


def guarded(method: AdminMethod) -> AdminMethod:
    """The same method, which tells nothing of what goes wrong inside it."""

    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> Result:
        try:
            return await method(*args, **kwargs)
        except Exception:
            log.exception("%s failed", method.__name__)
            return Error(-32603, "internal error")

    return call


async def dispatch(methods: dict[str, AdminMethod], body: bytes) -> bytes:
    """The answer to a request, empty for notifications. Never raises, never tells an exception's text."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = "�"
    answer = await async_dispatch_to_serializable(text, methods=methods)
    if answer is None:
        return b""
    for item in answer if isinstance(answer, list) else [answer]:
        error = item.get("error")
        if error is not None and -32768 <= error["code"] <= -32000 and error["code"] not in _TOLD:
            error.pop("data", None)
    return orjson.dumps(answer)


class AdminSite:
    """Serves `methods`. `tokens`: judges callers; None: no token is taken.

    `hosts`: further names that `Host` may have. `trusts_loopback`: callers on this machine need no token.
    """

    def __init__(
        self,
        methods: dict[str, AdminMethod],
        *,
        tokens: Tokens | None = None,
        hosts: Iterable[str] = (),
        trusts_loopback: bool = False,
    ) -> None:
        self.methods = methods
        self._tokens = tokens
        self._hosts = frozenset(host.lower() for host in hosts if host)
        self._trusts_loopback = trusts_loopback
        self._web = web.Server(self._handle, access_log=None)
        self._local_web = web.Server(self._handle_owner, access_log=None)
        self._listeners: list[asyncio.Server] = []
        self._socket: Path | None = None
        self.port = 0

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Start to accept over TCP. Port 0 takes a free one. Errors: OSError."""
        listener = await asyncio.get_running_loop().create_server(self._web, host, port, ssl=tls)
        self._listeners.append(listener)
        self.port = listener.sockets[0].getsockname()[1]

    async def listen_unix(self, path: Path) -> None:
        """Start to accept at a Unix socket that only its owner can open. Errors: OSError."""
        sock = _owners_socket(path)
        self._listeners.append(await asyncio.get_running_loop().create_unix_server(self._local_web, sock=sock))
        self._socket = path

    async def close(self) -> None:
        """Stop accepting."""
        for listener in self._listeners:
            listener.close()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
        await self._web.shutdown(1.0)
        await self._local_web.shutdown(1.0)

    async def _handle(self, request: BaseRequest) -> web.StreamResponse:
        if "Origin" in request.headers or not is_known_host(request.headers.get("Host", ""), self._hosts):
            return web.Response(status=403)
        if request.method != "POST" or request.path != "/":
            return web.Response(status=404)
        if not self._allowed(request):
            return web.Response(status=401)
        return await self._answer(request)

    async def _handle_owner(self, request: BaseRequest) -> web.StreamResponse:
        if "Origin" in request.headers:
            return web.Response(status=403)
        if request.method != "POST" or request.path != "/":
            return web.Response(status=404)
        return await self._answer(request)

    async def _answer(self, request: BaseRequest) -> web.StreamResponse:
        if request.content_type != "application/json":
            return web.Response(status=415)
        body = await request.content.read(_MAX_BODY + 1)
        while len(body) <= _MAX_BODY and (more := await request.content.read(_MAX_BODY)):
            body += more
        if len(body) > _MAX_BODY:
            return web.Response(status=413)
        return web.Response(body=await dispatch(self.methods, body), content_type="application/json")

    def _allowed(self, request: BaseRequest) -> bool:
        authorization = request.headers.get("Authorization")
        if authorization:
            return self._tokens is not None and "admin" in (self._tokens.permissions(authorization) or ())
        return self._trusts_loopback and is_loopback(request.remote)


def _owners_socket(path: Path) -> socket.socket:
    """A socket bound to `path`, which its owner alone can open. One of a process that was killed is removed."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_socket():
            path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # before it is bound, so that nobody can open it between
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(str(path))
        path.chmod(0o600)
    except BaseException:
        sock.close()
        raise
    return sock


def is_known_host(host: str, names: frozenset[str]) -> bool:
    """Whether a `Host` header is an IP address, `localhost`, or one of `names` (lower case), with a port or without."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name in names or name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(address: str | None) -> bool:
    """Whether a peer is on this machine."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
