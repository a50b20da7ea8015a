"""Every setting, in one table: its name, type, default, the subcommands that use it, and what it is for.

A subcommand gets a flag for each setting that names it, and reads no other (`follower.settings`). The table in
docs/operating.md is written from this one by `make docs-tables`.
"""

from __future__ import annotations

from typing import Final

from blockstore.store_url import public_url
from chain.index.kept import DEFAULT_MESSAGE_EPOCHS, DEFAULT_STATE_EPOCHS, LEAST_EPOCHS
from follower.administration.settings import ADMIN_SETTINGS
from follower.archive_settings import ARCHIVE_SETTINGS
from follower.log_settings import LOG_SETTINGS
from follower.serving_settings import SERVING_SETTINGS
from follower.setting import BACKFILL, BOTH, BRIDGE, EXECUTE, KEEP, POOL, SERVE, SHARED_STORE, Setting
from follower.setting_groups.gate import FORWARD_SETTINGS, GATE_SETTINGS
from follower.setting_groups.pool import POOL_SETTINGS
from follower.setting_groups.read_through import READ_THROUGH_SETTINGS
from follower.setting_parsers import (
    DEFAULT_SNAPSHOT_URLS,
    node_names,
    number,
    number_or_all_text,
    one_of,
    parse_boolean,
    parse_listen,
    parse_networks,
    parse_nodes,
    parse_optional_listen,
    parse_snapshot_urls,
    parse_store,
    parse_text,
    public_snapshot_urls,
    whole_number,
    whole_number_or_all,
)
from rpc.server.client_address import PRIVATE

