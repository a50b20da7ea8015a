"""A store in memory that answers as a far one does: each question takes its time, and is counted as one round trip."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from blockstore.memory import MemoryStore
from blockstore.store import Table

T = TypeVar("T")


class FarStore(MemoryStore):
    """Questions take `seconds`, one in twenty ten times as long where `is_uneven`. For a loop of virtual time."""

    def __init__(self, seconds: float = 0.06, *, is_uneven: bool = False) -> None:
        super().__init__()
        self.seconds = seconds
        self.is_uneven = is_uneven
        self.round_trips = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self._chance = random.Random(7)

    async def _far(self, answer: Awaitable[T]) -> T:
        found = await answer
        self.round_trips += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.seconds * (10 if self.is_uneven and self._chance.random() < 0.05 else 1))
        finally:
            self.in_flight -= 1
        return found

    async def get(self, multihash: bytes) -> bytes | None:
        return await self._far(super().get(multihash))

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        return await self._far(super().get_many(multihashes))

    async def row(self, table: Table, partition: bytes, key: bytes) -> bytes | None:
        return await self._far(super().row(table, partition, key))

    async def rows(self, table: Table, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        near = super().row

        async def all_of_them() -> list[bytes | None]:
            return [await near(table, partition, key) for partition, key in keys]

        return await self._far(all_of_them())

    async def scan(self, table: Table, partition: bytes, **how: Any) -> list[tuple[bytes, bytes]]:
        return await self._far(super().scan(table, partition, **how))


def far_copy(store: MemoryStore, seconds: float = 0.06, *, is_uneven: bool = False) -> FarStore:
    """The content of a store, as far away."""
    found = FarStore(seconds, is_uneven=is_uneven)
    found._objects, found._closed, found._rows = store._objects, store._closed, store._rows
    found._heads = store._heads
    return found
