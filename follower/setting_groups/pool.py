"""The settings of the pool of workers. Part of the table in `follower.settings_table`."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from blockstore.store_url import public_url
from follower.setting import POOL, Setting
from follower.setting_parsers import number, parse_text, whole_number


def parse_redis(value: Any) -> str:
    """A Redis URL, or nothing. The errors never repeat the text: it may hold a password."""
    text = parse_text(value)
    if text:
        parts = urlsplit(text)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise ValueError("must be redis://HOST:PORT/DATABASE")
    return text


def public_redis(text: str) -> str:
    """The setting without user and password."""
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if text else ""


def public_place(text: str) -> str:
    """The setting without user, password and query."""
    return public_url(text).partition("?")[0] if "://" in text else text


def parse_names(value: Any) -> str:
    """Names separated by commas; a TOML list too."""
    text = parse_text(",".join(parse_text(item) for item in value) if isinstance(value, list) else value)
    if not split_names(text):
        raise ValueError("must be names separated by commas")
    return text


def split_names(text: str) -> list[str]:
    """The names of such a setting, in their order, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


POOL_SETTINGS: Final = (
    Setting(
        "redis",
        parse_redis,
        "",
        POOL,
        "The queue of the pool of workers: redis://HOST:PORT/DATABASE; empty: none, so work is done --here.",
        hide=public_redis,
    ),
    Setting(
        "queues",
        parse_names,
        "watch,fill,index,walk",
        ("worker",),
        "Classes of jobs that a worker takes: watch, fill, index, walk. Their shares of its slots are 5, 3, 1 and 1.",
    ),
    Setting(
        "tables_store",
        parse_text,
        "",
        POOL,
        "Where the pool's tasks table_NAME write rows: postgresql://HOST/DATABASE; with --here parquet:DIR too.",
        hide=public_place,
    ),
    Setting(
        "confidence",
        whole_number(0, 900),
        3,
        ("index watch",),
        "Tipsets that stand on a tipset before the pool works on it.",
    ),
    Setting(
        "job_seconds",
        number(0.5, 86_400),
        60.0,
        POOL,
        "Seconds that a job of class watch may take; a fill may take 2 times, index and walk 5 times as long.",
    ),
    Setting("job_epochs", whole_number(1, 2880), 10, POOL, "Epochs of a job of class fill, index or walk."),
    Setting(
        "find_seconds", number(0.5, 86_400), 30.0, ("worker",), "Seconds between two searches for gaps by the workers."
    ),
)
