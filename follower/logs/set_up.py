"""Sets up the log of a process by the settings, and tells people what is no log in the form that they asked for."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Final

from follower.logs.formats import ConsoleFormatter, JsonFormatter
from follower.logs.repeats import RepeatFilter
from follower.logs.secrets import hide_secrets, know_secrets, url_secrets
from follower.settings import Settings

log = logging.getLogger("follower")

#: settings whose value is a URL, or several with commas, which may hold a secret; and those that name a file with
#: secrets, each the last word of a line
SECRET_URLS: Final = ("store", "node", "snapshot_urls", "archive", "tracing_endpoint", "redis", "tables_store")
SECRET_FILES: Final = ("jwt_secret_file", "object_peer_secret_file", "sync_token_file", "range_tokens_file")
#: the longest secret file that is read
_MAX_SECRET: Final = 1 << 16


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes the log to standard error. What was counted as repeated is told when the process ends."""

    def __init__(self, formatter: logging.Formatter, repeat_seconds: float) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(formatter)
        self._repeats: RepeatFilter | None = None
        if repeat_seconds:
            self._repeats = RepeatFilter(repeat_seconds, self._emit_locked)
            self.addFilter(self._repeats)

    def _emit_locked(self, record: logging.LogRecord) -> None:
        self.acquire()
        try:
            self.emit(record)
        finally:
            self.release()

    def close(self) -> None:
        if self._repeats is not None:
            self._repeats.flush()
        super().close()


def set_up_log(settings: Settings) -> None:
    """Log to standard error from now on, in the form and from the level on that the settings say.

    A second call takes the place of the first.
    """
    end_log()
    know_secrets(_secrets(settings))
    is_json = settings["log_format"] == "json"
    handler = LogHandler(JsonFormatter() if is_json else ConsoleFormatter(), settings["log_repeat_seconds"])
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(settings["log_level"].upper())
    logging.captureWarnings(True)
    if is_json:
        # a traceback of many lines would be no JSON
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread


def end_log() -> None:
    """Log to standard error no more. Without a log that was set up, does nothing."""
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, LogHandler)]:
        root.removeHandler(handler)
        handler.close()


def is_json_log() -> bool:
    """Whether this process logs JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def say(text: str) -> None:
    """Tell people something on standard output; as lines of the log where that is JSON."""
    if is_json_log():
        for line in text.splitlines():
            log.info("%s", line)
    else:
        print(text, flush=True)


def report_failure(text: str) -> None:
    """Say on standard error why the command ends."""
    if is_json_log():
        log.critical("the command ends: %s", text)
    else:
        print(f"follower: {hide_secrets(text)}", file=sys.stderr)


def _secrets(settings: Settings) -> list[str]:
    """The secrets that the settings of this command hold."""
    found: list[str] = []
    for name in SECRET_URLS:
        for url in settings.text_of(name).split(","):
            found += url_secrets(url.strip())
    for name in SECRET_FILES:
        try:
            path = settings.text_of(name)
            if path:
                with Path(path).open("rb") as file:
                    text = file.read(_MAX_SECRET).decode("latin-1").strip()
                lines = [line.split() for line in text.splitlines() if not line.lstrip().startswith("#")]
                found += [text, *(words[-1] for words in lines if words)]
        except OSError:
            continue  # who reads it says so
    return found


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        log.critical("an error that nothing has caught", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
