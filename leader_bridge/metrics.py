"""What the bridge counts, for `/metrics` and for its own log lines."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from rpc.release import BUILD_INFO_DOC, build_info

BUILD_INFO: Final = Gauge("follower_build_info", BUILD_INFO_DOC, list(build_info()))
BUILD_INFO.labels(**build_info()).set(1)
HEAD_HEIGHT: Final = Gauge("follower_bridge_head_height", "Epoch of the head that was published last.")
LEADS: Final = Gauge("follower_bridge_leads", "1 while this bridge leads, 0 while it stands by.")
CLOCK_OFFSET: Final = Gauge("follower_bridge_clock_offset_ms", "The store's clock minus ours, as last measured.")
CLOCK_OFF: Final = Gauge("follower_bridge_clock_off", "1 while that is beyond epsilon_ms: the bridge does not lead.")
LAG: Final = Gauge("follower_bridge_lag_epochs", "Epochs between the node's head and the published one.")
PUBLISHED: Final = Counter("follower_bridge_heads_published", "Head-log entries appended.")
TIPSETS: Final = Counter("follower_bridge_tipsets", "Tipsets stored.")
OBJECTS: Final = Counter("follower_bridge_objects", "Objects fetched from nodes and stored.")
ARCHIVE_OBJECTS: Final = Counter("follower_bridge_archive_objects", "Of these, objects that an archive gave.")
OBJECT_BYTES: Final = Counter("follower_bridge_object_bytes", "Bytes of the objects fetched.")
DISPERSED: Final = Counter(
    "follower_bridge_dispersed_heads",
    "Heads that were sent to followers in shards, or why not: too little, too much, overtaken by the next, failed.",
    ["outcome"],
)
DISPERSED_BYTES: Final = Counter("follower_bridge_dispersed_bytes", "Bytes of shards that were sent.")
RETRIES: Final = Counter("follower_bridge_retries", "Requests to nodes that were made again.")
RECONNECTS: Final = Counter("follower_bridge_reconnects", "Subscriptions begun after the first.")
WRONG_OBJECTS: Final = Counter("follower_bridge_wrong_objects", "Objects that did not hash to their CID.", ["node"])
NOT_HELD: Final = Counter("follower_bridge_not_held", "Tipsets published without something no node holds.", ["what"])
TIPSET_SECONDS: Final = Histogram(
    "follower_bridge_tipset_seconds",
    "Seconds from a head change's arrival to its publication, a tipset.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120),
)
BACKFILL_LEFT: Final = Gauge("follower_bridge_backfill_epochs_left", "Epochs that the backfill has to do.")
READ_THROUGH: Final = Counter(
    "follower_bridge_read_through_tipsets", "Tipsets fetched because followers were asked of their epochs."
)
STOPPED: Final = Gauge(
    "follower_bridge_stopped",
    "1 while the bridge publishes nothing for this reason, though a node has a head.",
    ["reason"],
)
VERIFIED: Final = Counter("follower_bridge_verified", "Tipsets that gave here what their child's header has.")
UNVERIFIED: Final = Counter(
    "follower_bridge_unverified",
    "Tipsets that were to be verified and were published without: late, unavailable, not_held, not_executable.",
    ["reason"],
)
EXECUTION_DIFFERENCES: Final = Counter(
    "follower_bridge_execution_differences",
    "How often a tipset gave another result here than its child's header has; each try counts.",
)
VERIFY_SECONDS: Final = Histogram(
    "follower_bridge_verify_seconds",
    "Seconds of executing a tipset, the executor's queue included.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
POST_CONFLICTS: Final = Counter(
    "follower_bridge_post_conflicts", "Children that disagree with another about the state after their parent."
)
COPIED: Final = Counter("follower_bridge_retention_copied", "Objects copied to a new generation.")
RETENTION_RATE: Final = Gauge(
    "follower_bridge_retention_rate", "Objects a second that a pass may copy now; it falls while reads are slow."
)
GENERATIONS: Final = Gauge("follower_bridge_generations", "Generations of objects that take room in the store.")
RETENTION_STEP: Final = Gauge(
    "follower_bridge_retention_step",
    "1 for what the pass that keeps the store's size is doing: idle, copying, waiting, removing.",
    ["step"],
)
RETENTION_FAILURES: Final = Counter(
    "follower_bridge_retention_failures", "Passes that keep the store's size which broke off; each is tried again."
)
LOWEST_KEPT: Final = Gauge("follower_bridge_lowest_kept_epoch", "The lowest epoch that is held, by kind.", ["kind"])
ROWS_REMOVED: Final = Counter("follower_bridge_retention_rows", "Tipsets whose aged rows were removed.", ["kind"])
POOL_JOBS: Final = Counter(
    "follower_pool_jobs",
    "Jobs that this worker ended, by class and result: done, failed, deferred, taken (by another worker).",
    ["queue", "result"],
)
POOL_TASKS: Final = Counter("follower_pool_tasks", "Tasks on tipsets that this worker reported.", ["task", "status"])
POOL_JOB_SECONDS: Final = Histogram(
    "follower_pool_job_seconds",
    "Seconds a job took.",
    ["queue"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800),
)
POOL_WAIT_SECONDS: Final = Histogram(
    "follower_pool_wait_seconds",
    "Seconds a job waited in the queue.",
    ["queue"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 60, 600, 3600),
)
POOL_WAITING: Final = Gauge("follower_pool_waiting", "Jobs that wait in the queue, as this worker last saw.", ["queue"])
POOL_OLDEST_SECONDS: Final = Gauge(
    "follower_pool_oldest_seconds",
    "How long the oldest job that waits in the queue has waited, as this worker last saw; 0: none waits.",
    ["queue"],
)
POOL_HELD: Final = Gauge("follower_pool_held", "Jobs that all workers hold, as this worker last saw.", ["queue"])
POOL_TAKEN_OVER: Final = Counter(
    "follower_pool_taken_over", "Jobs that this worker took over from workers that died.", ["queue"]
)
POOL_CLAIMED: Final = Counter("follower_pool_claimed", "Reports of workers that a bridge looked at and took over.")
