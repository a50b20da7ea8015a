"""A message that is logged again and again is logged once; a later line tells how often it came."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

#: texts that are remembered; the oldest is forgotten for a new one
_MOST: Final = 256


class _Seen:
    """A message that was logged at `at`, and came `count` times since."""

    __slots__ = ("at", "count", "record")

    def __init__(self, record: logging.LogRecord, text: str, at: float) -> None:
        # without what the record refers to: a traceback keeps the variables of all its calls
        self.record = copy.copy(record)
        self.record.msg, self.record.args = text, None
        self.record.exc_info, self.record.exc_text, self.record.stack_info = None, None, None
        self.at = at
        self.count = 0


class RepeatFilter(logging.Filter):
    """Lets a message pass once in `seconds`; then tells "… repeated N times: …" by `emit`, a handler's.

    The same message is: the same logger, level, text, and type of error. Records with fields of their own (requests)
    all pass. `clock`: seconds, monotonic.
    """

    def __init__(
        self,
        seconds: float,
        emit: Callable[[logging.LogRecord], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._seconds = seconds
        self._emit = emit
        self._clock = clock
        self._seen: OrderedDict[tuple[object, ...], _Seen] = OrderedDict()
        # the same thread may come again: the garbage collector runs whatever logs an object that is forgotten
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if hasattr(record, "fields"):
            return True
        try:
            text = record.getMessage()
        except Exception:
            # the handler says what is wrong with it; who logs goes on
            return True
        now = self._clock()
        error = record.exc_info[0] if record.exc_info else None
        key = (record.name, record.levelno, text, error)
        with self._lock:
            over = self._take_over(now)
            seen = self._seen.get(key)
            if seen is None:
                self._seen[key] = _Seen(record, text, now)
                if len(self._seen) > _MOST:
                    over.append(self._seen.popitem(last=False)[1])
            else:
                seen.count += 1
                self._start_timer(seen.at + self._seconds - now)
        self._tell(over)
        return seen is None

    def flush(self, *, everything: bool = True) -> None:
        """Tell of what was counted; without `everything`, of that whose time is over."""
        with self._lock:
            self._timer = None
            over = list(self._seen.values()) if everything else self._take_over(self._clock())
            if everything:
                self._seen.clear()
            counted = next((seen for seen in self._seen.values() if seen.count), None)
            if counted is not None:
                self._start_timer(counted.at + self._seconds - self._clock())
        self._tell(over)

    def _take_over(self, now: float) -> list[_Seen]:
        """Forget the messages whose time is over: they stand in the order of their times."""
        over: list[_Seen] = []
        while self._seen:
            seen = next(iter(self._seen.values()))
            if now - seen.at < self._seconds:
                break
            self._seen.popitem(last=False)
            over.append(seen)
        return over

    def _start_timer(self, seconds: float) -> None:
        """The line comes even if nothing more is logged."""
        if self._timer is None:
            self._timer = threading.Timer(max(seconds, 0.01), self.flush, kwargs={"everything": False})
            self._timer.daemon = True
            self._timer.start()

    def _tell(self, over: list[_Seen]) -> None:
        for seen in over:
            if seen.count:
                record = copy.copy(seen.record)
                record.msg = f"… repeated {seen.count} times: {seen.record.msg}"
                record.created = time.time()
                record.msecs = (record.created - int(record.created)) * 1000
                self._emit(record)
