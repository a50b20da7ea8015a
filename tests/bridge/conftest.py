"""Fixtures of the bridge's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.bridge.world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for node in made.nodes:
        await node.stop()
