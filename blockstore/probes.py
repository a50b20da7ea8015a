"""What a search asks: its steps, how a probe answers, and how long probes take.

`blockstore.lookup` has the searches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Generic, Protocol, TypeVar

from blockstore.errors import StoreUnavailable
from blockstore.recent_times import RecentTimes

#: seconds; where 95 of 100 probes take less, asking ahead costs more than it gains
FAR: Final = 0.002
#: seconds that a probe is taken to need while fewer than `_FEW` have been timed
_GUESS: Final = 0.02
_FEW: Final = 4
#: probes of which the latency is remembered
_WINDOW: Final = 256
#: a probe that gives no answer is asked again, this many times in all
_TRIES: Final = 3
#: seconds after which one try is given up
TIMEOUT: Final = 10.0


class Later(Enum):
    """The answer of a probe that cannot tell yet. It is neither a hit nor a miss: the probe is asked again."""

    LATER = "later"


LATER: Final = Later.LATER

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", covariant=True)
Probe = Callable[[K], Awaitable[bool | Later]]


class Undecided(StoreUnavailable):
    """A probe that the search needs timed out, or said "later", each time that it was asked."""


@dataclass(frozen=True, slots=True)
class Result(Generic[V]):
    """The end of a search."""

    value: V


class Step(Protocol[V]):
    """One step of a search. Equal keys are probed once."""

    @property
    def key(self) -> Any:
        """What to probe."""

    @property
    def is_two_sided(self) -> bool:
        """Whether a miss below the miss side of a step implies a miss of that step.

        In every search a hit below the hit side implies a hit.
        """

    def after(self, hit: bool) -> Step[V] | Result[V]:
        """What follows this answer."""


@dataclass(frozen=True, slots=True)
class Range:
    """The first place in [low, high) whose probe hits; `high` where none does. Above a hit all places hit.

    `reach` > 0: the first probe lies so many places above `low`, each further one twice as far, until one hits. For a
    place that is likely to be near `low`.
    """

    low: int
    high: int
    reach: int = 0

    @property
    def is_two_sided(self) -> bool:
        """A miss implies misses at all lower places."""
        return True

    @property
    def key(self) -> int:
        """The place to probe: the middle, or the reach above `low` if that is nearer."""
        middle = (self.low + self.high) // 2
        return min(middle, self.low + self.reach - 1) if self.reach else middle

    def after(self, hit: bool) -> Range | Result[int]:
        """Below the place for a hit, above it for a miss."""
        at = self.key
        low, high, reach = (self.low, at, 0) if hit else (at + 1, self.high, self.reach * 2)
        return Range(low, high, reach) if low < high else Result(low)


class Latency:
    """How long the probes of one kind took lately, in seconds."""

    def __init__(self) -> None:
        self._taken = RecentTimes(_WINDOW)

    def add(self, seconds: float) -> None:
        """Count a probe."""
        self._taken.add(seconds)

    @property
    def median(self) -> float:
        """Half of the probes take no longer."""
        return self._taken.quantile(0.5) if len(self._taken) >= _FEW else _GUESS

    @property
    def p95(self) -> float:
        """Of 100 probes, 95 take no longer."""
        return self._taken.quantile(0.95) if len(self._taken) >= _FEW else _GUESS

    def add_cancelled(self, seconds: float) -> None:
        """Count a probe that was cancelled after so long: only where that tells that it was slow."""
        if seconds > self.p95:
            self.add(seconds)

    @property
    def head_start(self) -> float:
        """Seconds between a probe and the ones that look ahead of it.

        A quarter of the median: four levels of the search are in flight then. More where one probe in twenty takes
        over ten times the median: such a store has more to do than it can, and is asked for less.
        """
        return max(self.median / 4, self.p95 / 40)

    @property
    def is_far(self) -> bool:
        """Whether it pays to ask ahead."""
        return self.p95 >= FAR


@dataclass(slots=True)
class Figures:
    """What searches have cost: probes begun, those cancelled, and the most in flight at once."""

    probes: int = 0
    cancelled: int = 0
    most_in_flight: int = 0
    in_flight: int = field(default=0, repr=False)


class Asker:
    """Asks probes: times them, and asks again those that time out or say "later"."""

    def __init__(self, probe: Probe[Any], latency: Latency, figures: Figures, timeout: float) -> None:
        self._probe = probe
        self._latency = latency
        self._timeout = timeout
        self.figures = figures

    async def __call__(self, key: Any) -> bool:
        clock = asyncio.get_running_loop().time
        figures, latency = self.figures, self._latency
        figures.in_flight += 1
        if figures.in_flight > figures.most_in_flight:
            figures.most_in_flight = figures.in_flight
        began = clock()
        try:
            for tried in range(_TRIES):
                if tried:
                    await asyncio.sleep(latency.median * 2**tried)
                    began = clock()
                figures.probes += 1
                try:
                    if latency.is_far:
                        async with asyncio.timeout(self._timeout):
                            answer = await self._probe(key)
                    else:
                        # a timer costs as much as some of these probes
                        answer = await self._probe(key)
                except TimeoutError:
                    answer = LATER
                latency.add(clock() - began)
                if answer is not LATER:
                    return bool(answer)
        except asyncio.CancelledError:
            figures.cancelled += 1
            latency.add_cancelled(clock() - began)
            raise
        finally:
            figures.in_flight -= 1
        raise Undecided(f"a look-up got no answer for {key}, asked {_TRIES} times")
