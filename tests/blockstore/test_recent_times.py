"""Quantiles of the last response times."""

from __future__ import annotations

import pytest

from blockstore.recent_times import RecentTimes


def test_quantiles_are_those_of_the_window() -> None:
    times = RecentTimes(100)
    with pytest.raises(IndexError):
        times.quantile(0.5)
    times.add(3.0)
    assert times.quantile(0.5) == times.quantile(0.95) == 3.0
    for number in range(1000):
        times.add(float(number % 100))
    assert len(times) == 100
    assert abs(times.quantile(0.5) - 49) <= 16
    assert abs(times.quantile(0.95) - 94) <= 5
    assert times.quantile(1) == 99.0


def test_what_is_old_counts_no_more() -> None:
    times = RecentTimes(20)
    for _ in range(20):
        times.add(9.0)
    assert times.quantile(0.5) == 9.0
    for _ in range(32):
        times.add(1.0)
    assert times.quantile(1) == 1.0
