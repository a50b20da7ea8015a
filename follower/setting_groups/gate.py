"""The settings of forwarding, and of who may ask how much. Part of the table in `follower.settings_table`."""

from __future__ import annotations

from typing import Final

from follower.setting import EXECUTE, SERVE, Setting
from follower.setting_parsers import (
    number,
    one_of,
    parse_boolean,
    parse_method_seconds,
    parse_optional_listen,
    parse_origin,
    parse_text,
    whole_number,
)

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
    Setting(
        "shadow",
        number(0, 1),
        0.0,
        SERVE,
        "The share of answers that is compared with a full node's: 0.001 is one in a thousand; 0: none.",
    ),
)

GATE_SETTINGS: Final = (
    Setting(
        "tenants_file",
        parse_text,
        "",
        SERVE,
        "TOML file with the tenants: digests of API keys, quotas, methods. Read again when it changes.",
    ),
    Setting(
        "method_filter_file",
        parse_text,
        "",
        SERVE,
        "File with the methods that are allowed (Filecoin.X), or denied (!Filecoin.Y), one a line; # begins a comment.",
    ),
    Setting(
        "default_permission",
        one_of("read", "none"),
        "read",
        SERVE,
        "What a caller without a token may do.",
    ),
    Setting(
        "rate_limit",
        number(0, 1e9),
        0.0,
        SERVE,
        "Tokens a second of all callers of a process; 0: no limit. A call takes 1 to 10, by its cost class.",
    ),
    Setting(
        "rate_limit_per_client",
        number(0, 1e9),
        0.0,
        SERVE,
        "Tokens a second of one address without an API key; 0: no limit.",
    ),
    Setting(
        "per_conn_rate_limit",
        number(0, 1e9),
        0.0,
        SERVE,
        "Tokens a second of one WebSocket connection; 0: no limit.",
    ),
    Setting(
        "rates_file",
        parse_text,
        "",
        SERVE,
        "File in which the processes of a machine count rates together. `follower serve` and `up` make one for their "
        "workers; name one to share it among several followers. Empty for one process: it counts alone.",
    ),
    Setting(
        "conn_per_minute",
        whole_number(0, 1_000_000),
        0,
        SERVE,
        "New connections of one address in a minute; 0: no limit. A trusted proxy is none.",
    ),
    Setting(
        "proxy_protocol",
        parse_boolean,
        False,
        SERVE,
        "Whether connections of trusted_proxies may begin with a PROXY header, version 1 or 2, that names the client.",
    ),
    Setting(
        "api_max_lookback_seconds",
        whole_number(0, 1 << 40),
        0,
        SERVE,
        "How old a tipset may be that a call names, before the head; 0: any age. lotus-gateway has 86400.",
    ),
    Setting(
        "api_wait_lookback_limit",
        whole_number(0, 1 << 40),
        0,
        SERVE,
        "Epochs that a search for a message goes back at most; 0: what the call says. lotus-gateway has 20.",
    ),
    Setting(
        "max_wait_confidence",
        whole_number(0, 1_000_000),
        0,
        SERVE,
        "The highest confidence of StateWaitMsg; 0: any that Lotus takes.",
    ),
    Setting(
        "tls_listen",
        parse_optional_listen,
        "",
        SERVE,
        "HOST:PORT where JSON-RPC is served with TLS, beside listen; empty for none. Needs tls_cert and tls_key.",
    ),
    Setting(
        "tls_cert",
        parse_text,
        "",
        SERVE,
        "PEM file with the certificate of tls_listen and its chain. Read again when it changes.",
    ),
    Setting("tls_key", parse_text, "", SERVE, "PEM file with the key of tls_cert, without a password."),
    Setting(
        "tls_client_ca",
        parse_text,
        "",
        SERVE,
        "PEM file with authorities: only clients with a certificate of theirs connect to tls_listen; empty: all do.",
    ),
    Setting(
        "cors_origin",
        parse_origin,
        "*",
        SERVE,
        "The origin whose web pages may read answers (Access-Control-Allow-Origin); *: any; empty: none.",
    ),
    Setting(
        "cors_preflight",
        parse_boolean,
        False,
        SERVE,
        "Answer the OPTIONS requests of browsers, so that web pages can ask. Lotus answers them with an error.",
    ),
)
