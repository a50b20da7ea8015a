"""Tasks that run beside a process' work until it ends: one that ends by a fault says so, for nobody awaits it.

It stands in the lowest room, so that all rooms have it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


def in_background(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Run `work` until it is cancelled. `name`: what it is, for the log."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_tell)
    return task


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s has ended by a fault, until this process starts anew", task.get_name(), exc_info=error)
