"""The settings of logs and traces. Part of the table in `follower.settings_table`."""

from __future__ import annotations

from typing import Final

from blockstore.store_url import public_url
from follower.setting import SERVE, SHARED_STORE, Setting
from follower.setting_parsers import number, one_of, parse_endpoint

#: the subcommands that log
_LOGGING: Final = (*SHARED_STORE, "status", "replay", "simulate", "compare", "bench", "plan", "auth", "admin")

LOG_SETTINGS: Final = (
    Setting(
        "log_level",
        one_of("debug", "info", "warning", "error"),
        "info",
        _LOGGING,
        "The least level that is logged.",
    ),
    Setting(
        "log_format",
        one_of("console", "json"),
        "console",
        _LOGGING,
        "The form of the log: lines for people, or one JSON object a line.",
    ),
    Setting(
        "log_repeat_seconds",
        number(0, 3600),
        10.0,
        _LOGGING,
        "Seconds in which a message that is logged again is counted only; then one line tells how often. 0: off.",
    ),
    Setting(
        "request_log_level",
        one_of("off", "debug", "info"),
        "debug",
        SERVE,
        "The level at which each request gets a line of the log; off: none does.",
    ),
    Setting(
        "tracing_endpoint",
        parse_endpoint,
        "",
        SERVE,
        "URL of a collector that takes OTLP over HTTP, for traces of requests; empty: no request is traced.",
        hide=public_url,
    ),
    Setting(
        "tracing_sample",
        number(0, 1),
        0.01,
        SERVE,
        "The share of calls that are traced, of those that continue no trace of a balancer: 0.01 is one in a hundred.",
    ),
)
