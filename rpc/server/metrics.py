"""What the server counts: plain numbers on the hot path, given to prometheus-client when it asks."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from rpc.admission import Admission
from rpc.server.refusal_log import RefusalLog

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
#: seconds
BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

now = time.perf_counter


class MethodStats:
    """One method's counts: by code (0: a result), by how long it took, and where answers came from.

    Of methods whose answers may be kept: `hits` were found, `joined` came of a like call under way, `misses` were made.
    """

    __slots__ = ("buckets", "codes", "hits", "joined", "misses", "name", "seconds")

    def __init__(self, name: str) -> None:
        self.name = name
        self.clear()

    def clear(self) -> None:
        """Count from 0."""
        self.codes: dict[int, int] = {0: 0}
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.hits = self.joined = self.misses = 0

    def add(self, started: float, code: int) -> None:
        """Count one answer that began at `started`, by `now()`."""
        took = now() - started
        self.buckets[bisect_left(BOUNDS, took)] += 1
        self.seconds += took
        self.codes[code] = self.codes.get(code, 0) + 1

    def add_hit(self, started: float) -> None:
        """Count one answer that was found by its request's bytes: `add`, for what takes no longer than this does."""
        took = now() - started
        self.seconds += took
        self.buckets[0 if took <= BOUNDS[0] else bisect_left(BOUNDS, took)] += 1
        self.codes[0] += 1
        self.hits += 1

    @property
    def count(self) -> int:
        """Answers in all."""
        return sum(self.codes.values())


class Metrics(Collector):
    """All counts of one server. Gauges are functions, read when somebody asks."""

    def __init__(self) -> None:
        self._methods: dict[str, MethodStats] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._counters: dict[str, tuple[str, Callable[[], float]]] = {}
        self._labelled: dict[str, tuple[str, str, Callable[[], Mapping[str, float]]]] = {}
        self._infos: dict[str, tuple[str, Mapping[str, str]]] = {}
        self._admission: Admission | None = None
        self._refusals: RefusalLog | None = None
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def method(self, name: str) -> MethodStats:
        """The counts of a method. Only names of the registry may come here: labels must stay few."""
        found = self._methods.get(name)
        if found is None:
            found = self._methods[name] = MethodStats(name)
        return found

    def methods(self) -> list[MethodStats]:
        """The counts of every method that has been called."""
        return list(self._methods.values())

    def clear_methods(self) -> None:
        """Count the methods' answers from 0."""
        for stats in self.methods():
            stats.clear()

    def gauge(self, name: str, doc: str, read: Callable[[], float]) -> None:
        """Register a number that goes up and down."""
        self._gauges[name] = (doc, read)

    def counter(self, name: str, doc: str, read: Callable[[], float]) -> None:
        """Register a number that only grows; its name without `_total`."""
        self._counters[name] = (doc, read)

    def labelled_counter(self, name: str, doc: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Register numbers that only grow, one for each value of a label. The values must stay few."""
        self._labelled[name] = (doc, label, read)

    def info(self, name: str, doc: str, labels: Mapping[str, str]) -> None:
        """Register facts that do not change: a gauge that is 1, whose labels tell them."""
        self._infos[name] = (doc, labels)

    def add_budgets(self, admission: Admission, refusals: RefusalLog) -> None:
        """Register what the budgets are used for, and what was refused."""
        self._admission = admission
        self._refusals = refusals

    def collect(self) -> Iterable[Metric]:
        """For prometheus-client."""
        yield from self._requests()
        if self._admission is not None and self._refusals is not None:
            used = GaugeMetricFamily(
                "follower_rpc_budget_used", "What of a budget is in use (memory: bytes).", labels=["budget"]
            )
            caps = GaugeMetricFamily("follower_rpc_budget_cap", "The most of a budget.", labels=["budget"])
            refused = CounterMetricFamily(
                "follower_rpc_refused", "What was refused, by the budget or limit that did.", labels=["budget"]
            )
            for budget in self._admission.budgets():
                used.add_metric([budget.name], budget.used)
                caps.add_metric([budget.name], budget.cap)
                refused.add_metric([budget.name], self._refusals.counts.get(budget.name, 0))
            budgets = {budget.name for budget in self._admission.budgets()}
            for reason, count in self._refusals.counts.items():
                if reason not in budgets:
                    refused.add_metric([reason], count)
            yield from (used, caps, refused)
        for name, (doc, labels) in self._infos.items():
            info = GaugeMetricFamily(name, doc, labels=list(labels))
            info.add_metric(list(labels.values()), 1)
            yield info
        for name, (doc, read) in self._gauges.items():
            yield GaugeMetricFamily(name, doc, value=read())
        for name, (doc, read) in self._counters.items():
            yield CounterMetricFamily(name, doc, value=read())
        for name, (doc, label, read_all) in self._labelled.items():
            family = CounterMetricFamily(name, doc, labels=[label])
            for value, number in read_all().items():
                family.add_metric([value], number)
            yield family

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "follower_rpc_requests", "Answers by method and JSON-RPC code (0: a result).", labels=["method", "code"]
        )
        took = HistogramMetricFamily(
            "follower_rpc_seconds", "Time from a parsed request to its answer.", labels=["method"]
        )
        for stats in self.methods():
            for code, count in stats.codes.items():
                if count:
                    requests.add_metric([stats.name, str(code)], count)
            if not stats.count:
                continue
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), stats.buckets, strict=True):
                total += count
                buckets.append((bound, total))
            took.add_metric([stats.name], buckets, sum_value=stats.seconds)
        yield requests
        yield took
        cached = CounterMetricFamily(
            "follower_rpc_answers",
            "Answers that may be kept: found (hit), taken from a like call under way (joined), made (miss).",
            labels=["method", "cache"],
        )
        for stats in self.methods():
            for kind, count in (("hit", stats.hits), ("joined", stats.joined), ("miss", stats.misses)):
                if count:
                    cached.add_metric([stats.name, kind], count)
        yield cached

    def text(self) -> bytes:
        """The exposition text of everything."""
        return generate_latest(self.registry)
