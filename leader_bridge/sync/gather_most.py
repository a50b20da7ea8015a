"""Asks all sources at once, and does not wait for the few that are much later than most."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

Found = TypeVar("Found")

#: seconds that a source has to tell its head
ALL_SECONDS: Final = 20.0
#: when more than half have told it, the others have twice as long as those needed, and at least so many seconds
LATE_SECONDS: Final = 0.5


async def gather_most(
    works: Mapping[str, Coroutine[Any, Any, Found | None]],
    *,
    seconds: float = ALL_SECONDS,
    late_seconds: float = LATE_SECONDS,
) -> dict[str, Found]:
    """What they found, by name; without those that found nothing (None) or were late, which are cancelled.

    Errors: what one of them raises.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    end = began + seconds
    tasks = {asyncio.ensure_future(work): name for name, work in works.items()}
    found: dict[str, Found] = {}
    waiting = set(tasks)
    try:
        while waiting and (left := end - loop.time()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                value = task.result()
                if value is None:
                    continue
                found[tasks[task]] = value
                if len(found) == len(works) // 2 + 1:
                    now = loop.time()
                    end = min(end, now + max(late_seconds, now - began))
        return found
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
