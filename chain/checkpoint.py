"""Where a long walk lets other work of its process go on.

A walk over many objects of a local store never waits by itself. It calls its checkpoint once per few items; who
serves requests passes `Context.checkpoint`, which may suspend the walk or end it by an error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

Checkpoint = Callable[[], Awaitable[None]]


async def no_checkpoint() -> None:
    """Go on at once: for walks whose process does nothing else."""
