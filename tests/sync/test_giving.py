"""A follower that gives ranges, while several ask and some are slow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from blockstore.store import Store
from rpc.server.ranges import page
from rpc.server.ranges.page import RangeLimits
from tests.sync.conftest import TOKEN, giving, peer


async def test_nobody_is_told_that_nothing_is_held(devnet: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second asks while it is still looked up for the first."""
    really_find = page.oldest_held

    async def find(*arguments: Any) -> int | None:
        await asyncio.sleep(0.05)
        return await really_find(*arguments)

    monkeypatch.setattr(page, "oldest_held", find)
    async with giving(devnet) as (server, _):
        sources = [peer(server), peer(server)]
        first, second = await asyncio.gather(*(one.offer() for one in sources))
        assert first.held == second.held != {}
        for one in sources:
            await one.close()


async def test_a_body_that_does_not_come_keeps_no_place(devnet: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_BODY_SECONDS", 0.1)
    async with giving(devnet, RangeLimits(1000, 1000, at_once=1)) as (server, pages):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = b"POST /obj HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: 100\r\n\r\n"
        writer.write(head % TOKEN.encode())
        async with asyncio.timeout(60):
            assert b" 408 " in await reader.readline()
        assert pages._admission.enter(1) == 0
        writer.close()
