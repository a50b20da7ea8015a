"""The settings of what is forwarded to full nodes. Part of the table in `follower.settings_table`."""

from __future__ import annotations

from typing import Final

from follower.setting import EXECUTE, Setting
from follower.setting_parsers import number, parse_method_seconds, whole_number

FORWARD_SETTINGS: Final = (
    Setting(
        "forward_timeout_seconds",
        number(0.1, 86_400),
        300.0,
        EXECUTE,
        "Seconds that a call which a full node answers may take, its wait for a place included.",
    ),
    Setting(
        "forward_concurrency",
        whole_number(1, 4096),
        16,
        EXECUTE,
        "Forwarded calls in flight to a full node, a process; more wait.",
    ),
    Setting(
        "forward_wait_seconds",
        number(0.1, 600),
        10.0,
        EXECUTE,
        "Seconds that a forwarded call waits for a place, or for a node with its tipset; then it is refused.",
    ),
    Setting(
        "forward_hedge_seconds",
        number(0, 600),
        0.2,
        EXECUTE,
        "The least seconds until a forwarded read that is late is asked of a second full node too; 0: never.",
    ),
    Setting(
        "forward_method_seconds",
        parse_method_seconds,
        "",
        EXECUTE,
        "Time-outs of forwarded methods of their own: NAME=SECONDS, separated by commas.",
    ),
    Setting(
        "forward_cache_mb",
        whole_number(1, 1 << 16),
        32,
        EXECUTE,
        "Memory for forwarded answers at a fixed tipset, a process, in MiB.",
    ),
)
