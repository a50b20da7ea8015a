"""What a benchmark found, as a table for a terminal and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from typing import Any, Final

from follower.commands.load.connection import Tally
from follower.commands.load.measure import Row, warnings
from follower.commands.load.target import Target
from rpc.release import software_version

#: of the JSON; another number when a field changes its meaning or goes
FORMAT: Final = 1


def _milliseconds(tally: Tally | None, percent: float) -> float | None:
    found = tally.latencies.percentile(percent) if tally is not None else None
    return None if found is None else found * 1e3


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def heading(width: int, *, has_baseline: bool) -> str:
    """The line above the rows. `width`: of the longest name."""
    line = f"{'':{width}} {'requests/s':>10} {'p50 ms':>9} {'p99 ms':>9} {'CPU us':>8} {'errors':>7} {'429':>6}"
    if has_baseline:
        line += f" | {'baseline/s':>10} {'p50 ms':>9} {'p99 ms':>9} {'CPU us':>8} {'errors':>7} | "
        line += f"{'times':>6} {'least-most':>13} {'p99':>6}"
    return line


def line_of(row: Row, width: int) -> str:
    """A row of the table."""
    line = f"{row.name:{width}} {_cells(row.target)} {row.target.limited:6d}"
    if row.baseline is not None:
        ratios = row.ratios
        spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}" if ratios else "-"
        line += f" | {_cells(row.baseline)} | {_number(row.ratio, '.2f'):>6} {spread:>13}"
        line += f" {_number(row.p99_ratio, '.2f'):>6}"
    return line


def _cells(tally: Tally) -> str:
    cpu = tally.cpu_each
    return (
        f"{tally.rate:10,.0f} {_number(_milliseconds(tally, 50), ',.2f'):>9} "
        f"{_number(_milliseconds(tally, 99), ',.2f'):>9} {_number(None if cpu is None else cpu * 1e6, ',.0f'):>8} "
        f"{tally.errors:7d}"
    )


def error_lines(rows: Sequence[Row]) -> Iterator[str]:
    """The kinds of errors of each row that has any."""
    for row in rows:
        for server, tally in (("target", row.target), ("baseline", row.baseline)):
            if tally is not None and tally.kinds:
                kinds = ", ".join(f"{kind} {count} times" for kind, count in tally.kinds.most_common())
                yield f"{row.name}, {server}: {kinds}"


def as_json(
    rows: Sequence[Row],
    target: Target,
    baseline: Target | None,
    *,
    started: str,
    seconds: float,
    concurrency: int,
) -> dict[str, Any]:
    """The whole report. Times in milliseconds, processor time in microseconds a request."""
    return {
        "format": FORMAT,
        "started": started,
        "software": software_version(),
        "machine": {"cores": os.cpu_count(), "arch": platform.machine(), "python": platform.python_version()},
        "target": target.name,
        "baseline": None if baseline is None else baseline.name,
        "seconds": seconds,
        "concurrency": concurrency,
        "rows": [_row(row) for row in rows],
        "warnings": warnings(rows, target, baseline),
    }


def _row(row: Row) -> dict[str, Any]:
    ratios = row.ratios
    return {
        "name": row.name,
        "calls": row.calls,
        "target": _tally(row.target),
        "baseline": None if row.baseline is None else _tally(row.baseline),
        "ratio": {
            "requests_per_second": row.ratio,
            "lowest": ratios[0] if ratios else None,
            "highest": ratios[-1] if ratios else None,
            "p99": row.p99_ratio,
        },
        "generator_core_share": row.own_share,
    }


def _tally(tally: Tally) -> dict[str, Any]:
    cpu = tally.cpu_each
    return {
        "requests_per_second": tally.rate,
        "answers": tally.answers,
        "p50_ms": _milliseconds(tally, 50),
        "p99_ms": _milliseconds(tally, 99),
        "errors": tally.errors,
        "error_kinds": dict(tally.kinds),
        "limited": tally.limited,
        "cpu_us": None if cpu is None else cpu * 1e6,
        "bytes_per_answer": tally.bytes / tally.latencies.count if tally.latencies.count else None,
    }
