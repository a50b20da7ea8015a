"""What `follower sync` counts, for `/metrics`."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge

STAGE: Final = Gauge("follower_sync_stage", "1 for the stage that the filling of a store is in.", ["stage"])
DONE: Final = Gauge("follower_sync_done", "How much of the stage is done, in its unit.")
TOTAL: Final = Gauge("follower_sync_total", "How much the stage has to do, in its unit; 0 where it is not known.")
OBJECTS: Final = Counter("follower_sync_objects", "Objects that a source gave.", ["source"])
BYTES: Final = Counter("follower_sync_bytes", "Bytes that a source gave.", ["source"])
FAILURES: Final = Counter("follower_sync_failures", "Requests that a source did not answer well.", ["source"])
LIMITED: Final = Counter("follower_sync_limited", "Requests that a source put off because of a limit.", ["source"])
BAD_ANSWERS: Final = Counter("follower_sync_bad_answers", "Answers that were withdrawn as bad.", ["source"])
REPEATED: Final = Counter("follower_sync_repeated", "Requests sent to a second source because the first was slow.")
