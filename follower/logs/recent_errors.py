"""The newest warnings and errors of this process' log, for the status page. Bounded; what looks secret is hidden."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from follower.logs.secrets import hide_secrets

_MOST: Final = 30
_MOST_TEXT: Final = 300


@dataclass(slots=True)
class RecentError:
    """A line of the log, and how often it came in a row. `at`: seconds since 1970, of the last time."""

    at: int
    level: str
    text: str
    count: int = 1


class RecentErrors(logging.Handler):
    """Keeps the newest lines of level WARNING and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: deque[RecentError] = deque(maxlen=_MOST)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:
            self.handleError(record)
            return
        # cut first: the expression reads no more than is kept
        text = hide_secrets(text[: 4 * _MOST_TEXT])[:_MOST_TEXT]
        last = self._lines[-1] if self._lines else None
        if last is not None and last.text == text:
            last.count += 1
            last.at = int(time.time())
        else:
            self._lines.append(RecentError(int(time.time()), record.levelname.lower(), text))

    def lines(self) -> list[RecentError]:
        """Oldest first."""
        return list(self._lines)


def watch_log() -> RecentErrors:
    """Keep what this process logs from now on; the handler that is there already, where there is one."""
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, RecentErrors):
            return handler
    made = RecentErrors()
    root.addHandler(made)
    return made
