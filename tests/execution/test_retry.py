"""An executor that dies while it works: each request is asked once more, and no oftener."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from follower.executor.client import RemoteExecutor
from follower.executor.wire import frame, read_frame
from rpc.errors import Unavailable


async def answered_after(path: Path, deaths: int) -> tuple[int, bytes | None]:
    """Ask an executor that dies so many times, and then answers: (how often it was asked, the answer)."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            number, _, _ = await read_frame(reader)
            asked += 1
            if asked <= deaths:
                writer.transport.abort()
                return
            writer.write(frame([number, None, [b"object"]]))
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    executor = RemoteExecutor(path)
    answer = None
    try:
        with contextlib.suppress(Unavailable):
            answer = await executor.get(b"\x01")
        return asked, answer
    finally:
        await executor.close()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("deaths", [0, 1, 2, 5])
async def test_a_request_is_asked_once_more_at_most(deaths: int, tmp_path: Path) -> None:
    asked, answer = await answered_after(tmp_path / "executor.sock", deaths)
    assert asked == min(deaths + 1, 2)
    assert answer == (b"object" if deaths < 2 else None)
