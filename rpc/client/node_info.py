"""Where a full node is and how to speak to it: the `FULLNODE_API_INFO` form.

No error, log line or `repr` made here holds a token: a node is named by `NodeInfo.name`, its host and port.
Source of the form: Lotus `cli/util/apiinfo.go`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from rpc.node_errors import BadNodeInfo

_SCHEMES: Final = {"http": False, "ws": False, "https": True, "wss": True}
_HOST_PROTOCOLS: Final = ("ip4", "ip6", "dns", "dns4", "dns6", "dnsaddr")
_SECURE_PARTS: Final = ("https", "wss", "tls")
_VERSION_PATH: Final = re.compile(r"/rpc/v\d+/?$")


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One full node: `base` is its URL without scheme, query and `/rpc/vN`, e.g. `127.0.0.1:1234`.

    `token` is sent as a bearer token. Of the scheme only `secure` is kept: Lotus serves HTTP and WebSocket
    on one port, and following falls back to polling where the latter is not served.
    """

    base: str
    secure: bool = False
    token: str = field(default="", repr=False)
    query: str = field(default="", repr=False)
    userinfo: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """What logs, metrics and errors call the node: host and port, for a path can hold a provider's key."""
        return self.base.partition("/")[0]

    def url(self, version: str = "v1", *, websocket: bool = False) -> str:
        """The URL to dial, e.g. `ws://127.0.0.1:1234/rpc/v1`. Holds what the query held: not for logs."""
        scheme = ("ws" if websocket else "http") + ("s" if self.secure else "")
        query = f"?{self.query}" if self.query else ""
        return f"{scheme}://{self.base}/rpc/{version}{query}"

    def headers(self) -> dict[str, str]:
        """The headers that authenticate us."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def __str__(self) -> str:
        return self.name


def parse_node_info(text: str) -> list[NodeInfo]:
    """Every node in `text`: `TOKEN:ADDR` or `ADDR`, a multiaddr or a URL, several with commas.

    Errors: BadNodeInfo, which says which one by its place in the list and never repeats its text (it may
    hold a token).
    """
    infos: list[NodeInfo] = []
    for place, part in enumerate(text.split(","), 1):
        part = part.strip()
        if not part:
            continue
        try:
            infos.append(_parse_one(part))
        except BadNodeInfo as error:
            raise BadNodeInfo(f"node {place} in the list: {error}") from None
    if not infos:
        raise BadNodeInfo("no node is named")
    return infos


def _parse_one(text: str) -> NodeInfo:
    token = ""
    if not text.startswith("/"):
        head, colon, rest = text.partition(":")
        if colon and head and not rest.startswith("//"):
            token, text = head, rest
    if not text:
        raise BadNodeInfo("there is no address behind the token")
    if text.startswith("/"):
        return _parse_multiaddr(text, token)
    return _parse_url(text, token)


def _parse_multiaddr(text: str, token: str) -> NodeInfo:
    parts = text.strip("/").split("/")
    if len(parts) < 4 or parts[0] not in _HOST_PROTOCOLS:
        raise BadNodeInfo("a multiaddr is /ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT[/http|https|ws|wss]")
    host = parts[1]
    if parts[2] != "tcp":
        raise BadNodeInfo(f"the multiaddr's transport is {parts[2]!r}, not tcp")
    if not parts[3].isascii() or not parts[3].isdigit() or not 0 < int(parts[3]) < 65536:
        raise BadNodeInfo("the multiaddr's port is not a number from 1 to 65535")
    unknown = [part for part in parts[4:] if part not in ("http", "ws", *_SECURE_PARTS)]
    if unknown:
        raise BadNodeInfo(f"the multiaddr ends in {unknown[0]!r}; http, https, ws, wss or tls is known")
    if parts[0] == "ip6":
        host = f"[{host}]"
    return NodeInfo(f"{host}:{int(parts[3])}", any(part in _SECURE_PARTS for part in parts[4:]), token)


def _parse_url(text: str, token: str) -> NodeInfo:
    try:
        url: SplitResult = urlsplit(text)
        port = url.port
    except ValueError:
        raise BadNodeInfo("the URL cannot be read") from None
    if url.scheme not in _SCHEMES or not url.hostname:
        raise BadNodeInfo("an address is a multiaddr (/ip4/…) or a URL (http, https, ws, wss)")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    base = host if port is None else f"{host}:{port}"
    base += _VERSION_PATH.sub("", url.path).rstrip("/")
    pairs = parse_qsl(url.query, keep_blank_values=True)
    if not token:
        token = next((value for key, value in pairs if key == "token"), "")
    query = urlencode([pair for pair in pairs if pair[0] != "token"])
    userinfo = url.netloc.rpartition("@")[0]
    return NodeInfo(base, _SCHEMES[url.scheme], token, query, userinfo)
