"""Which numbers are asked for next: those that failed first, the lowest first, then new ones.

After Harmony's download manager. A number is one piece of a stage's work, e.g. a range of epochs.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Final

#: results that wait to be released; no more are asked for meanwhile (Harmony: 100)
MOST_WAITING: Final = 100
#: a result of fewer bytes counts as missing (Harmony: an empty list has one byte)
LEAST_BYTES: Final = 2


class Downloads:
    """The numbers behind `done` up to `last` (None: without end). A number is requested, delivered, or to be retried.

    `released` must be called as results are taken: what was delivered is remembered until then.
    """

    def __init__(self, done: int, last: int | None = None, *, most_waiting: int = MOST_WAITING) -> None:
        self.done = done
        self._next = done + 1
        self._last = last
        self._most_waiting = most_waiting
        self._requested: set[int] = set()
        self._delivered: set[int] = set()
        self._retries: list[int] = []

    @property
    def requested(self) -> frozenset[int]:
        """Numbers that are under way."""
        return frozenset(self._requested)

    @property
    def delivered(self) -> frozenset[int]:
        """Numbers that have come and are not released yet."""
        return frozenset(self._delivered)

    @property
    def retries(self) -> list[int]:
        """Numbers that are asked for again, rising."""
        return sorted(self._retries)

    @property
    def is_complete(self) -> bool:
        """Whether everything up to `last` was released."""
        return self._last is not None and self.done >= self._last

    def end_at(self, last: int) -> None:
        """Ask for nothing behind `last`: it has turned out that there is no need."""
        self._last = last if self._last is None else min(last, self._last)
        self._retries = sorted(number for number in self._retries if number <= last)

    def next_batch(self, size: int) -> list[int]:
        """Up to `size` numbers, which count as requested from now on. Empty while too many results wait.

        A number that failed is asked for even then: results wait for it.
        """
        batch: list[int] = []
        while self._retries and len(batch) < size:
            number = heapq.heappop(self._retries)
            if number > self.done and number not in self._requested and number not in self._delivered:
                batch.append(number)
                self._requested.add(number)
        if len(self._delivered) >= self._most_waiting:
            return batch
        while len(batch) < size and (self._last is None or self._next <= self._last):
            number = self._next
            self._next += 1
            if number not in self._requested and number not in self._delivered and number not in self._retries:
                batch.append(number)
                self._requested.add(number)
        return batch

    def failed(self, numbers: Iterable[int]) -> None:
        """Ask for these again. One that was delivered meanwhile, by another source, stays delivered."""
        for number in numbers:
            if number in self._requested:
                self._requested.discard(number)
                if number not in self._delivered:
                    self._retry(number)

    def deliver(self, sizes: Mapping[int, int]) -> list[int]:
        """Results of these sizes (bytes) have come; those that are whole. One that is too short is asked for again.

        One that was not asked for, or has come before, is ignored.
        """
        whole: list[int] = []
        for number, size in sizes.items():
            if number not in self._requested:
                continue
            self._requested.discard(number)
            if size < LEAST_BYTES:
                self._retry(number)
            else:
                self._delivered.add(number)
                whole.append(number)
        return whole

    def take_over(self, number: int) -> bool:
        """A result of an earlier run counts as delivered; False where it is not wanted."""
        if number < self._next or (self._last is not None and number > self._last):
            return False
        self._delivered.add(number)
        return True

    def withdraw(self, numbers: Iterable[int]) -> None:
        """Results turned out to be bad: ask for them again."""
        for number in numbers:
            if number in self._delivered:
                self._delivered.discard(number)
                self._retry(number)

    def release(self, number: int) -> None:
        """Everything up to `number` is done."""
        self.done = max(self.done, number)
        self._next = max(self._next, self.done + 1)
        self._delivered = {one for one in self._delivered if one > self.done}

    def _retry(self, number: int) -> None:
        # one that was under way when the end was found is not needed any more
        if number not in self._retries and (self._last is None or number <= self._last):
            heapq.heappush(self._retries, number)
