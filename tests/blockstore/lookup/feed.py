"""Swarm feeds as a search: the newest update, by probing keys of (time base, level). Level 0 is a second.

An update lies in the epoch that `next_epoch` gives for the one before it and its own time. The simulated store is that
of the original's tests: 50 ms for what its cache has, 500 ms more for a hit, 1,000 ms more for a miss.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from blockstore.probes import Result, Step

HIGHEST = 31
#: begins a search that has no hint
_NOWHERE = 63


@dataclass(frozen=True)
class Epoch:
    """The 2^level seconds around a time."""

    time: int
    level: int

    @property
    def base(self) -> int:
        return self.time >> self.level << self.level

    @property
    def key(self) -> tuple[int, int]:
        return self.base, self.level


def next_level(last: Epoch, now: int) -> int:
    """The level of an update after `last`: the highest bit in which their times differ, or one below `last`'s."""
    differ = last.base ^ now
    if last.level:
        differ |= 1 << (last.level - 1)
    return min(HIGHEST, max(0, differ.bit_length() - 1))


def next_epoch(last: Epoch | None, now: int) -> Epoch:
    return Epoch(now, HIGHEST if last is None else next_level(last, now))


@dataclass(frozen=True)
class FeedStep:
    """Looks for the newest update at or before `now`, after the one in epoch `last`; `found`: the newest one seen."""

    now: int
    last: Epoch
    found: Epoch | None = None

    #: that a later update is not there does not tell whether an earlier one is
    is_two_sided = False

    @property
    def epoch(self) -> Epoch:
        return next_epoch(self.last, self.now)

    @property
    def key(self) -> tuple[int, int]:
        return self.epoch.key

    def after(self, hit: bool) -> Step[Epoch | None] | Result[Epoch | None]:
        epoch = self.epoch
        if hit:
            at_the_end = epoch.level == 0 or epoch.key == self.last.key
            return Result(epoch) if at_the_end else FeedStep(self.now, epoch, epoch)
        if epoch.base in (self.last.base, 0):
            return Result(self.found)
        return FeedStep(epoch.base - 1, self.last, self.found)


@dataclass
class FeedStore:
    """What is written where: key -> time of the update."""

    data: dict[tuple[int, int], int] = field(default_factory=dict)
    cache: set[tuple[int, int]] = field(default_factory=set)
    reads: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    def update(self, last: Epoch | None, now: int, time: int | None = None) -> Epoch:
        """Write an update, after one in `last`; its epoch. `time`: what the update says of itself."""
        epoch = next_epoch(last, now)
        self.data[epoch.key] = now if time is None else time
        return epoch

    async def read(self, now: int, key: tuple[int, int]) -> bool:
        """Whether the key has an update of a time up to `now`."""
        self.reads += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        seconds = 0.05
        try:
            if key not in self.cache:
                seconds += 0.5 if key in self.data else 1.0
                if key in self.data:
                    self.cache.add(key)
            await asyncio.sleep(seconds)
        finally:
            self.in_flight -= 1
        return key in self.data and self.data[key] <= now


Find = Callable[[FeedStep, Callable[[tuple[int, int]], Awaitable[bool]]], Awaitable[Epoch | None]]


async def look_up(find: Find, store: FeedStore, now: int, hint: Epoch | None = None) -> int | None:
    """The time of the newest update up to `now`. The hint is read only where nothing newer is found."""
    read = partial(store.read, now)
    found = await find(FeedStep(now, hint or Epoch(0, _NOWHERE)), read)
    if found is None and hint is not None:
        if await read(hint.key):
            found = hint
        else:
            before = hint.base - (hint.level == HIGHEST)
            return await look_up(find, store, before)
    return None if found is None else store.data[found.key]
