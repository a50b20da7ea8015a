"""For all tests: hypothesis judges no test by its time, for machines are noisy; event loops; every method declared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop
from hypothesis import settings

from follower.logs.set_up import end_log
from rpc.methods import register_all
from tests.support.recorded_answers import ANSWERS_COMPARED, TIPSETS_EXECUTED

settings.register_profile("project", deadline=None)
settings.load_profile("project")
# what a test finds served must not depend on which others ran before it
register_all()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """asyncio's own loop; with the mark `both_loops` each test runs on uvloop too."""
    if item.get_closest_marker("both_loops") is None:
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _no_log_is_left() -> Iterator[None]:
    """A command that was run within a test has set up its log: it must not write to that test's output later."""
    yield
    end_log()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many recorded answers were compared and which tipsets were executed, test by test."""
    told = [
        (report.nodeid, name, value)
        for reports in (terminalreporter.getreports("passed"), terminalreporter.getreports("failed"))
        for report in reports
        for name, value in report.user_properties
    ]
    tipsets = [value for _, name, value in told if name == TIPSETS_EXECUTED]
    if tipsets:
        terminalreporter.section("tipsets executed")
        for value in tipsets:
            terminalreporter.line(str(value))
    counts = {test: value for test, name, value in told if name == ANSWERS_COMPARED}
    if counts:
        terminalreporter.section("recorded answers compared")
        for test, count in counts.items():
            terminalreporter.line(f"{count:>9,}  {test}")
        terminalreporter.line(f"{sum(counts.values()):>9,}  in all")
