"""The slots of a worker, which classes of jobs share: each has its own, and lends those that it does not need."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from leader_bridge.pool.job import WATCH

#: slots that a class never lends, so its next job waits for none of another class
_KEPT: Final = 1
#: the head must not wait: one tipset may come while another one is being worked on
_KEPT_OF_WATCH: Final = 2


class Slots:
    """`shares`: by class, its own slots. A class with more jobs than that borrows what others leave free.

    A slot that becomes free goes to a class that has fewer than its own first, and to the one that has the smallest
    part of them.
    """

    def __init__(self, shares: Mapping[str, int]) -> None:
        self._shares = dict(shares)
        self._kept = {name: min(own, _KEPT_OF_WATCH if name == WATCH else _KEPT) for name, own in shares.items()}
        self._used = dict.fromkeys(shares, 0)
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @property
    def total(self) -> int:
        """All slots."""
        return sum(self._shares.values())

    async def take(self, queue: str) -> None:
        """Wait for a slot for a job of a class."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((queue, granted))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.give_back(queue)
            else:
                self._waiting.remove((queue, granted))
            raise

    def give_back(self, queue: str) -> None:
        """A job of a class has ended."""
        self._used[queue] -= 1
        self._grant()

    def _grant(self) -> None:
        # one whose task is being cancelled is done, and still here until that task runs
        while possible := [one for one in self._waiting if not one[1].done() and self._is_free_for(one[0])]:
            queue, granted = min(possible, key=lambda one: self._rank(one[0]))
            self._waiting.remove((queue, granted))
            self._used[queue] += 1
            granted.set_result(None)

    def _is_free_for(self, queue: str) -> bool:
        free = self.total - sum(self._used.values())
        if self._used[queue] < self._kept[queue]:
            return free > 0
        return free > sum(max(0, kept - self._used[name]) for name, kept in self._kept.items())

    def _rank(self, queue: str) -> tuple[bool, float]:
        used, own = self._used[queue], self._shares[queue]
        return used >= own, used / own
