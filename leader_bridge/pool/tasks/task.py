"""What a task is, and what it gets to work with."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from blockstore.store import ObjectStore, Store
from chain.errors import BadObject, NotHeld
from chain.index.chain_index import ChainIndex
from chain.ipld.objects import Objects
from chain.network import NetworkRecord, load_network
from chain.tipset import Tipset, TipsetKey
from leader_bridge.pool.reports import Claim, Status
from leader_bridge.store.mirror import Fetcher
from rpc.client.client import NodeClient
from rpc.executor import Executor

#: bytes of objects that tasks of one worker keep; small ones take up to four times as much, for each has its place in
#: tables. Jobs are neighbours, and a walk comes by once: more would fill up and never be read again
_CACHE_BYTES: Final = 8 << 20
#: rows and tipsets that they keep
_CACHED_ROWS: Final = 2048
_CACHED_TIPSETS: Final = 1024


class Defer(Exception):
    """The store lacks something that is still to come. The job comes back later; that is no failure."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended on one tipset. `why`: where it is not OK. `claim`: what the leader may say now."""

    status: Status = Status.OK
    why: str = ""
    claim: Claim | None = None


#: Does a task on one tipset; None is OK. Errors: Defer; any other is reported as ERROR and tried again.
TaskRun = Callable[[Store, Tipset], Awaitable[Outcome | None]]


@dataclass(slots=True)
class TaskContext:
    """What tasks share in one worker; None is what this worker has not.

    `reads`: where objects are read, if not in the store alone. `executor` executes, `client` is a node to ask,
    `fetcher` gives objects that the store lacks. `near`: reads through the cache on this machine's disk. `head`: the
    head that the worker works on; a task reads the chain above its tipset from it.
    """

    store: Store
    reads: ObjectStore | None = None
    executor: Executor | None = None
    client: NodeClient | None = None
    head: Tipset | None = None
    near: ObjectStore | None = None
    fetcher: Fetcher | None = None
    objects: Objects = field(init=False)
    index: ChainIndex = field(init=False)
    _network: NetworkRecord | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.objects = Objects(self.reads or self.store, cache_bytes=_CACHE_BYTES)
        self.index = ChainIndex(self.store, self.objects, cached_rows=_CACHED_ROWS, cached_tipsets=_CACHED_TIPSETS)

    async def begin(self, head: Tipset, low: int, high: int) -> None:
        """A job on epochs `low` to `high` begins: read at once what its tasks ask for singly. Errors: StoreError."""
        self.head = head
        self._network = await load_network(self.store)
        # each tipset is read with the one that stands on it; a damaged row is told where it is needed
        with contextlib.suppress(BadObject):
            await self.index.read_rows(low, min(high + 1, head.height))

    async def network(self) -> NetworkRecord:
        """The network's record. Errors: Defer (a new store does not say it yet)."""
        network = self._network or await load_network(self.store)
        if network is None:
            raise Defer("the store does not say its network yet")
        return network

    async def child(self, tipset: Tipset) -> Tipset:
        """The tipset that stands on this one in the head's chain. Errors: Defer (nothing stands on it yet)."""
        if self.head is None or tipset.height >= self.head.height:
            raise Defer(f"no tipset stands on epoch {tipset.height} yet")
        try:
            child = await self.index.at_height(self.head, tipset.height + 1, previous=False)
        except NotHeld as error:
            raise Defer(str(error)) from None
        if child.parents != tipset.key:
            raise Defer(f"the tipset of epoch {tipset.height} is not on the head's chain")
        return child

    async def lacking(self, key: TipsetKey, promised: int, what: str) -> Outcome:
        """SKIP, where the row of tipset `key` does not say that it holds `promised` (HELD_ flags). `what`: for people.

        Errors: Defer (the row says so: the store that this worker reads is behind).
        """
        row = await self.index.row(key, fresh=True)
        if row is not None and row.held & promised == promised:
            raise Defer(f"{what} cannot be read here yet")
        return Outcome(Status.SKIP, f"{what} are not held")

    async def parent_height(self, tipset: Tipset) -> int:
        """The epoch of the parent; -1 where it is not held, and for the genesis."""
        row = await self.index.row(tipset.key)
        return -1 if row is None or not tipset.height else row.parent_height


@dataclass(frozen=True, slots=True)
class TaskKind:
    """A task that can be asked for. `make` binds it to a worker's context. `doc` is one sentence.

    Errors of `make`: CannotDo.
    """

    name: str
    doc: str
    make: Callable[[TaskContext], TaskRun]


class CannotDo(Exception):
    """A worker lacks what a task needs; the text says what."""
