"""How the bridge follows: one frozen record, made by the command line from the settings table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """How to follow.

    `state`: full or lazy. `backfill_epochs`: epochs below the first head of an empty store to fetch too.
    `fetch_concurrency` requests of `fetch_batch` objects are in flight at once. `max_gap_epochs`: the most epochs
    in one head change when a gap is filled. `lagging_node_grace_seconds`: how long a lighter head of another node
    is not followed. `idle_probe_seconds`: a node that pushes nothing for so long is asked for its head.
    `probe_interval_seconds`: while every node cools down after failures, each is asked so often whether it is there.
    `refused_head_cooldown_seconds`: how long a node is left alone whose head may not be published.
    `missing_object_timeout_seconds`: how long a walk waits for any node to answer. `late_block_retry_delays`:
    seconds before each new try for what every node lacks. `traces`: record each tipset's traces, down to
    `trace_lookback_epochs` below the head. `executes_past`: make receipts, events and traces by execution where that
    is possible, in `backfill_percent` of the time. `verify`: execute all tipsets, a sample (one in `verify_one_in`),
    or none (off), and compare the result with the next header before that is published. `owner`: this process's name
    in the lease ("": host and process id). `keep_…_epochs`: how many epochs below the head are kept, None: all;
    `retention_rate`: objects a second that are copied at most, where generations of objects follow each other;
    `retention_grace_seconds`: how long what is no longer kept is still there for requests under way.
    `read_through_fill_epochs`: how many epochs below the head are fetched because followers were asked of them, while
    `read_through_free_bytes` of the disk are free; `read_through_look_seconds`: between two looks at what is wanted.
    """

    state: str = "full"
    backfill_epochs: int = 2000
    network_file: Path | None = None
    fetch_concurrency: int = 8
    fetch_batch: int = 256
    node_timeout_seconds: float = 30.0
    poll_interval_seconds: float = 2.0
    actor_code: bool = True
    traces: bool = False
    trace_lookback_epochs: int = 2880
    executes_past: bool = False
    backfill_percent: int = 50
    verify: str = "off"
    verify_one_in: int = 20
    max_gap_epochs: int = 900
    keep_log_entries: int = 20_000
    lagging_node_grace_seconds: float = 60.0
    idle_probe_seconds: float = 60.0
    first_backoff_seconds: float = 0.1
    longest_backoff_seconds: float = 30.0
    probe_interval_seconds: float = 2.0
    refused_head_cooldown_seconds: float = 10.0
    bad_object_cooldown_seconds: float = 30.0
    missing_object_timeout_seconds: float = 60.0
    late_block_retry_delays: tuple[float, ...] = (0.1, 0.3, 1.0)
    owner: str = ""
    keep_state_epochs: int | None = None
    keep_message_epochs: int | None = None
    keep_index_epochs: int | None = None
    retention_rate: float = 20_000.0
    retention_grace_seconds: float = 60.0
    read_through_fill_epochs: int = 0
    read_through_free_bytes: int = 0
    read_through_look_seconds: float = 2.0
