"""What a source is: it gives ranges of tipsets, and objects by their hashes, or says that it does not hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from blockstore.cid import Cid
from blockstore.shards.manifest import Shard
from chain.tipset import TipsetKey
from rpc.server.ranges.wire import KeptShard, Offer


@dataclass(frozen=True, slots=True)
class RangeWork:
    """Objects of the tipsets of epochs `low` to `high` below the tipset `head`; `parts` as in `wire`."""

    head: TipsetKey
    low: int
    high: int
    parts: frozenset[str]


@dataclass(frozen=True, slots=True)
class ObjectWork:
    """Objects by CID."""

    cids: Sequence[Cid]


@dataclass(frozen=True, slots=True)
class ShardListWork:
    """Names of shards of files that a source keeps, behind the name `after`."""

    after: str


@dataclass(frozen=True, slots=True)
class ShardWork:
    """A shard of a file."""

    shard: KeptShard


Work = RangeWork | ObjectWork | ShardListWork | ShardWork


@dataclass(slots=True)
class Answer:
    """Verified objects, in the order in which they came, and what the source says it does not hold.

    `absent`: CIDs of an `ObjectWork`; `absent_epochs`: of a `RangeWork`. What is in neither was cut off: it may be
    asked for again. `size`: bytes that came. `kept`: of a `ShardListWork`; `shard`: of a `ShardWork`, proven.
    """

    found: dict[Cid, bytes] = field(default_factory=dict)
    absent: frozenset[Cid] = frozenset()
    absent_epochs: frozenset[int] = frozenset()
    size: int = 0
    kept: Sequence[KeptShard] = ()
    shard: Shard | None = None


class SourceError(Exception):
    """A source has not answered well."""


class SourceUnavailable(SourceError):
    """It cannot be reached, or fails inside: nobody's fault, for a while."""


class SourceBusy(SourceError):
    """It asks to be asked later."""

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


class NotHeldThere(SourceError):
    """It has nothing of what was asked for. No fault."""


class BadSource(SourceError):
    """What it sent is no answer to the question."""


class LyingSource(BadSource):
    """It sent data that do not have their hashes, or is of another network."""


class SourceRefuses(SourceError):
    """It does not take the token."""


class SyncSource(Protocol):
    """A source. `name`: host and port, or a path. `requests_per_second`: what it allows, as far as it is known.

    `votes`: whether its head counts. `most_objects`: of one request.
    """

    name: str
    requests_per_second: int
    votes: bool
    most_objects: int

    async def offer(self) -> Offer:
        """What it holds. Errors: SourceError."""

    async def ask(self, work: Work) -> Answer:
        """Errors: SourceError."""

    async def close(self) -> None:
        """Close its connections. A second call does nothing."""
