"""Keeps long work on a store from disturbing those that serve it."""

from __future__ import annotations

import asyncio

from leader_bridge.clock import monotonic


class Pace:
    """Works for a share of the time: `percent` of it, from 1 to 100. `step` is called after each piece of work."""

    def __init__(self, percent: int = 100) -> None:
        if not 1 <= percent <= 100:
            raise ValueError("percent must be from 1 to 100")
        self._idle_for_each_second = 100 / percent - 1
        self._began = monotonic()

    async def step(self) -> None:
        """Rest for as long as the work since the last call was long, in proportion; let others go on in any case."""
        worked = monotonic() - self._began
        await asyncio.sleep(min(5.0, worked * self._idle_for_each_second))
        self._began = monotonic()
