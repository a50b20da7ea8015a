"""The servers of a benchmark: where they are, whether they answer JSON-RPC, and their processes on this machine."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from follower.commands.load.connection import NOT_JSON_RPC, TOO_MANY, fault, host_and_port
from follower.commands.load.local_cpu import is_local, listening_pids, with_children
from follower.commands.load.mix import Call
from rpc.client.node_info import NodeInfo, parse_node_info
from rpc.node_errors import BadNodeInfo

_PROBE_SECONDS: Final = 10.0


class BadTarget(Exception):
    """A server cannot be measured: it does not exist, does not answer, or speaks no JSON-RPC."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server that answers. `pids`: its processes, where they run on this machine; empty: not known."""

    info: NodeInfo
    pids: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Host and port."""
        return self.info.name


def parse_target(text: str) -> NodeInfo:
    """A server from a URL, a multiaddr or TOKEN:ADDR. Errors: BadTarget."""
    try:
        infos = parse_node_info(text)
    except BadNodeInfo as error:
        raise BadTarget(f"a target is a URL, as http://127.0.0.1:1234: {error}") from None
    if len(infos) > 1:
        raise BadTarget("a target is one server")
    return infos[0]


async def find_target(info: NodeInfo, call: Call, pids: Sequence[int] = ()) -> Target:
    """Ask a server one call, whatever its answer, and find its processes. Errors: BadTarget."""
    host, port = host_and_port(info)
    try:
        local = await asyncio.get_running_loop().run_in_executor(None, is_local, host)
    except socket.gaierror:
        raise BadTarget(f"{info.name}: no such host") from None
    await _probe(info, call)
    if pids:
        return Target(info, tuple(with_children(pids)))
    return Target(info, tuple(with_children(listening_pids(port))) if local else ())


async def _probe(info: NodeInfo, call: Call) -> None:
    """Errors: BadTarget."""
    url = info.url().replace(f"{info.base}/rpc/v1", f"{info.base}{call.path}")
    headers = {"Content-Type": "application/json", **info.headers()}
    timeout = aiohttp.ClientTimeout(total=_PROBE_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=call.body, headers=headers, allow_redirects=False) as response,
        ):
            status, body = response.status, await response.read()
    except aiohttp.ClientConnectorDNSError:
        raise BadTarget(f"{info.name}: no such host") from None
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        raise BadTarget(f"{info.name}: TLS fails: {error}") from None
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, ConnectionRefusedError):
            raise BadTarget(f"{info.name}: connection refused: nothing listens there") from None
        raise BadTarget(f"{info.name}: no connection: {error.os_error.strerror or error.os_error}") from None
    except TimeoutError:
        raise BadTarget(f"{info.name}: no answer in {_PROBE_SECONDS:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise BadTarget(f"{info.name}: no answer of HTTP ({type(error).__name__})") from None
    if 300 <= status < 400:
        raise BadTarget(f"{info.name}: HTTP {status}: it sends clients elsewhere; name that address")
    if status in (401, 403):
        raise BadTarget(f"{info.name}: HTTP {status}: it wants a token: TOKEN:ADDRESS")
    kind = fault(status, body)
    if kind == NOT_JSON_RPC or (kind is not None and kind.startswith("HTTP") and kind != TOO_MANY):
        raise BadTarget(f"{info.name}: not a JSON-RPC server: HTTP {status}, {len(body)} bytes")
