"""The settings of read-through. Part of the table in `follower.settings_table`."""

from __future__ import annotations

from typing import Final

from follower.setting import BRIDGE, SERVE, Setting
from follower.setting_parsers import parse_boolean, whole_number

READ_THROUGH_SETTINGS: Final = (
    Setting(
        "read_through",
        parse_boolean,
        False,
        (*SERVE, "execute"),
        "Ask a full node what the store lacks: objects, and questions about epochs that it does not hold.",
    ),
    Setting(
        "read_through_fill_epochs",
        whole_number(0, 100_000_000),
        0,
        (*BRIDGE, "serve"),
        "Epochs below the head that the bridge fetches when a follower was asked of them; 0: none.",
    ),
    Setting(
        "read_through_link_epochs",
        whole_number(0, 8192),
        900,
        SERVE,
        "Epochs below the store's chain of which a follower fetches all headers, so that it verifies them by links; "
        "deeper a node says which tipset lies at an epoch.",
    ),
    Setting(
        "read_through_free_gb",
        whole_number(0, 1 << 20),
        10,
        BRIDGE,
        "GiB of an LMDB store's disk that must be free for that.",
    ),
)
