"""Shows the progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

#: seconds between two plain lines
_EVERY: Final = 5.0


class Reporter(Protocol):
    """Receives the progress of the work. Calls are cheap, so there may be many."""

    def phase(self, what: str, total: int | None, unit: str) -> None:
        """A new phase begins. `total` in `unit` ("bytes" or a plural noun), None where it is not known."""

    def at(self, done: int, note: str = "") -> None:
        """So much of the phase is done; `note` is a short text shown beside it."""

    def say(self, text: str) -> None:
        """Show a line of its own."""

    def end(self) -> None:
        """The work is over, or has failed."""


class Silent:
    """Shows nothing."""

    def phase(self, what: str, total: int | None, unit: str) -> None:
        return

    def at(self, done: int, note: str = "") -> None:
        return

    def say(self, text: str) -> None:
        return

    def end(self) -> None:
        return


def _amount(count: float, unit: str) -> str:
    return f"{count / 1e6:,.1f} MB" if unit == "bytes" else f"{count:,.0f} {unit}"


def _seconds(count: float) -> str:
    whole = round(count)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


class Lines:
    """A line every few seconds, and one at the end of each phase."""

    def __init__(self, out: TextIO | None = None, *, every: float = _EVERY) -> None:
        self._out = out or sys.stderr
        self._every = every
        self._what = ""
        self._total: int | None = None
        self._unit = ""
        self._first: int | None = None
        self._done = 0
        self._note = ""
        self._began = self._said = time.monotonic()

    def phase(self, what: str, total: int | None, unit: str) -> None:
        self.end()
        self._what, self._total, self._unit = what, total, unit
        self._first, self._done, self._note = None, 0, ""
        self._began = self._said = time.monotonic()

    def at(self, done: int, note: str = "") -> None:
        if self._first is None:
            self._first = done  # what an earlier run did is no part of this one's rate
        self._done, self._note = done, note
        now = time.monotonic()
        if now - self._said >= self._every:
            self._said = now
            self._line(now)

    def _line(self, now: float) -> None:
        first = self._first or 0
        rate = (self._done - first) / max(now - self._began, 1e-9)
        text = f"{self._what}: {_amount(self._done, self._unit)}"
        if self._total:
            text += f" of {_amount(self._total, self._unit)} ({100 * self._done / self._total:.0f} %)"
        text += f", {_amount(rate, self._unit)}/s"
        if self._total and rate and self._done < self._total:
            text += f", {_seconds((self._total - self._done) / rate)} left"
        self.say(text + (f", {self._note}" if self._note else ""))

    def say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def end(self) -> None:
        if self._what:
            self._line(time.monotonic())
            self._what = ""


class Bar:
    """A bar on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._task: TaskID | None = None
        self._unit = ""
        self._total: int | None = None
        self._first: int | None = None
        self._began = 0.0

    def phase(self, what: str, total: int | None, unit: str) -> None:
        self._finish()
        self._unit, self._total, self._first, self._began = unit, total, None, time.monotonic()
        self._progress.start()
        self._task = self._progress.add_task(what, total=total, rate="", note="")

    def at(self, done: int, note: str = "") -> None:
        if self._task is None:
            return
        if self._first is None:
            self._first = done
        rate = (done - self._first) / max(time.monotonic() - self._began, 1e-9)
        speed = f"{_amount(rate, self._unit)}/s"
        # a bar without an end says how much is done
        shown = speed if self._total is not None else f"{_amount(done, self._unit)}, {speed}"
        self._progress.update(self._task, completed=done, note=note, rate=shown)

    def say(self, text: str) -> None:
        # as it is: a log line may hold brackets and be longer than the terminal is wide
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.stop_task(self._task)
            if self._total is None:
                self._progress.update(self._task, visible=False)
            self._task = None

    def end(self) -> None:
        self._finish()
        self._progress.stop()


class reporting:
    """`with reporting() as reporter:` a bar where `out` (standard error) is a terminal, else lines."""

    def __init__(self, out: TextIO | None = None) -> None:
        stream = out or sys.stderr
        self._reporter: Bar | Lines = Bar(Console(file=stream)) if stream.isatty() else Lines(stream)

    def __enter__(self) -> Reporter:
        return self._reporter

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reporter.end()
