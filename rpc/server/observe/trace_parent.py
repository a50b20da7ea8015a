"""The trace that a request continues: its `traceparent`, believed of trusted balancers alone.

A stranger's would decide what is sampled, and fill the traces of others. Source: W3C Trace Context, level 1.
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp.web_request import BaseRequest

from rpc.observe.call_record import TRACE_PARENT
from rpc.server.client_address import Clients
from rpc.server.http_protocol import HttpProtocol

#: version ff, and ids of nothing but zeros, are no trace
_VALUE: Final = r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_HEADER: Final = re.compile(rb"\r\ntraceparent:[ \t]*(%b)[ \t]*\r\n" % _VALUE.encode(), re.IGNORECASE)


class TracedHttpProtocol(HttpProtocol):
    """One connection of a server that traces."""

    __slots__ = ("_parent",)

    def _begin(self, data: bytes, head_end: int) -> None:
        # by a search, since a head that has come before is not read again
        found = _HEADER.search(data, 0, head_end)
        self._parent = ""
        if found is not None and self._shared.clients.is_trusted_transport(self.transport):
            self._parent = found[1].decode().lower()
        super()._begin(data, head_end)

    def _run(self, version: int, query: bytes, body: bytes, permissions: frozenset[str] | None) -> None:
        token = TRACE_PARENT.set(self._parent)
        try:
            super()._run(version, query, body, permissions)
        finally:
            TRACE_PARENT.reset(token)


def take_trace_parent(request: BaseRequest, clients: Clients) -> None:
    """Let what runs in this task continue the trace of a request that aiohttp has read."""
    text = request.headers.get("traceparent", "").strip().lower()
    transport = request.transport
    is_believed = transport is not None and clients.is_trusted_transport(transport) and re.fullmatch(_VALUE, text)
    TRACE_PARENT.set(text if is_believed else "")
