"""Answers of executions at a fixed tipset: kept, and made once for all who ask at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from cachetools import LRUCache

from rpc.context import Context
from rpc.errors import ExecutionReverted

T = TypeVar("T", bytes, int)

#: memory of an entry beside its key and answer
_OVERHEAD: Final = 300


class _Answers:
    """What was answered, by what was asked; reverts too, for they are as fixed as results."""

    def __init__(self, size: int) -> None:
        self.kept: LRUCache[bytes, Any] = LRUCache(size, getsizeof=lambda entry: entry[1])
        self.running: dict[bytes, asyncio.Task[Any]] = {}


async def answer_once(ctx: Context, key: bytes, make: Callable[[], Awaitable[T]]) -> T:
    """The kept answer for `key`, or what `make` answers. Errors: those of `make`; ExecutionReverted is kept too."""
    answers: _Answers | None = ctx.caches.get("executed_answers")
    if answers is None:
        answers = ctx.caches["executed_answers"] = _Answers(ctx.services.cache_sizes.executed)
    kept = answers.kept.get(key)
    if kept is not None:
        if isinstance(kept[0], ExecutionReverted):
            raise ExecutionReverted(str(kept[0]), data=kept[0].data)
        found: T = kept[0]
        return found
    running = answers.running.get(key)
    if running is None:
        running = answers.running[key] = asyncio.get_running_loop().create_task(_make(answers, key, make))
        running.add_done_callback(lambda _: answers.running.pop(key, None))
    # the one who asked first may leave: the others still want the answer
    answer: T = await asyncio.shield(running)
    return answer


async def _make(answers: _Answers, key: bytes, make: Callable[[], Awaitable[T]]) -> T:
    answer: Any
    try:
        answer = await make()
    except ExecutionReverted as error:
        _keep(answers, key, error, len(str(error)) + len(str(error.data or "")))
        raise
    _keep(answers, key, answer, len(answer) if isinstance(answer, bytes) else 8)
    found: T = answer
    return found


def _keep(answers: _Answers, key: bytes, answer: Any, size: int) -> None:
    entry = answer, size + len(key) + _OVERHEAD
    if entry[1] <= answers.kept.maxsize:
        answers.kept[key] = entry
