"""The settings of administration. Part of the table in `follower.settings_table`."""

from __future__ import annotations

from typing import Final

from follower.setting import SERVE, Setting
from follower.setting_parsers import parse_admin_listen, parse_boolean, parse_text

_SERVED: Final = (*SERVE, "bridge", "sync")

ADMIN_SETTINGS: Final = (
    Setting(
        "admin_listen",
        parse_admin_listen,
        "",
        (*SERVE, "admin"),
        "HOST:PORT or unix:PATH of the administration API of a follower, or of all that `up` runs; empty for none.",
    ),
    Setting(
        "bridge_admin_listen",
        parse_admin_listen,
        "",
        ("bridge", "sync", "admin"),
        "HOST:PORT or unix:PATH of the administration API of a bridge that runs apart; empty for none.",
    ),
    Setting(
        "admin_hosts",
        parse_text,
        "",
        _SERVED,
        "Names, separated by commas, under which the administration API and the status page are opened; addresses and "
        "localhost always are.",
    ),
    Setting(
        "admin_trust_loopback",
        parse_boolean,
        False,
        _SERVED,
        "Callers of the administration API on this machine need no token.",
    ),
    Setting(
        "admin_tls_cert",
        parse_text,
        "",
        (*_SERVED, "admin"),
        "PEM file with the certificate of the administration API; an address beyond this machine needs it.",
    ),
    Setting("admin_tls_key", parse_text, "", _SERVED, "PEM file with the key of admin_tls_cert, without a password."),
)
