"""Ranges of headers that have come and wait for those above them: rows of the store, so that a kill loses none.

They are not objects yet: only a release proves that they are the chain's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from blockstore.car.writer import section_start
from blockstore.cid import Cid
from blockstore.errors import HashMismatch
from blockstore.store import META, Batch, Store
from leader_bridge.sync.downloads import MOST_WAITING
from rpc.server.ranges.wire import CAR_START, BadWire, read_car

#: partition of META: by number of the range, a CAR of its headers
_WAITING: Final = b"sync headers"
_NUMBER_BYTES: Final = 8


class WaitingRanges:
    """The rows, by number of the range: its lowest epoch by `RANGE_EPOCHS`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._numbers: set[int] = set()

    async def load(self) -> dict[int, dict[Cid, bytes]]:
        """What an earlier run has left. Errors: StoreError."""
        loaded: dict[int, dict[Cid, bytes]] = {}
        start = b""
        while rows := await self._store.scan(META, _WAITING, start=start, limit=MOST_WAITING):
            for key, value in rows:
                number = int.from_bytes(key)
                self._numbers.add(number)
                try:
                    loaded[number] = read_car(value)
                except (BadWire, HashMismatch):
                    # a row that cannot be read is asked for again
                    continue
            start = rows[-1][0] + b"\0"
        return loaded

    async def add(self, number: int, found: Mapping[Cid, bytes]) -> None:
        """Keep a range. Errors: StoreError."""
        car = bytearray(CAR_START)
        for cid, data in found.items():
            car += section_start(cid, len(data)) + data
        batch = Batch()
        batch.put(META, _WAITING, number.to_bytes(_NUMBER_BYTES, "big"), bytes(car))
        await self._store.write(batch)
        self._numbers.add(number)

    def remove(self, batch: Batch, number: int) -> None:
        """Forget a range, if it is kept."""
        if number in self._numbers:
            self._numbers.discard(number)
            batch.delete(META, _WAITING, number.to_bytes(_NUMBER_BYTES, "big"))

    async def clear(self) -> None:
        """Forget all that are left. Errors: StoreError."""
        batch = Batch()
        for number in list(self._numbers):
            self.remove(batch, number)
        if batch:
            await self._store.write(batch)
