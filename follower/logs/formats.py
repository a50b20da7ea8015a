"""A record of the log as a line: for people, or as one JSON object. Secrets are hidden in both."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import orjson

from follower.logs.secrets import hide_secrets

_CONSOLE: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class ConsoleFormatter(logging.Formatter):
    """Lines for people. A traceback follows its line."""

    def __init__(self) -> None:
        super().__init__(_CONSOLE)

    def format(self, record: logging.LogRecord) -> str:
        return hide_secrets(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (RFC 3339, UTC), `level`, `logger`, `pid`, `message`, the record's own fields.

    `exception` has the traceback. A record has fields of its own where it was logged with `extra={"fields": {…}}`.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": "request" if fields else _clean(record.getMessage()),
        }
        line |= {name: _field(value) for name, value in fields.items()}
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        exception = "\n".join(text for text in (record.exc_text, record.stack_info) if text)
        if exception:
            line["exception"] = _clean(exception)
        return orjson.dumps(line).decode()


def _clean(text: str) -> str:
    # a lone surrogate has no JSON form
    return hide_secrets(text).encode("utf-8", "replace").decode()


def _field(value: Any) -> Any:
    """A value that has a JSON form: integers of more than 64 bits become texts."""
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    return _clean(str(value))
