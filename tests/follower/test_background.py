"""What runs beside a process' work."""

from __future__ import annotations

import asyncio
import logging

import pytest

from blockstore.background import in_background


async def test_a_fault_is_told_and_a_cancellation_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise ZeroDivisionError("a fault")

    async def waits() -> None:
        await asyncio.Event().wait()

    with caplog.at_level(logging.INFO):
        first, second = in_background(fails(), "the watch of tenants"), in_background(waits(), "another")
        await asyncio.wait({first})
        second.cancel()
        await asyncio.wait({second})
        await asyncio.sleep(0)
    (record,) = caplog.records
    assert record.getMessage() == "the watch of tenants has ended by a fault, until this process starts anew"
    assert record.exc_info is not None
