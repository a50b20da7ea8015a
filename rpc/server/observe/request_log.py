"""One line of the log for each request: of each call of a batch, and of each call of a WebSocket."""

from __future__ import annotations

import logging
from typing import Any, Final

import orjson

from rpc.server.observe.answered import Answered

#: the logger of these lines
LOGGER_NAME: Final = "follower.requests"
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/+,-")


class Fields:
    """Fields of a line as `name=value` text, made when somebody reads it. JSON lines take the fields themselves."""

    __slots__ = ("values",)

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __str__(self) -> str:
        return " ".join(f"{name}={_shown(value)}" for name, value in self.values.items())


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    # one line, whatever a client has sent
    return text if text and _PLAIN.issuperset(text) else orjson.dumps(text.encode("utf-8", "replace").decode()).decode()


class RequestLog:
    """Writes the lines at `level`, one of `logging`'s."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._log = logging.getLogger(LOGGER_NAME)

    @property
    def is_on(self) -> bool:
        """Whether the log takes such lines now."""
        return self._log.isEnabledFor(self._level)

    def write(self, answered: Answered) -> None:
        """Write one line."""
        fields = answered.fields()
        self._log.log(self._level, "%s", Fields(fields), extra={"fields": fields})