SETTINGS: Final = (
    Setting(
        "store",
        parse_store,
        "lmdb://data/store",
        (*SHARED_STORE, "status"),
        "Where the chain is kept: lmdb:///path (a relative path: lmdb://path) or cassandra://host/keyspace.",
        hide=public_url,
    ),
    Setting(
        "node",
        parse_nodes,
        "",
        (*BOTH, "doctor", "store check", *POOL),
        "Full nodes to follow, best first, separated by commas: TOKEN:ADDR, multiaddr or URL. Also FULLNODE_API_INFO.",
        aliases=("FULLNODE_API_INFO",),
        hide=node_names,
    ),
    Setting(
        "listen",
        parse_listen,
        "127.0.0.1:1234",
        (*SERVE, "replay", "simulate", "status", "doctor"),
        "HOST:PORT where JSON-RPC is served.",
    ),
    Setting("workers", whole_number(1, 256), 1, SERVE, "Serving processes on the same port."),
    Setting(
        "state",
        one_of("full", "lazy"),
        "full",
        BOTH,
        "full: the bridge mirrors every new state; lazy: a state object is fetched when it is first asked for.",
    ),
    Setting(
        "backfill_epochs",
        whole_number(0, 10_000_000),
        1000,
        BRIDGE,
        "Epochs below its first head that a bridge of an empty store fetches too.",
    ),
    Setting(
        "mirror_actor_code",
        parse_boolean,
        True,
        BRIDGE,
        "Mirror the code of built-in actors too (some MB a network upgrade; ChainStatObj of a state counts it).",
    ),
    Setting(
        "traces",
        one_of("off", "on"),
        "off",
        BACKFILL,
        "on: each tipset's traces are made by execution or asked of the node once, and kept; off: they are not.",
    ),
    Setting(
        "trace_lookback_epochs",
        whole_number(1, 100_000_000),
        2880,
        BACKFILL,
        "Epochs below the head whose traces are recorded and kept.",
    ),
    Setting(
        "keep_state_epochs",
        whole_number_or_all(LEAST_EPOCHS, 1_000_000_000),
        DEFAULT_STATE_EPOCHS,
        KEEP,
        "Epochs below the head whose states are kept, or all. Not under 1800: finality and the deepest reorg.",
        hide=number_or_all_text,
    ),
    Setting(
        "keep_message_epochs",
        whole_number_or_all(LEAST_EPOCHS, 1_000_000_000),
        DEFAULT_MESSAGE_EPOCHS,
        KEEP,
        "Epochs below the head whose messages, receipts and events are kept, or all. Headers always stay.",
        hide=number_or_all_text,
    ),
    Setting(
        "keep_index_epochs",
        whole_number_or_all(LEAST_EPOCHS, 1_000_000_000),
        DEFAULT_MESSAGE_EPOCHS,
        KEEP,
        "Epochs below the head whose messages, Ethereum transactions and events are found by index rows, or all.",
        hide=number_or_all_text,
    ),
    Setting(
        "retention_rate",
        number(50, 10_000_000),
        20_000.0,
        BRIDGE,
        "The most objects a second that are copied to a new generation of objects; fewer while reads are slow.",
    ),
    Setting(
        "network_file",
        parse_text,
        "",
        (*BRIDGE, "serve", "import", "store index"),
        "A private network's name and upgrades (network.json).",
    ),
    Setting(
        "snapshot_urls",
        parse_snapshot_urls,
        DEFAULT_SNAPSHOT_URLS,
        ("import",),
        "Where `follower import NAME` finds the newest snapshot of a network: NAME=URL, separated by commas.",
        hide=public_snapshot_urls,
    ),
    Setting(
        "download_folder",
        parse_text,
        "",
        ("import", "sync"),
        "Where an import keeps its files while it runs, and `sync` those it puts together from shards; empty: in an "
        "LMDB store's folder, for other stores here.",
    ),
    Setting(
        "import_memory_mb",
        whole_number(0, 1 << 30),
        0,
        ("import",),
        "The size of a file, in MiB, above which an LMDB store gets it in key order; 0: a quarter of the memory.",
    ),
    Setting(
        "download_timeout_seconds",
        number(0.1, 3600),
        60.0,
        ("import",),
        "Seconds without a byte after which a download asks again for the rest.",
    ),
    Setting(
        "sync_token_file",
        parse_text,
        "",
        ("sync",),
        "File of the token that the followers in --from know us by.",
    ),
    Setting(
        "sync_requests_per_second",
        whole_number(1, 10_000),
        10,
        ("sync",),
        "Requests to one source in any second, where it does not allow less.",
    ),
    Setting("sync_requests_in_all", whole_number(1, 100_000), 50, ("sync",), "Requests to all sources in any second."),
    Setting("fetch_concurrency", whole_number(1, 1024), 8, BRIDGE, "Requests of a bridge in flight to a full node."),
    Setting("fetch_batch", whole_number(1, 1000), 256, BOTH, "Objects asked for in one request to a full node."),
    Setting(
        "node_timeout_seconds",
        number(0.1, 600),
        30.0,
        (*BOTH, "doctor", "store check", *POOL),
        "Seconds until a full node counts as not answering.",
    ),
    *FORWARD_SETTINGS,
    *READ_THROUGH_SETTINGS,
    Setting(
        "poll_interval_seconds",
        number(0.05, 600),
        5.0,
        BRIDGE,
        "Seconds between ChainHead calls where a node has no WebSocket.",
    ),
    *ARCHIVE_SETTINGS,
    *SERVING_SETTINGS,
    *POOL_SETTINGS,
    *GATE_SETTINGS,
    Setting(
        "filters_per_connection",
        whole_number(0, 10_000),
        16,
        SERVE,
        "Ethereum filters and subscriptions that one WebSocket session may have.",
    ),
    Setting(
        "trusted_proxies",
        parse_networks,
        ",".join(PRIVATE),
        SERVE,
        "Networks of balancers whose X-Forwarded-For is believed.",
    ),
    Setting(
        "jwt_secret_file",
        parse_text,
        "",
        (*SERVE, "bridge", "sync", "doctor", "auth create-token", "admin"),
        "File with the HS256 secret of API tokens; without one every caller may read.",
    ),
    *ADMIN_SETTINGS,
    Setting(
        "status_page",
        one_of("private", "token", "open", "off"),
        "private",
        SERVE,
        "Who sees the status page at /: private: callers of private networks, others with an admin token; token: only "
        "with one; open: everybody; off: nobody.",
    ),
    Setting(
        "ready_lag_epochs",
        whole_number(1, 100_000),
        5,
        SERVE,
        "The most epochs that a fresh follower's head is behind the followed node's.",
    ),
    Setting(
        "ready_head_age_epochs",
        whole_number(0, 10_000_000),
        10,
        SERVE,
        "The most epochs that a fresh follower's head is old, by the wall clock; 0: any age (an archive, a replay).",
    ),
    Setting(
        "drain_seconds", number(0, 600), 30.0, SERVE, "Seconds that a stopping follower takes to finish its requests."
    ),
    Setting(
        "drain_notice_seconds",
        number(0, 600),
        3.0,
        SERVE,
        "Of drain_seconds, how long a stopping member of a fleet still takes requests, for balancers to notice.",
    ),
    Setting(
        "fleet",
        one_of("auto", "on", "off"),
        "auto",
        SERVE,
        "Register for load balancers: on, off, or auto: over a shared store, or with advertise or agent_listen set.",
    ),
    Setting(
        "advertise",
        parse_optional_listen,
        "",
        SERVE,
        "HOST:PORT under which balancers reach this follower; empty: that of listen.",
    ),
    Setting(
        "agent_listen",
        parse_optional_listen,
        "",
        SERVE,
        "HOST:PORT where HAProxy's agent checks are answered; empty for none.",
    ),
    Setting("renew_seconds", number(0.05, 60), 5.0, SERVE, "Seconds between renewals of a follower's registration."),
    Setting(
        "map_size_gb",
        whole_number(1, 1 << 16),
        1024,
        SHARED_STORE,
        "The most that an LMDB store may grow to, in GiB (address space, not disk).",
    ),
    Setting(
        "delta_ms",
        whole_number(1, 600_000),
        500,
        SHARED_STORE,
        "Milliseconds between the write of a head to a shared store and its first use by followers.",
    ),
    Setting(
        "epsilon_ms",
        whole_number(1, 100_000),
        50,
        SHARED_STORE,
        "The most that clocks of a shared store's machines differ, in milliseconds; below half of delta_ms.",
    ),
    Setting(
        "replication",
        whole_number(1, 100),
        1,
        SHARED_STORE,
        "Copies of what a shared store holds. It counts when its tables are created.",
    ),
    Setting(
        "lease_seconds",
        number(0.1, 600),
        5.0,
        (*BOTH, "hooks", "import", "backfill", "store", "index"),
        "Seconds without a renewal after which a bridge, an import or a hook's process loses its lease.",
    ),
    Setting(
        "execution",
        one_of("auto", "on", "off"),
        "auto",
        (*SERVE, *BACKFILL[1:], *POOL),
        "Execute messages (eth_call, gas estimates) beside the followers: auto where the extension is installed.",
    ),
    Setting(
        "verify",
        one_of("off", "sample", "all"),
        "off",
        BRIDGE,
        "Tipsets that the bridge executes and compares with the next header before it publishes that: none, some, all.",
    ),
    Setting(
        "verify_one_in",
        whole_number(1, 1_000_000),
        20,
        BRIDGE,
        "With verify = sample: one tipset in so many is executed, by chance.",
    ),
    Setting(
        "execution_backfill",
        one_of("auto", "on", "off"),
        "auto",
        BRIDGE,
        "Make receipts, events and traces by execution, where it is possible. auto: where an executor runs already.",
    ),
    Setting(
        "execution_backfill_percent",
        whole_number(1, 100),
        50,
        BACKFILL,
        "The share of the time in which the backfill executes.",
    ),
    Setting(
        "executor_socket", parse_text, "", EXECUTE, "Unix socket of an executor that runs apart; empty: one is started."
    ),
    Setting("execution_threads", whole_number(1, 256), 2, EXECUTE, "Messages that the executor runs at once."),
    Setting("execution_queue", whole_number(1, 100_000), 256, EXECUTE, "Executions that may wait for a thread."),
    Setting(
        "execution_seconds",
        number(0.1, 3600),
        20.0,
        EXECUTE,
        "The longest that one execution may take; after it the executor ends itself and is started again.",
    ),
    Setting(
        "execution_gas_cap",
        whole_number(1_000_000, 1 << 62),
        10_000_000_000,
        EXECUTE,
        "The most gas that the messages of one request may use; a request that would use more is refused.",
    ),
    Setting(
        "execution_trace_entries",
        whole_number(1_000, 10_000_000),
        100_000,
        EXECUTE,
        "The longest trace of messages that a client made up, in entries: calls, gas charges, log lines.",
    ),
    Setting(
        "execution_message_mb",
        whole_number(64, 4096),
        256,
        EXECUTE,
        "Memory, in MiB, that one message of a client may take; one that takes more is refused.",
    ),
    Setting("execution_cache_mb", whole_number(1, 1 << 20), 64, EXECUTE, "The executor's memory for objects, in MiB."),
    Setting(
        "execution_memory_mb",
        whole_number(256, 1 << 20),
        1536,
        EXECUTE,
        "Memory, in MiB, over which the executor ends itself and is started again.",
    ),
    *LOG_SETTINGS,
    Setting(
        "metrics_listen",
        parse_optional_listen,
        "",
        (*BACKFILL, "worker", "index watch"),
        "HOST:PORT of a bridge's or a worker's own /metrics; empty for none.",
    ),
    Setting(
        "hook_seconds",
        number(0.1, 3600),
        30.0,
        ("up", "hooks"),
        "Seconds that one call of a hook on tipsets may take; then it counts as failed and is made again.",
    ),
    Setting(
        "hooks_metrics_listen",
        parse_optional_listen,
        "",
        ("up", "hooks"),
        "HOST:PORT of /metrics of the hooks' process.",
    ),
)

BY_NAME: Final = {setting.name: setting for setting in SETTINGS}
