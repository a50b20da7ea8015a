"""The form of the log: JSON lines, repeated messages, hidden secrets."""

from __future__ import annotations

import gc
import io
import json
import logging
import re
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from follower.logs import secrets
from follower.logs.formats import ConsoleFormatter, JsonFormatter
from follower.logs.repeats import RepeatFilter
from follower.logs.secrets import HIDDEN, hide_secrets, know_secrets, url_secrets
from follower.logs.set_up import SECRET_FILES, SECRET_URLS, LogHandler, end_log, set_up_log
from follower.setting_parsers import number_or_all_text
from follower.settings import load_settings
from follower.settings_table import SETTINGS


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.getLogger("test of the log")
    found.propagate = False
    found.setLevel(logging.DEBUG)
    yield found
    for handler in list(found.handlers):
        found.removeHandler(handler)


def repeating(logger: logging.Logger, seconds: float, clock: Clock) -> list[str]:
    """The lines that pass; `logger` has the filter from now on."""
    out: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: out.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(RepeatFilter(seconds, handler.emit, clock))
    logger.addHandler(handler)
    return out


def test_a_repeated_message_is_counted(logger: logging.Logger) -> None:
    clock = Clock()
    out = repeating(logger, 10, clock)
    for number in range(5):
        logger.warning("the store does not answer (%s)", "timeout")
        logger.info("number %d", number)
    assert out == ["the store does not answer (timeout)", *(f"number {n}" for n in range(5))]
    clock.now += 10
    logger.info("something else")
    assert out[-2:] == ["… repeated 4 times: the store does not answer (timeout)", "something else"]
    logger.warning("the store does not answer (%s)", "timeout")
    assert out[-1] == "the store does not answer (timeout)", "it passes again"


def test_what_differs_passes(logger: logging.Logger) -> None:
    out = repeating(logger, 10, Clock())
    logger.info("a")
    logger.warning("a")
    for kind in (ValueError, KeyError, ValueError):
        try:
            raise kind("x")
        except (ValueError, KeyError):
            logger.exception("a")
    logger.info("request", extra={"fields": {"id": 1}})
    logger.info("request", extra={"fields": {"id": 1}})
    assert out == ["a", "a", "a", "a", "request", "request"]


def test_what_is_remembered_is_bounded(logger: logging.Logger) -> None:
    clock = Clock()
    out = repeating(logger, 10, clock)
    logger.info("first")
    logger.info("first")
    for number in range(300):
        logger.info("text %d", number)
    assert "… repeated 1 times: first" in out
    logger.info("text 299")
    assert out[-1] == "text 299"
    assert out.count("text 299") == 1


def test_the_line_comes_even_if_nothing_more_is_logged(logger: logging.Logger) -> None:
    out = repeating(logger, 0.05, time.monotonic)  # type: ignore[arg-type]
    logger.info("again")
    logger.info("again")
    deadline = time.monotonic() + 20
    while len(out) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert out == ["again", "… repeated 1 times: again"]


def test_a_message_that_does_not_fit_its_arguments_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    LogHandler(ConsoleFormatter(), 3600).handle(record_of("%d heads", "three"))
    assert "%d heads" in stream.getvalue(), "Python's own note of it"


def test_what_a_traceback_refers_to_is_not_kept() -> None:
    class Large:
        pass

    handler = logging.Handler()
    out: list[str] = []
    handler.emit = lambda record: out.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(RepeatFilter(3600, handler.emit, Clock()))

    def fail() -> weakref.ref[Large]:
        large = Large()
        try:
            raise ValueError(large)
        except ValueError:
            handler.handle(record_of("failed with %s", large, exc_info=sys.exc_info()))
        return weakref.ref(large)

    found = fail()
    gc.collect()
    assert len(out) == 1
    assert found() is None


def test_what_is_logged_while_lines_are_counted(logger: logging.Logger) -> None:
    """As the garbage collector does, which may run at any moment."""

    class LoggingClock(Clock):
        is_first = True

        def __call__(self) -> float:
            if self.is_first:
                self.is_first = False
                logger.info("a task was destroyed")
            return super().__call__()

    handler = logging.Handler()
    out: list[str] = []
    handler.emit = lambda record: out.append(record.getMessage())  # type: ignore[method-assign]
    repeats = RepeatFilter(3600, handler.emit, Clock())
    handler.addFilter(repeats)
    logger.addHandler(handler)
    logger.info("first")
    repeats._clock = LoggingClock()
    repeats._clock.now = 100.0
    flushing = threading.Thread(target=repeats.flush, kwargs={"everything": False}, daemon=True)
    flushing.start()
    flushing.join(20)
    assert not flushing.is_alive()


