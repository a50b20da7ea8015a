"""Results that have come, released in order, and withdrawn by source. After Harmony's result queue."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(order=True, slots=True)
class Result(Generic[Value]):
    """What `source` gave for a number. `size`: bytes."""

    number: int
    source: str = field(compare=False)
    value: Value = field(compare=False)
    size: int = field(default=0, compare=False)


class Results(Generic[Value]):
    """A heap by number. `size`: bytes of all that wait."""

    def __init__(self) -> None:
        self._heap: list[Result[Value]] = []
        self.size = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, result: Result[Value]) -> None:
        """Put a result in line."""
        heapq.heappush(self._heap, result)
        self.size += result.size

    def pop(self) -> Result[Value] | None:
        """The result of the lowest number; None where there is none."""
        if not self._heap:
            return None
        result = heapq.heappop(self._heap)
        self.size -= result.size
        return result

    def release(self, expected: int, most: int) -> tuple[list[Result[Value]], int]:
        """(the results from number `expected` on, without a gap, at most `most`; how many stale ones were dropped)."""
        released: list[Result[Value]] = []
        stale = 0
        while self._heap and len(released) < most and self._heap[0].number <= expected:
            result = self.pop()
            assert result is not None
            if result.number < expected:
                stale += 1
                continue
            released.append(result)
            expected += 1
        return released, stale

    def withdraw(self, source: str) -> list[int]:
        """Drop what a source gave; its numbers, rising."""
        gone = sorted(one.number for one in self._heap if one.source == source)
        self._heap = [one for one in self._heap if one.source != source]
        heapq.heapify(self._heap)
        self.size = sum(one.size for one in self._heap)
        return gone
