"""The administration API: a small plain JSON-RPC 2.0 service on a port of its own, made with jsonrpcserver.

    admin.status                     what this process is and does
    admin.drain    [seconds]         not ready from now on; after `seconds` the server stops, gracefully
    admin.log_level [logger, level]  e.g. ["follower.rpc", "DEBUG"]

Callers hold a token that allows "admin", from this machine too unless a setting trusts it: any local user, and any
program that can be made to send a request, comes from there. Web pages are kept out three times over: the body must be
`application/json`, a request with `Origin` is refused, and `Host` must be an address, `localhost`, or a name that the
operator has given (a page cannot make a name of its own lead here). What goes wrong inside a method is logged, never
told.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import orjson
from aiohttp import web
from aiohttp.web_request import BaseRequest
from jsonrpcserver import Error, Result, Success, async_dispatch_to_serializable

from rpc.server.auth import Tokens
from rpc.server.server import Server

log = logging.getLogger("follower.admin")

_MAX_BODY: Final = 64 << 10
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
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


class Admin:
    """The service of one server. `stop` ends the process' serving; `status` adds to what is told.

    `hosts`: further names that `Host` may have. `trusts_loopback`: callers on this machine need no token.
    """

    def __init__(
        self,
        server: Server,
        *,
        stop: Callable[[float], Awaitable[None]] | None = None,
        status: Callable[[], Awaitable[dict[str, Any]]] | None = None,
        hosts: Iterable[str] = (),
        trusts_loopback: bool = False,
    ) -> None:
        self._server = server
        self._stop = stop or server.stop
        self._more = status
        self._hosts = frozenset(host.lower() for host in hosts if host)
        self._trusts_loopback = trusts_loopback
        self._started = time.time()
        self._tokens = Tokens(server.settings.jwt_secret, frozenset())
        self._web = web.Server(self._handle, access_log=None)
        self._listener: asyncio.Server | None = None
        self._draining: asyncio.Task[None] | None = None
        self.port = 0
        self.methods: dict[str, AdminMethod] = {
            "admin.status": guarded(self._status),
            "admin.drain": guarded(self._drain),
            "admin.log_level": guarded(self._log_level),
        }

    async def listen(self, host: str, port: int) -> None:
        """Start to accept. Port 0 takes a free one. Errors: OSError."""
        self._listener = await asyncio.get_running_loop().create_server(self._web, host, port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop accepting. A drain that has begun goes on."""
        if self._listener is not None:
            self._listener.close()
        await self._web.shutdown(1.0)

    # --- methods -------------------------------------------------------------------------------------

    async def _status(self) -> Result:
        server = self._server
        found: dict[str, Any] = {
            "pid": os.getpid(),
            "started": round(self._started),
            "listen": f"{server.host}:{server.port}",
            "network": server.dispatcher.services.network.name,
            "in_flight": server.dispatcher.in_flight,
            "draining": server.health.draining,
        }
        try:
            head = await server.dispatcher.services.head_source.current()
            found["head"] = {"seq": head.seq, "height": head.tipset.height}
        except Exception:
            log.warning("no head to tell", exc_info=True)
            found["head"] = None
        if self._more is not None:
            found.update(await self._more())
        return Success(found)

    async def _drain(self, seconds: float = 10.0) -> Result:
        if type(seconds) not in (int, float) or not 0 <= seconds <= 3600:
            return Error(-32602, "Invalid params", "seconds must be a number from 0 to 3600")
        if self._draining is None:
            self._server.drain()
            self._draining = asyncio.create_task(self._stop_later(seconds))
        return Success({"draining": True})

    async def _stop_later(self, seconds: float) -> None:
        # balancers look at the ready check; they get this long to see it
        await asyncio.sleep(seconds)
        await self._stop(seconds)

    async def _log_level(self, logger: str, level: str) -> Result:
        if not isinstance(logger, str) or level not in _LEVELS:
            return Error(-32602, "Invalid params", f"level must be one of {', '.join(_LEVELS)}")
        logging.getLogger(logger).setLevel(level)
        self._server.look_at_log_level()
        return Success({"logger": logger, "level": level})

    # --- HTTP ----------------------------------------------------------------------------------------

    async def _handle(self, request: BaseRequest) -> web.StreamResponse:
        if "Origin" in request.headers or not is_known_host(request.headers.get("Host", ""), self._hosts):
            return web.Response(status=403)
        if request.method != "POST" or request.path != "/":
            return web.Response(status=404)
        if not self._allowed(request):
            return web.Response(status=401)
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
            return "admin" in (self._tokens.permissions(authorization) or ())
        return self._trusts_loopback and is_loopback(request.remote)


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
