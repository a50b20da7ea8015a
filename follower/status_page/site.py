"""The status page over HTTP: the page, its two files, and the report, for those who may see it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from ipaddress import ip_address, ip_network
from typing import Final

import orjson
from aiohttp import web
from aiohttp.web_request import BaseRequest

from follower.status_page.report import StatusReport
from rpc.server.admin import is_known_host
from rpc.server.auth import Tokens
from rpc.server.client_address import PRIVATE, Clients

OFF: Final = "off"
PRIVATE_ONLY: Final = "private"
TOKEN: Final = "token"
OPEN: Final = "open"

_FILES: Final = {
    "/": ("index.html", "text/html"),
    "/status.css": ("status.css", "text/css"),
    "/status.js": ("status.js", "text/javascript"),
}
#: ::1 is told as its /64
_PRIVATE: Final = tuple(ip_network(network) for network in (*PRIVATE, "::/64"))
#: nothing from elsewhere, nothing inline, in nobody's frame
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class StatusSite:
    """Answers `/`, `/status.css`, `/status.js` and `/status.json`.

    `mode`: "private" (callers of private networks, others with a token), "token" or "open". The page itself holds no
    figures: everybody gets it, and it asks for a token where one is needed. `hosts`: names under which callers without
    a token reach this follower, beside addresses and localhost. A page of another site cannot make a name of its own
    lead here then.
    """

    def __init__(
        self, report: StatusReport, tokens: Tokens, clients: Clients, mode: str, hosts: Iterable[str] = ()
    ) -> None:
        self._report = report
        self._tokens = tokens
        self._clients = clients
        self._mode = mode
        self._hosts = frozenset(host.lower() for host in hosts if host)
        folder = files("follower.status_page") / "static"
        self._files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}

    async def answer(self, request: BaseRequest) -> web.StreamResponse | None:
        """The answer to a GET or HEAD of a path that is the page's; None for others."""
        if request.method not in ("GET", "HEAD"):
            return None
        if request.path == "/status.json":
            return await self._status(request)
        found = self._files.get(request.path)
        if found is None:
            return None
        body, kind = found
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)

    async def _status(self, request: BaseRequest) -> web.Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return _json(refusal[0], orjson.dumps({"error": refusal[1]}))
        try:
            return _json(200, await self._report.text())
        except TimeoutError:
            return _json(503, orjson.dumps({"error": "The report is not ready yet. Ask again."}))

    def _refusal(self, request: BaseRequest) -> tuple[int, str] | None:
        """(status, reason) for a caller who may not see the report."""
        if self._mode == OPEN:
            return None
        authorization = request.headers.get("Authorization")
        if authorization:
            if "admin" in (self._tokens.permissions(authorization) or ()):
                return None
            return 401, "This token is not valid here, or does not allow admin."
        if self._mode == TOKEN:
            return 401, "The status page needs a token that allows admin."
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", ()))
        client = self._clients.of_transport(request.transport, forwarded)
        # an IPv6 client is told as its /64
        address = ip_address(client.partition("/")[0]) if client else None
        if address is None or not any(address in network for network in _PRIVATE):
            return 401, "Outside private networks, the status page needs a token that allows admin."
        if not is_known_host(request.headers.get("Host", ""), self._hosts):
            return 403, (
                "The status page was opened by a name that this follower does not know. Open it by its address, "
                "or add the name to the setting admin_hosts."
            )
        return None


def _json(status: int, body: bytes) -> web.Response:
    headers = {**_HEADERS, "Cache-Control": "no-store"}
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
