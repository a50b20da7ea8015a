"""A far store that is searched as a near one is, to compare with."""

from __future__ import annotations

from blockstore.lookup import Lookup
from blockstore.probes import Latency


class _AlwaysNear(Latency):
    """Of a store that answers at once, whatever the probes take."""

    def add(self, seconds: float) -> None:
        """Count nothing."""

    @property
    def p95(self) -> float:
        return 0.0


def one_at_a_time(lookup: Lookup) -> None:
    """Take the store for a near one: the serial twin searches."""
    lookup.latency = _AlwaysNear()
