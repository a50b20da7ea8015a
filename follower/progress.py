"""How far an import is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

_SAY_EVERY: Final = 5.0
_WORDS: Final = {"read": "reading", "walk": "walking the chain", "index": "closing and indexing"}


class ImportProgress:
    """A context; `tell` takes what `leader_bridge.importer.Progress` says. Writes to standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(show_speed=False),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._said = time.monotonic()

    def __enter__(self) -> ImportProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, what: str, done: int, total: int | None, objects: int) -> None:
        """`done` of `total` in bytes of the file ("read") or tipsets (else)."""
        now = time.monotonic()
        began, at = self._began.setdefault(what, (now, done))
        speed = (done - at) / (now - began) if now > began else 0.0
        rate = f"{speed / 1e6:.1f} MB/s, {objects:,} objects" if what == "read" else f"{speed:,.0f} tipsets/s"
        if self._bar is not None:
            task = self._tasks.get(what)
            if task is None:
                task = self._tasks[what] = self._bar.add_task(_WORDS[what], total=total, rate="")
            self._bar.update(task, completed=done, rate=rate)
        elif now - self._said >= _SAY_EVERY:
            self._said = now
            share = f"{done / total:.1%}" if total else f"{done:,}"
            left = f", {(total - done) / speed:,.0f} s left" if total and speed else ""
            print(f"{_WORDS[what]}: {share}, {rate}{left}", file=sys.stderr, flush=True)
