"""Connections that may begin with a PROXY header: read before anything else, and only from trusted peers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from rpc.errors import Refused
from rpc.server.gate.proxy_header import V1_SIGNATURE, V2_SIGNATURE, BadProxyHeader, read_proxy_header
from rpc.server.server_state import ServerState

log = logging.getLogger("follower.rpc")


class ProxiedConnection(asyncio.Protocol):
    """Reads the header of one connection, then gives the connection to what `make` makes.

    A connection from a peer that is not trusted is given away at once, and so is one whose first bytes are no PROXY
    header: what they are is for the other protocol to say. A broken header ends the connection without an answer.
    `deadline`: see `HttpConnection`.
    """

    def __init__(self, shared: ServerState, make: Callable[[], asyncio.Protocol]) -> None:
        self._shared = shared
        self._make = make
        self._data = b""
        self._is_counted = False
        self.deadline = 0.0
        self.transport: asyncio.Transport = None  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        shared = self._shared
        self.transport = transport  # type: ignore[assignment]
        if not shared.clients.is_trusted_transport(transport):
            self._give_away(b"")
            return
        try:
            # until it is known whose the connection is, it is nobody's
            shared.dispatcher.admission.connections.take("")
        except Refused:
            self.transport.abort()
            return
        self._is_counted = True
        shared.connections.add(self)
        self.deadline = shared.loop.time() + shared.settings.head_timeout_seconds

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            header = read_proxy_header(self._data)
        except BadProxyHeader as error:
            if self._data.startswith((V1_SIGNATURE, V2_SIGNATURE)):
                self._shared.dispatcher.refusals.count("proxy_header", "")
                log.debug("a connection ends: %s", error)
                self.transport.abort()
            else:
                self._give_away(self._data)
            return
        if header is not None:
            if header.client:
                self._shared.clients.note_peer(self.transport, header.client)
            self._give_away(self._data[header.length :])

    def _give_away(self, data: bytes) -> None:
        """The rest of the connection belongs to the other protocol."""
        self._leave()
        self._data = b""
        other = self._make()
        transport = self.transport
        transport.set_protocol(other)
        other.connection_made(transport)
        if data:
            other.data_received(data)

    def _leave(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._shared.leave(self)
            self._shared.dispatcher.admission.connections.give("")

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    # --- what the server's sweeper asks ----------------------------------------------------------------

    def expire(self) -> None:
        """Nothing whole has come in time."""
        self.transport.abort()

    def drain(self) -> None:
        """The server stops."""
        self.transport.close()

    def settle(self) -> None:
        """Nothing is sent here."""
