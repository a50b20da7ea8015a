"""What the administration API does in every process, and the checks of parameters that all of it shares."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from jsonrpcserver import Error, Result, Success

from rpc.errors import INVALID_PARAMS
from rpc.server.admin import AdminMethod, guarded

_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
#: seconds that a changed log level lasts where none are given, and at most
_LEVEL_SECONDS: Final = 600.0
_MOST_SECONDS: Final = 86_400.0


def invalid(text: str) -> Result:
    """The answer to parameters that cannot be used."""
    return Error(INVALID_PARAMS, "Invalid params", text)


def seconds_of(value: Any) -> float | None:
    """A number of seconds up to a day; None for anything else."""
    return float(value) if type(value) in (int, float) and 0 <= value <= _MOST_SECONDS else None


class LogLevels:
    """Changes the levels of loggers for a while. `on_change` is called after each change."""

    def __init__(self, on_change: Callable[[], object] = lambda: None) -> None:
        self._on_change = on_change
        #: by logger, the level that it had, and what sets it again
        self._changed: dict[str, tuple[int, asyncio.TimerHandle]] = {}

    async def set(self, logger: str, level: str, seconds: float = _LEVEL_SECONDS) -> Result:
        """Set it for so many seconds; 0 sets the level again that it had before."""
        lasting = seconds_of(seconds)
        if not isinstance(logger, str) or level not in _LEVELS or lasting is None:
            return invalid(
                f"a logger, a level of {', '.join(_LEVELS)}, and at most {_MOST_SECONDS:g} seconds are needed"
            )
        if logger not in self._changed and len(self._changed) >= 64:
            return invalid("64 loggers are changed already")
        found = logging.getLogger(logger)
        before, timer = self._changed.get(logger, (found.level, None))
        if timer is not None:
            timer.cancel()
        if lasting:
            found.setLevel(level)
            timer = asyncio.get_running_loop().call_later(lasting, self._reset, logger)
            self._changed[logger] = before, timer
            self._on_change()
        elif logger in self._changed:
            self._reset(logger)
        return Success({"logger": logger, "level": logging.getLevelName(found.getEffectiveLevel()), "seconds": lasting})

    def _reset(self, logger: str) -> None:
        before, timer = self._changed.pop(logger)
        timer.cancel()
        logging.getLogger(logger).setLevel(before)
        self._on_change()

    def changed(self) -> dict[str, str]:
        """The loggers whose levels are changed now."""
        return {name: logging.getLevelName(logging.getLogger(name).level) for name in self._changed}

    def close(self) -> None:
        """Set every level again."""
        for logger in list(self._changed):
            self._reset(logger)


class Controls:
    """The methods of one process. `status` tells what is particular to it."""

    def __init__(self, status: Callable[[], Awaitable[dict[str, Any]]], levels: LogLevels) -> None:
        self._status = status
        self._levels = levels
        self._started = time.time()
        self.methods: dict[str, AdminMethod] = {
            "admin.status": guarded(self._tell_status),
            "admin.log_level": guarded(levels.set),
        }

    def add(self, name: str, method: AdminMethod) -> None:
        """Another method: `admin.NAME`."""
        self.methods[f"admin.{name}"] = guarded(method)

    async def _tell_status(self) -> Result:
        told: dict[str, Any] = {"pid": os.getpid(), "started": round(self._started)}
        told |= await self._status()
        changed = self._levels.changed()
        return Success(told | ({"log_levels": changed} if changed else {}))
