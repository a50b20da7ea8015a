"""Runs several pieces of work at once; the first failure ends the others, and is raised as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def run_together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all. Errors: the first one of them."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
