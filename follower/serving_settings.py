"""The settings of what a serving process takes on: caches, and the limits of requests, connections and filters.

Part of the table in `follower.settings_table`.
"""

from __future__ import annotations

from typing import Final

from follower.setting import BRIDGE, EXECUTE, SERVE, Setting
from follower.setting_parsers import number, parse_boolean, parse_http_urls, parse_text, whole_number

SERVING_SETTINGS: Final = (
    Setting("object_cache_mb", whole_number(1, 1 << 20), 256, SERVE, "Memory for objects, a process, in MiB."),
    Setting(
        "read_ahead_actors",
        whole_number(0, 100_000),
        1024,
        SERVE,
        "Actors that a process reads ahead when a head comes, of those asked for at the last heads; over LMDB none: "
        "its disk is as near. 0: nothing is read ahead at a head.",
    ),
    Setting(
        "start_ahead_seconds",
        number(0, 600),
        10.0,
        SERVE,
        "Seconds that a process over a shared store reads ahead when it starts, before it takes requests. 0: none.",
    ),
    Setting(
        "answer_cache_mb",
        whole_number(0, 1 << 20),
        64,
        SERVE,
        "Memory for answers that are kept as bytes, a process, in MiB; 0: none is kept.",
    ),
    Setting(
        "gzip_from_kb",
        whole_number(0, 8 << 10),
        16,
        SERVE,
        "Answers over HTTP from so many KiB on are compressed for clients that take gzip; 0: none are.",
    ),
    Setting(
        "server_timing",
        parse_boolean,
        False,
        SERVE,
        "Whether answers over HTTP say in Server-Timing how long each stage took.",
    ),
    Setting(
        "object_tier_dir",
        parse_text,
        "",
        EXECUTE,
        "Folder of the objects of a far store that this machine keeps; its processes share it. Empty: data/object-tier "
        "over a shared store, none over LMDB. off: none.",
    ),
    Setting("object_tier_mb", whole_number(16, 1 << 24), 1024, EXECUTE, "The size of that folder, in MiB."),
    Setting(
        "object_peers",
        parse_http_urls,
        "",
        EXECUTE,
        "Followers that are asked for objects beside the store, and at a start for what clients ask, separated by "
        "commas: http://HOST:PORT.",
    ),
    Setting(
        "object_peer_secret_file",
        parse_text,
        "",
        (*EXECUTE, "disperse"),
        "File of the secret that followers share: who knows it gets objects at /obj/CID, and at /asked what clients "
        "asked last. Empty: nobody does.",
    ),
    Setting(
        "range_tokens_file",
        parse_text,
        "",
        SERVE,
        "File of those who may fill their stores from this follower (/range, /obj), a line NAME TOKEN each. Empty: "
        "nobody may.",
    ),
    Setting(
        "range_requests_per_second",
        whole_number(1, 10_000),
        10,
        SERVE,
        "Requests of one of them that are answered in any second; more are refused (429). Of all processes that share "
        "`rates_file`.",
    ),
    Setting(
        "range_requests_in_all",
        whole_number(1, 10_000),
        50,
        SERVE,
        "Requests of all of them that are answered in any second, by all processes that share `rates_file`.",
    ),
    Setting(
        "range_answers_at_once",
        whole_number(1, 256),
        4,
        SERVE,
        "Of these answers, how many are in the making at once, in all processes that share `rates_file`.",
    ),
    Setting(
        "range_shards_dir",
        parse_text,
        "",
        SERVE,
        "Folder of shards of files (`follower disperse FILE --to-folders`) that they may take too. Empty: none.",
    ),
    Setting(
        "shard_mb",
        whole_number(0, 1 << 16),
        0,
        SERVE,
        "MiB of shards that may be arriving in the folder of the object tier, from a bridge's disperse_to. 0: none are "
        "taken. Needs object_peer_secret_file.",
    ),
    Setting(
        "received_files_dir",
        parse_text,
        "",
        SERVE,
        "Folder of the files that `follower disperse` sends here. Empty: none are taken.",
    ),
    Setting(
        "disperse_to",
        parse_http_urls,
        "",
        (*BRIDGE, "disperse"),
        "Followers to which what a new head brought is sent in shards, which they pass on to each other, separated by "
        "commas: http://HOST:PORT. Empty: they read it from the store. Needs object_peer_secret_file.",
    ),
    Setting(
        "disperse_least_kb",
        whole_number(1, 32 << 10),
        512,
        BRIDGE,
        "A head that brings fewer KiB is not sent: followers read it from the store.",
    ),
    Setting(
        "max_body_mb",
        whole_number(1, 1024),
        8,
        SERVE,
        "The largest request body, in MiB. A larger one keeps the event loop longer while it is parsed.",
    ),
    Setting("max_ws_message_mb", whole_number(1, 1024), 4, SERVE, "The largest WebSocket message, in MiB."),
    Setting("max_answer_mb", whole_number(1, 4096), 64, SERVE, "The largest answer to one call, in MiB."),
    Setting(
        "max_batch_answer_mb",
        whole_number(1, 4096),
        32,
        SERVE,
        "What the answers to a batch may take together, in MiB.",
    ),
    Setting(
        "memory_budget_mb",
        whole_number(16, 1 << 20),
        256,
        SERVE,
        "Memory held for clients, a process, in MiB: partial bodies and messages, answers being built or not yet sent.",
    ),
    Setting(
        "memory_budget_mb_per_client", whole_number(1, 1 << 20), 96, SERVE, "What one client may hold of it, in MiB."
    ),
    Setting(
        "min_transfer_kb_per_second",
        whole_number(1, 1 << 20),
        16,
        SERVE,
        "The least rate of an upload, and of a client that reads an answer, in KiB a second.",
    ),
    Setting("max_batch", whole_number(1, 1_000_000), 10_000, SERVE, "The most requests in one batch."),
    Setting("max_in_flight", whole_number(1, 1_000_000), 1024, SERVE, "Requests worked on at once, a process."),
    Setting(
        "max_in_flight_per_client", whole_number(1, 1_000_000), 256, SERVE, "Requests of one client worked on at once."
    ),
    Setting(
        "max_waiting",
        whole_number(1, 1_000_000),
        4096,
        SERVE,
        "Requests that wait for a head or a message on chain, a process. They do not count as worked on.",
    ),
    Setting("max_waiting_per_client", whole_number(1, 1_000_000), 512, SERVE, "Requests of one client that wait."),
    Setting("max_channels", whole_number(1, 1_000_000), 2048, SERVE, "Open channels and subscriptions, a process."),
    Setting(
        "max_channels_per_client",
        whole_number(1, 1_000_000),
        256,
        SERVE,
        "Open channels and subscriptions of one client.",
    ),
    Setting(
        "max_connections",
        whole_number(1, 1_000_000),
        8192,
        (*SERVE, "doctor"),
        "Connections, a process; fewer where the limit of open files is lower.",
    ),
    Setting(
        "max_connections_per_client",
        whole_number(1, 1_000_000),
        1024,
        SERVE,
        "Connections of one client. A trusted proxy is none.",
    ),
    Setting(
        "scan_parallel", whole_number(1, 1024), 8, SERVE, "Calls of the cost class scan that run at once, a process."
    ),
    Setting(
        "heavy_parallel", whole_number(1, 1024), 2, SERVE, "Calls of the cost class heavy that run at once, a process."
    ),
    Setting(
        "execute_parallel",
        whole_number(1, 1024),
        32,
        SERVE,
        "Calls of the cost class execute that run at once, a process.",
    ),
    Setting(
        "lane_calls",
        whole_number(1, 1_000_000),
        256,
        SERVE,
        "Calls of one such class that run or wait for their turn, a process.",
    ),
    Setting(
        "lane_calls_per_client",
        whole_number(1, 1_000_000),
        64,
        SERVE,
        "Calls of one such class that one client may have there.",
    ),
    Setting(
        "request_seconds",
        number(0.1, 3600),
        60.0,
        SERVE,
        "Seconds that the work for a request may take. Time in which it waits does not count.",
    ),
    Setting("batch_seconds", number(0.1, 3600), 120.0, SERVE, "Seconds that the work for a batch may take."),
    Setting(
        "max_filters",
        whole_number(1, 1_000_000),
        4096,
        SERVE,
        "Installed Ethereum filters, of all clients of the store.",
    ),
    Setting(
        "filter_ttl_seconds",
        number(1, 30 * 86_400),
        3600.0,
        SERVE,
        "Seconds until a filter that nobody polls is forgotten.",
    ),
    Setting(
        "filters_per_client",
        whole_number(1, 1_000_000),
        100,
        SERVE,
        "Installed Ethereum filters that one client (by its address) may have in the store.",
    ),
    Setting(
        "filters_per_network",
        whole_number(1, 1_000_000),
        256,
        SERVE,
        "Installed Ethereum filters that the clients of one network (IPv4 /24, IPv6 /48) may have in the store.",
    ),
)
