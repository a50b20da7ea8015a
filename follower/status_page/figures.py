"""Figures of one serving process: rates and durations by method, caches, budgets."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cachetools import Cache

from chain.ipld.tree_nodes import NodeCache
from rpc.admission import Admission
from rpc.lotus_json import JsonCache
from rpc.server.metrics import BOUNDS, MethodStats
from rpc.services import Services

#: seconds over which rates and durations are told
_WINDOW: Final = 10.0
_MOST_METHODS: Final = 25

#: caches by their key in `Services.caches`, and what they hold
_CACHES: Final = {
    "node_cache": "decoded tree nodes",
    "lotus_json": "JSON of tipsets and blocks",
    "executed_answers": "executed answers",
    "eth_executed": "executed tipsets",
    "executed_traces": "executed traces",
    "eth_events": "logs of tipsets",
    "eth_paid": "fees of tipsets",
    "eth_places": "places of transactions",
    "actor_ids": "lists of actors",
    "miner_sectors": "sectors of miners",
    "included": "messages of tipsets",
    "f3_certified": "F3 certificates",
}

#: answers, answers that are errors, and the histogram of their durations
_Counts = tuple[int, int, tuple[int, ...]]
_NONE: Final[_Counts] = (0, 0, (0,) * (len(BOUNDS) + 1))


def quantile(buckets: Sequence[int], share: float) -> float | None:
    """The duration in seconds under which `share` of the answers stay; None for no answers.

    Interpolated within a bucket of the histogram, as Prometheus does; the last bound for longer ones.
    """
    total = sum(buckets)
    if not total:
        return None
    wanted, below, low = share * total, 0, 0.0
    for count, high in zip(buckets, BOUNDS, strict=False):
        if below + count >= wanted:
            return low + (high - low) * (wanted - below) / count if count else high
        below, low = below + count, high
    return BOUNDS[-1]


class MethodRates:
    """Requests a second and durations by method, over the last ten seconds. `clock`: seconds."""

    def __init__(self, methods: Callable[[], list[MethodStats]], clock: Callable[[], float] = time.monotonic) -> None:
        self._methods = methods
        self._clock = clock
        #: older looks; from the beginning, when nothing had been answered
        self._looks: deque[tuple[float, Mapping[str, _Counts]]] = deque([(clock(), {})])

    def look(self) -> dict[str, Any]:
        """The figures: totals, and the busiest methods."""
        now = self._clock()
        counts: dict[str, _Counts] = {
            stats.name: (stats.count, stats.count - stats.codes.get(0, 0), tuple(stats.buckets))
            for stats in self._methods()
            if stats.count
        }
        # the window reaches back to the newest look that is old enough
        while len(self._looks) > 1 and now - self._looks[1][0] >= _WINDOW:
            self._looks.popleft()
        began, before = self._looks[0]
        self._looks.append((now, counts))
        seconds = max(now - began, 0.001)
        rows: list[dict[str, Any]] = []
        whole = [0] * (len(BOUNDS) + 1)
        for name, (answers, errors, buckets) in counts.items():
            old_answers, old_errors, old_buckets = before.get(name, _NONE)
            recent = [new - old for new, old in zip(buckets, old_buckets, strict=True)]
            whole = [a + b for a, b in zip(whole, recent, strict=True)]
            rows.append(
                {
                    "name": name,
                    "per_second": (answers - old_answers) / seconds,
                    "errors_per_second": (errors - old_errors) / seconds,
                    "p50": quantile(recent, 0.5),
                    "p99": quantile(recent, 0.99),
                    "answers": answers,
                    "errors": errors,
                }
            )
        rows.sort(key=lambda row: (-row["per_second"], -row["answers"], row["name"]))
        return {
            "seconds": seconds,
            "per_second": sum(row["per_second"] for row in rows),
            "errors_per_second": sum(row["errors_per_second"] for row in rows),
            "p50": quantile(whole, 0.5),
            "p99": quantile(whole, 0.99),
            "answers": sum(row["answers"] for row in rows),
            "methods": rows[:_MOST_METHODS],
            "more_methods": max(0, len(rows) - _MOST_METHODS),
        }


def caches(services: Services) -> list[dict[str, Any]]:
    """What each cache of the process uses of what it may. `unit`: "bytes" or "entries"."""
    objects = services.objects
    found = [{"name": "objects", "used": objects.cached_bytes, "cap": objects.cache_bytes, "unit": "bytes"}]
    for key, name in _CACHES.items():
        value = services.caches.get(key)
        value = getattr(value, "kept", value)
        if isinstance(value, NodeCache):
            found.append({"name": name, "used": value.used_bytes, "cap": value.max_bytes, "unit": "bytes"})
        elif isinstance(value, JsonCache):
            found.append({"name": name, "used": value.size, "cap": value.limit, "unit": "bytes"})
        elif value is not None and isinstance(value, Cache):
            # without a size of its own, an entry counts 1
            unit = "entries" if value.getsizeof is Cache.getsizeof else "bytes"
            found.append({"name": name, "used": int(value.currsize), "cap": int(value.maxsize), "unit": unit})
    return found


def budgets(admission: Admission, refused: Mapping[str, int]) -> list[dict[str, Any]]:
    """What the process has taken on, of what it may, and how often it refused more."""
    return [
        {"name": one.name, "used": one.used, "cap": one.cap, "refused": refused.get(one.name, 0)}
        for one in admission.budgets()
    ]
