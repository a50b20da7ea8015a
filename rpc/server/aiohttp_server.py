"""aiohttp's server for what is not on the hot path; it gives back what its connections are counted for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_request import BaseRequest

from rpc.admission import Admission


class AiohttpHandler(web.RequestHandler):
    """One connection that the hot path handed over. `account`: whose share of connections it uses.

    `on_data` is called with the number of bytes that have come: a WebSocket session counts its unfinished messages.
    """

    __slots__ = ("_admission", "_is_counted", "account", "on_data")

    def __init__(self, manager: AiohttpServer, account: str, admission: Admission, **options: Any) -> None:
        super().__init__(manager, **options)
        self.account = account
        self._admission = admission
        self.on_data: Callable[[int], None] | None = None
        self._is_counted = True

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.on_data is not None:
            self.on_data(len(data))

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._is_counted:
            self._is_counted = False
            self._admission.connections.give(self.account)
        super().connection_lost(exc)


class AiohttpServer(web.Server):
    """Makes a handler for each connection that is handed over."""

    def __init__(
        self,
        answer: Callable[[BaseRequest], Awaitable[web.StreamResponse]],
        admission: Admission,
        **options: Any,
    ) -> None:
        super().__init__(answer, **options)
        self._admission = admission

    def handler(self, account: str) -> asyncio.Protocol:
        """The protocol of one connection, which counts for `account` until it ends."""
        return AiohttpHandler(self, account, self._admission, loop=self._loop, **self._kwargs)
