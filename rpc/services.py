"""What a process hands to its methods: one object, made by the composition root, never by a method.

A follower, the replaying node and the simulated node differ in nothing but this object.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from blockstore.lookup import Lookup
from blockstore.store import HeadEntry, Store
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import NetworkRecord
from chain.tipset import Tipset, TipsetKey
from rpc.executor import Executor
from rpc.pacer import LoopPacer, PushQueue


@dataclass(frozen=True, slots=True)
class Head:
    """The head as one request sees it: the head log's sequence number, its entry, and the tipset.

    `entry` is None where no head log exists (an import served offline); `seq` is 0 then.
    """

    seq: int
    entry: HeadEntry | None
    tipset: Tipset

    @property
    def text(self) -> bytes:
        """As the `X-Filecoin-Head` header names it: sequence number, epoch, CID of the tipset key."""
        return _head_text(self.seq, self.tipset.height, self.tipset.key)

    @property
    def timestamp(self) -> int:
        """Seconds since 1970; all blocks of a tipset have the same."""
        return self.tipset.blocks[0].timestamp

    def age_seconds(self, now: int) -> int:
        """As the `X-Filecoin-Head-Age` header tells it. `now`: seconds since 1970."""
        return max(0, now - self.timestamp)


@lru_cache(maxsize=64)
def _head_text(seq: int, height: int, key: TipsetKey) -> bytes:
    return b"%d,%d,%s" % (seq, height, str(key.cid).encode())


class HeadSource(Protocol):
    """Where requests get their head from."""

    async def current(self) -> Head:
        """The newest visible head. Errors: chain.errors.NotHeld (nothing published yet), StoreError."""

    def subscribe(self, after: int | None = None) -> AsyncIterator[HeadEntry]:
        """Every entry after sequence number `after` (None: those to come), in order, without a gap.

        The iterator ends when it would have to leave one out: whoever reads too slowly must start again.
        It holds a bounded number of entries.
        """


class NodeClient(Protocol):
    """A full node that answers what this process cannot. `follower/forwarding/route.py` has the real one."""

    async def call(self, method: str, params: list[Any], at: Tipset | None = None) -> Any:
        """The `result` of a call. `at`: only a node that holds this tipset may answer; None: any node.

        Errors: rpc.errors.Unavailable, and NodeError (see `rpc/node_errors.py`).
        """


class Mempool(Protocol):
    """The mempool of a full node. `follower/forwarding/mempool_feed.py` has the real one."""

    @property
    def heard_since(self) -> int | None:
        """Since when everything is told, ms since 1970; None while no node tells, or while nobody reads."""

    async def wait_until_heard(self) -> None:
        """Return once a node tells: for one who reads `updates`."""

    def updates(self) -> AsyncIterator[dict[str, Any]]:
        """Each change from now on, as `MpoolSub` tells it: `{"Type": 0 (new) or 1 (gone), "Message": signed message}`.

        Ends for one who reads too slowly, and when the process stops.
        """


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a health check found; `text` says it in a few words."""

    ok: bool
    text: str


#: A health check: cheap, never slower than a second, raises nothing that it can foresee.
Check = Callable[[], Awaitable[CheckResult]]


@dataclass(slots=True)
class Checks:
    """The registered health checks, by the name that a verbose answer shows.

    Alive means that this process should not be restarted; ready, that its answers are right; fresh, that its head is
    near the newest one and that it executes, where it is meant to. A follower that fails only checks of freshness is
    whole: balancers use it as a last resort.
    """

    live: dict[str, Check] = field(default_factory=dict)
    ready: dict[str, Check] = field(default_factory=dict)
    fresh: dict[str, Check] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Bytes of a process's caches of what it has decoded. `decoded`: of each that `rpc.lookup.decoded_cache` makes."""

    json: int = 32 << 20
    nodes: int = 64 << 20
    decoded: int = 32 << 20
    events: int = 64 << 20
    executed: int = 32 << 20

    @classmethod
    def all_of(cls, size: int) -> CacheSizes:
        """Each of so many bytes."""
        return cls(size, size, size, size, size)


@dataclass(slots=True, kw_only=True)
class Services:
    """Everything a method can reach. `extra` holds what one kind of process adds, by its own key."""

    store: Store
    index: ChainIndex
    objects: Objects
    network: NetworkRecord
    head_source: HeadSource
    node: NodeClient | None = None
    #: what a full node's mempool tells; None where no node is behind
    mempool: Mempool | None = None
    #: runs messages; None where this process has no virtual machine
    executor: Executor | None = None
    #: e.g. "lotus-follower/0.1.0"; what `Version` and `web3_clientVersion` name
    agent: str = "lotus-follower"
    checks: Checks = field(default_factory=Checks)
    pacer: LoopPacer = field(default_factory=LoopPacer)
    #: what many connections hear leaves through it
    pushes: PushQueue = field(default_factory=PushQueue)
    #: searches through the epochs of the store
    lookup: Lookup = field(default_factory=Lookup)
    #: when this process began to serve, Unix seconds
    started_at: float = field(default_factory=time.time)
    extra: dict[str, Any] = field(default_factory=dict)
    cache_sizes: CacheSizes = field(default_factory=CacheSizes)
    #: what methods keep for all requests of the process, by their own keys
    caches: dict[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def head_entries(source: HeadSource, after: int) -> AsyncIterator[AsyncIterator[HeadEntry]]:
    """The entries after `after`; the subscription ends with the block, however that is left."""
    entries = source.subscribe(after)
    try:
        yield entries
    finally:
        close = getattr(entries, "aclose", None)
        if close is not None:
            await close()