def test_the_line_comes_when_the_process_ends(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    handler = LogHandler(ConsoleFormatter(), 3600)
    logger.addHandler(handler)
    logger.info("again")
    logger.info("again")
    handler.close()
    assert "… repeated 1 times: again" in stream.getvalue()


def json_line(record: logging.LogRecord) -> dict[str, object]:
    text = JsonFormatter().format(record)
    assert "\n" not in text
    found: dict[str, object] = json.loads(text)
    return found


def record_of(message: str, *args: object, **more: object) -> logging.LogRecord:
    record = logging.LogRecord("follower.rpc", logging.WARNING, __file__, 1, message, args, None)
    for name, value in more.items():
        setattr(record, name, value)
    return record


def test_a_json_line() -> None:
    line = json_line(record_of("%s of\n%d \ud800", "one", 2))
    assert line["message"] == "one of\n2 ?"
    assert (line["level"], line["logger"]) == ("warning", "follower.rpc")
    assert str(line["time"]).endswith("Z")
    line = json_line(record_of("%s", "x", fields={"method": "Filecoin.ChainHead", "id": 1 << 70, "ms": 0.1}))
    assert (line["message"], line["method"], line["id"]) == ("request", "Filecoin.ChainHead", str(1 << 70))


def test_a_traceback_is_a_field_and_hides_secrets() -> None:
    try:
        raise ValueError("cannot open cassandra://web:sesame@db1/x")
    except ValueError as error:
        record = record_of("failed")
        record.exc_info = (type(error), error, error.__traceback__)
        line = json_line(record)
        assert "Traceback" in str(line["exception"])
        assert "sesame" not in str(line)
        assert "sesame" not in ConsoleFormatter().format(record)


TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJBbGxvdyI6WyJyZWFkIl19.c2lnbmF0dXJlLW9mLWl0"


@pytest.mark.parametrize(
    "text",
    [
        "cassandra://web:{}@db1,db2/filecoin",
        "http://user:{}@host/rpc/v1",
        "http://user:a/b@{}@host/rpc/v1",
        "GET /rpc/v1?token={} HTTP/1.1",
        "ws://host/rpc/v1?x=1&token={}&y=2",
        "Authorization: Bearer {}",
        "{{'Authorization': 'Bearer {}', 'Host': 'x'}}",
        '{{"authorization": "Basic {}"}}',
        "(b'authorization', b'Bearer {}')",
        "OTEL api-key={}",
        "X-Api-Key: {}",
        "password = '{}'",
        'jwt_secret="{}"',
        "{}:/ip4/127.0.0.1/tcp/1234/http",
        "{}:http://127.0.0.1:1234",
        "access_token: {}",
    ],
)
def test_what_looks_secret_is_hidden(text: str) -> None:
    for secret in ("S3cret-of_mine", TOKEN):
        hidden = hide_secrets("before " + text.format(secret) + " after")
        assert secret not in hidden, hidden
        assert HIDDEN in hidden
        assert hidden.startswith("before ")
        assert hidden.endswith(" after")


def test_a_json_web_token_is_hidden_wherever_it_stands() -> None:
    assert hide_secrets(f"method '{TOKEN}' not found") == f"method '{HIDDEN}' not found"


@pytest.mark.parametrize(
    "text",
    [
        "following http://127.0.0.1:1234: head 5, entry 3",
        "waiting for the store lmdb:///var/lib/follower: it holds no head yet",
        "clients were refused or closed (rate_limit): 5 times since the last such line, lately 1.2.3.4",
        "jwt_secret_file /etc/lotus-follower/jwt.secret: No such file",
        "10 tokens a second; the tokens_per_second of tenant explorer",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert hide_secrets(text) == text


def test_the_secrets_of_settings_are_hidden_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", {})
    monkeypatch.setattr(secrets, "_known_pattern", None)
    url = (
        "T0ken.of.node:https://me:p%40ss'w%20rd@node.example/v3/0123456789abcdef/rpc/v1?api=fedcba9876543210&net=calib"
    )
    know_secrets([*url_secrets(url), "the secret in a file"])
    for shown in ("T0ken.of.node", "p@ss'w rd", "p%40ss'w%20rd", "p%40ss%27w%20rd", "0123456789abcdef",
                  "fedcba9876543210", "the%20secret%20in%20a%20file"):  # fmt: skip
        assert hide_secrets(f"got {shown}!") == f"got {HIDDEN}!", shown
    assert hide_secrets("calib of node.example") == "calib of node.example"


def test_every_setting_that_holds_a_secret_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is hidden where settings are shown, or whose file is secret, is hidden in the log too."""
    hidden = {one.name for one in SETTINGS if one.hide not in (None, number_or_all_text)}
    assert set(SECRET_URLS) == hidden
    assert set(SECRET_FILES) == {one.name for one in SETTINGS if re.search(r"_(secret|tokens?)_file$", one.name)}
    monkeypatch.setattr(secrets, "_known", {})
    monkeypatch.setattr(secrets, "_known_pattern", None)
    tokens = tmp_path / "tokens"
    tokens.write_text("# NAME TOKEN\nalice a-token-of-alice\nbob the-one-of-bob-0\n")
    set_up_log(load_settings(None, {}, {"range_tokens_file": str(tokens), "redis": "redis://:pa55word@queue/0"}))
    end_log()
    told = "a-token-of-alice the-one-of-bob-0 pa55word NAME alice"
    assert hide_secrets(told) == f"{HIDDEN} {HIDDEN} {HIDDEN} NAME alice"


def test_a_long_text_is_hidden_in_time() -> None:
    """What a stranger sends cannot make it slow: the time grows with the length, not with its square."""
    for part in ("a-", "a=", "x:", "://", "token", "eyJ.", "eyJ-", "eyJa.b-", "a+", "bearer ", "://a/"):
        text = part * (300_000 // len(part))
        began = time.process_time()
        hide_secrets(text)
        assert time.process_time() - began < 20, part
