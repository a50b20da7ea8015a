"""A stranger cannot fill the log with requests that are not HTTP."""

from __future__ import annotations

import logging

import pytest

from rpc.server.server import serve
from tests.support.http_raw import RawClient
from tests.support.wire_methods import make_registry
from tests.support.wire_node import services


@pytest.mark.parametrize(
    "start", [b"GET / / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nbad\x00header\r\n\r\n", b"\x16\x03\x01\r\n\r\n"]
)
async def test_what_is_not_http_is_answered_and_not_logged(start: bytes, caplog: pytest.LogCaptureFixture) -> None:
    server = await serve(services(), "127.0.0.1", 0, registry=make_registry())
    client = await RawClient.connect(server.port)
    try:
        with caplog.at_level(logging.INFO):
            await client.send(start)
            assert b" 400 " in await client.closed()
        assert not caplog.records
    finally:
        await client.close()
        await server.stop(0)
