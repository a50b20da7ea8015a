"""Two servers under the same load, in alternating slices of one run, and what comes of it row by row."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from follower.commands.load.connection import Tally, load, requests_of
from follower.commands.load.mix import Call, by_row
from follower.commands.load.target import Target

#: pairs of slices of a row; where the machine's speed drifts, it drifts for both servers
PAIRS: Final = 4
#: of a slice: asked before it, and not counted
_WARM_SHARE: Final = 0.1
_WARM_SECONDS: Final = 0.5
#: the share of a core from which on the load generator may be the limit
OWN_LIMIT: Final = 0.85


@dataclass(slots=True)
class Row:
    """One row: the whole mix, or one method. `pairs` holds a tally of each for each pair of slices."""

    name: str
    calls: int
    target: Tally = field(default_factory=Tally)
    baseline: Tally | None = None
    pairs: list[tuple[Tally, Tally | None]] = field(default_factory=list)

    def add(self, target: Tally, baseline: Tally | None) -> None:
        """Count a pair of slices."""
        self.pairs.append((target, baseline))
        self.target.merge(target)
        if baseline is not None:
            self.baseline = self.baseline or Tally()
            self.baseline.merge(baseline)

    @property
    def ratios(self) -> list[float]:
        """The target's rate by the baseline's, of each pair in which the baseline answered, the least first."""
        return sorted(mine.rate / other.rate for mine, other in self.pairs if other is not None and other.rate)

    @property
    def ratio(self) -> float | None:
        """The median of `ratios`."""
        return median(self.ratios) if self.ratios else None

    @property
    def p99_ratio(self) -> float | None:
        """The target's p99 by the baseline's."""
        mine = self.target.latencies.percentile(99)
        other = self.baseline.latencies.percentile(99) if self.baseline is not None else None
        return mine / other if mine is not None and other else None

    @property
    def own_share(self) -> float:
        """The most of one core that the load generator took in a slice, from 0 to 1."""
        return max((tally.own_share for pair in self.pairs for tally in pair if tally is not None), default=0.0)


async def measure(
    target: Target,
    baseline: Target | None,
    calls: Sequence[Call],
    *,
    seconds: float,
    concurrency: int,
) -> AsyncIterator[Row]:
    """Each row of `calls` when it is measured: `seconds` on each server, in `PAIRS` slices that alternate.

    The order turns with each pair (A B, B A, …), so that a drift of the machine favours none.
    """
    slice_seconds = seconds / PAIRS
    warm = min(_WARM_SECONDS, slice_seconds * _WARM_SHARE)
    for name, some in by_row(list(calls)):
        row = Row(name, len(some))
        servers = [server for server in (target, baseline) if server is not None]
        requests = {id(server): requests_of(server.info, some) for server in servers}
        for number in range(PAIRS):
            found: dict[int, Tally] = {}
            # both servers are asked the same calls
            first = number * len(some) // PAIRS
            for server in servers if number % 2 == 0 else servers[::-1]:
                asked = requests[id(server)]
                await load(server.info, asked, seconds=warm, concurrency=concurrency, first=first)
                found[id(server)] = await load(
                    server.info,
                    asked,
                    seconds=slice_seconds,
                    concurrency=concurrency,
                    first=first,
                    pids=server.pids,
                )
            row.add(found[id(target)], found[id(baseline)] if baseline is not None else None)
        yield row


def warnings(rows: Sequence[Row], target: Target, baseline: Target | None) -> list[str]:
    """What a reader must know before believing the figures."""
    found = []
    limited = [row.name for row in rows if row.own_share >= OWN_LIMIT]
    if limited:
        most = max(row.own_share for row in rows)
        found.append(
            f"the load generator is the limit (it took {most:.0%} of a core): more is possible than is shown for "
            + ", ".join(limited)
        )
    local = [server.name for server in (target, baseline) if server is not None and server.pids]
    cores = os.cpu_count() or 1
    if local:
        found.append(
            f"the load generator shares this machine's {cores} cores with {' and '.join(local)}: compare CPU and "
            "ratios, not requests/s"
        )
    for row in rows:
        for server, tally in (("the target", row.target), ("the baseline", row.baseline)):
            if tally is not None and not tally.answers:
                found.append(f"{row.name}: {server} gave no result")
    return found


def clock() -> str:
    """The time now, as ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
