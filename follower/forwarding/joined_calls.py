"""Reads that are in flight or fixed: asked once, answered to everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from cachetools import LRUCache

from rpc.observe.call_record import CURRENT_CALL, KEPT_OF_NODE, CallRecord, note_source

#: memory of an entry beside its answer, bytes
_OVERHEAD: Final = 300


@dataclass(slots=True)
class _Flight:
    task: asyncio.Task[Any] = field(init=False)
    waiting: int = 0
    #: of the call that is asked; it notes who answered
    record: CallRecord | None = field(default_factory=CURRENT_CALL.get)


class JoinedCalls:
    """Joins identical calls; keeps the answers of fixed ones, `cache_bytes` of them."""

    def __init__(self, cache_bytes: int) -> None:
        self._flights: dict[bytes, _Flight] = {}
        self._kept: LRUCache[bytes, bytes] = LRUCache(cache_bytes, getsizeof=lambda text: len(text) + _OVERHEAD)
        #: calls that another one answered too
        self.joined = 0
        #: calls that a kept answer served
        self.kept = 0

    @property
    def kept_bytes(self) -> int:
        """Memory of the answers that are kept, bytes."""
        return int(self._kept.currsize)

    def drop_kept(self) -> None:
        """Keep none of them any more."""
        self._kept.clear()

    async def get(self, key: bytes, make: Callable[[], Awaitable[Any]], *, is_fixed: bool) -> Any:
        """What `make` answers, or is answering already to another call. Errors: those of `make`.

        When everybody who waits has left, the call is cancelled.
        """
        answer = self._kept.get(key) if is_fixed else None
        if answer is not None:
            self.kept += 1
            note_source(KEPT_OF_NODE)
            return orjson.loads(answer)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = asyncio.get_running_loop().create_task(self._make(key, make, is_fixed))
        else:
            self.joined += 1
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            if flight.record is not None:
                note_source(flight.record.source)
            flight.waiting -= 1
            if not flight.waiting:
                if self._flights.get(key) is flight:
                    del self._flights[key]
                flight.task.cancel()

    async def _make(self, key: bytes, make: Callable[[], Awaitable[Any]], is_fixed: bool) -> Any:
        answer = await make()
        if is_fixed and answer is not None:
            text = orjson.dumps(answer)
            if len(text) + _OVERHEAD <= self._kept.maxsize // 8:
                self._kept[key] = text
        return answer
