"""Opens the pages that give ranges of the chain to other stores, where the settings allow it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from blockstore.store import ObjectStore
from follower.settings import CannotRun, Settings, reading
from rpc.server.metrics import Metrics
from rpc.server.ranges.admission import SharedAdmission
from rpc.server.ranges.page import RangeLimits, RangePages
from rpc.server.ranges.shard_files import ShardFiles
from rpc.server.server import Server
from rpc.services import Services

_LEAST: Final = 16
_MOST_TOKENS: Final = 1000


def read_tokens(path: Path) -> Mapping[str, str]:
    """Who may ask: a line `NAME TOKEN` each. Errors: ValueError, OSError."""
    tokens: dict[str, str] = {}
    for number, line in enumerate(path.read_text("ascii", "replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or len(words[1]) < _LEAST or not words[1].isascii() or words[0] in tokens:
            raise ValueError(f"line {number} is not NAME TOKEN, with a name of its own and {_LEAST} characters or more")
        tokens[words[0]] = words[1]
    if not 0 < len(tokens) <= _MOST_TOKENS:
        raise ValueError(f"holds {len(tokens)} tokens, not 1 to {_MOST_TOKENS}")
    return tokens


def serve_ranges(settings: Settings, server: Server, services: Services, below: ObjectStore) -> RangePages | None:
    """Give ranges from now on, where tokens are set. `below`: where objects are read. Errors: CannotRun (the file)."""
    path: str = settings["range_tokens_file"]
    if not path:
        return None
    with reading("range_tokens_file", path) as file:
        tokens = read_tokens(file)
    limits = RangeLimits(
        settings["range_requests_per_second"], settings["range_requests_in_all"], settings["range_answers_at_once"]
    )
    if limits.in_all < limits.per_second:
        raise CannotRun("range_requests_in_all is less than range_requests_per_second")
    admission = None
    if settings["rates_file"]:
        with reading("rates_file", settings["rates_file"]) as rates:
            admission = SharedAdmission(rates, list(tokens), limits.per_second, limits.in_all)
    shards = None
    if settings["range_shards_dir"]:
        with reading("range_shards_dir", settings["range_shards_dir"]) as folder:
            # it may be a disk that is not mounted: said at the start
            next(folder.iterdir(), None)
            shards = ShardFiles(folder)
    pages = RangePages(services, below, tokens, limits, admission=admission, shards=shards)
    pages.serve_on(server)
    return pages


def register(metrics: Metrics, pages: RangePages | None) -> None:
    """Declare the metrics."""
    if pages is None:
        return
    given = pages.given
    metrics.counter("follower_ranges_requests", "Requests of other stores that were answered.", lambda: given.requests)
    metrics.counter("follower_ranges_objects", "Objects given to other stores.", lambda: given.objects)
    metrics.counter("follower_ranges_bytes", "Bytes given to other stores.", lambda: given.sent_bytes)
    metrics.counter(
        "follower_ranges_limited", "Requests of other stores that were refused by a limit.", lambda: given.limited
    )
