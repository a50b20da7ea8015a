"""The protocol of every backend: small and asynchronous, with its contract in the docstrings.

Two kinds of things are stored.

*Objects*: bytes by multihash. An object is *closed* when everything under it is stored too, *loose* when it
came alone. A closed object never becomes loose, but where generations of objects follow each other: what is closed in
the previous one alone counts as loose (`blockstore.generations`).

*Rows*: `(table, partition, key) -> value`, all bytes. Rows of one partition are ordered by key (bytewise).
A partition is what one Cassandra partition is: callers choose it so that none outgrows 100 MB.

The head log and the network record have methods of their own, because publishing them takes more than a
row write. One contract suite (`tests/blockstore/store_contract.py`) runs on every backend.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

#: Raised by one whenever rows or objects change their form. Older stores are refused or migrated.
SCHEMA_VERSION: Final = 2


class Held(enum.IntEnum):
    """How an object is held."""

    ABSENT = 0
    LOOSE = 1
    CLOSED = 2


@dataclass(frozen=True, slots=True)
class Table:
    """A table of rows. `name` is `[a-z_]+` (it becomes a CQL table and an LMDB database)."""

    name: str
    doc: str


#: Every table there is. A backend creates exactly these.
TABLES: dict[str, Table] = {}


def table(name: str, doc: str) -> Table:
    """Declare a table, once, where its rows' form is defined."""
    if name in TABLES:
        raise ValueError(f"table {name} is declared twice")
    TABLES[name] = Table(name, doc)
    return TABLES[name]


META: Final = table("meta", "One row a setting of the store: schema version, network, import progress.")
HEAD_LOG: Final = table("head_log", "One row a whole head change, by sequence number (8 bytes, big endian).")
TIPSETS: Final = table("tipsets", "By tipset-key CID: height, parent, what is held, skip pointers.")
HEIGHTS: Final = table("heights", "By epoch: the keys of all tipsets seen at it, reverted ones too.")
POST: Final = table("post_state", "By tipset-key CID: state and receipts root after it, by a child's header.")
MESSAGES: Final = table("messages", "By message CID: the tipsets that include it.")
COVERAGE: Final = table("coverage", "By index name: the epoch ranges it covers; the tipsets whose events have rows.")
RECORDED: Final = table("recorded", "Answers that only the node knows, by tipset-key CID and question.")
ETH_TXS: Final = table("eth_txs", "By Ethereum transaction hash: the message's CID.")
EVENTS: Final = table("events", "Events by epoch bucket, then epoch, tipset, message and event index.")
EVENT_POSTINGS: Final = table("event_postings", "Where an emitter or topic occurs, by epoch bucket.")
FILTERS: Final = table("filters", "Installed Ethereum filters.")
FLEET: Final = table("fleet", "Followers and bridges that have registered, with their renewal counters.")
LEASE: Final = table("lease", "Who leads, under which term.")
REPORTS: Final = table(
    "reports", "What the pool of workers has done, by epoch bucket, tipset and task; ranges asked for."
)


@dataclass(slots=True)
class Batch:
    """Row writes that belong together. LMDB applies them in one transaction, Cassandra in order."""

    puts: list[tuple[Table, bytes, bytes, bytes]] = field(default_factory=list)
    deletes: list[tuple[Table, bytes, bytes]] = field(default_factory=list)

    def put(self, table: Table, partition: bytes, key: bytes, value: bytes) -> None:
        """Write one row; the last write of a row wins."""
        self.puts.append((table, partition, key, value))

    def delete(self, table: Table, partition: bytes, key: bytes) -> None:
        """Remove one row; a row that is not there is no error."""
        self.deletes.append((table, partition, key))

    def __bool__(self) -> bool:
        return bool(self.puts or self.deletes)


@dataclass(frozen=True, slots=True)
class TipsetRef:
    """A tipset as the head log names it: its epoch and the CIDs of its blocks in order, concatenated."""

    height: int
    key: bytes


@dataclass(frozen=True, slots=True)
class HeadEntry:
    """One whole head change: first the reverts (newest first), then the applies (oldest first).

    `seq` counts from 1 without gaps; `term` is the leader's; `head` is the tipset after the change;
    `f3` the finalized F3 instance if known; `visible_at` milliseconds since 1970 (0 where the store needs
    no two-step publishing).
    """

    seq: int
    term: int
    reverts: tuple[TipsetRef, ...]
    applies: tuple[TipsetRef, ...]
    head: TipsetRef
    f3: int | None = None
    visible_at: int = 0


class ObjectStore(Protocol):
    """What readers of objects use of a store."""

    async def get(self, multihash: bytes) -> bytes | None:
        """As `Store.get`."""

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """As `Store.get_many`."""

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        """As `Store.put_many`."""


@runtime_checkable
class Store(Protocol):
    """A blockstore backend. Every method may raise StoreUnavailable; writers also StoreFull."""

    #: e.g. "lmdb:///var/lib/follower"; never with credentials
    url: str

    async def close(self) -> None:
        """Close files and connections. A second call does nothing."""

    # --- objects -----------------------------------------------------------------------------------

    async def get(self, multihash: bytes) -> bytes | None:
        """The object, or None when it is absent."""

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        """The objects in the order asked for: one round trip (or one concurrent burst)."""

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        """How each object is held, in the order asked for; the bytes are not read."""

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        """Store (multihash, bytes) pairs; durable on return. The caller has verified the hashes.

        A loose put of an object that is held already changes nothing.
        """

    async def close_many(self, multihashes: Sequence[bytes]) -> None:
        """Mark held objects as closed. Errors: Missing, for one that is absent."""

    # --- rows --------------------------------------------------------------------------------------

    async def row(self, table: Table, partition: bytes, key: bytes) -> bytes | None:
        """One row's value, or None."""

    async def rows(self, table: Table, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        """The values of several (partition, key) rows in the order asked for: one burst."""

    async def scan(
        self,
        table: Table,
        partition: bytes,
        *,
        start: bytes = b"",
        end: bytes | None = None,
        reverse: bool = False,
        limit: int = 1000,
    ) -> list[tuple[bytes, bytes]]:
        """(key, value) of one partition, start <= key < end, in order (or in reverse), at most `limit`."""

    async def write(self, batch: Batch) -> None:
        """Apply a batch of row writes; durable on return.

        Rows that a leader reads, changes and writes (TIPSETS, COVERAGE, META) are fenced by the term that this store
        object has begun: what it writes after another has begun a newer one changes no row that the newer one writes. A
        backend may refuse it, and other rows of the chain (all tables but FILTERS, FLEET and LEASE) too: Fenced.
        """

    async def swap(
        self, table: Table, partition: bytes, key: bytes, expected: bytes | None, value: bytes | None
    ) -> bool:
        """Write a row (None: remove it) if its value is `expected` (None: if there is none); whether it was.

        Of several at once, from whatever process, one succeeds. Rows written so are written in no other way. A shared
        store that loses an answer looks up in the row what became of the swap. Errors: StoreUnavailable, when the
        store does not tell: then it is not known whether the row was written. Two that remove the same value while
        answers are lost may both be told that they did.
        """

    # --- head log ----------------------------------------------------------------------------------

    async def new_term(self, owner: str, after: int | None = None) -> int:
        """Begin a new leader term and fence every older one.

        Only if the newest term is `after`, where that is given (0: none yet). Errors: Fenced, when it is another.
        """

    async def append_head(self, entry: HeadEntry) -> None:
        """Append an entry: `seq` must be the last one's + 1, `term` the newest. Errors: Fenced.

        Everything put before is durable before the entry is visible.
        """

    async def head(self) -> HeadEntry | None:
        """The newest visible entry, or None in a store that was never published to."""

    async def head_entries(self, after: int, limit: int = 1000) -> list[HeadEntry]:
        """Visible entries with seq > `after`, in order."""

    async def trim_head_log(self, keep: int) -> None:
        """Forget all but the newest `keep` entries."""

    # --- whole store -------------------------------------------------------------------------------

    async def stats(self) -> dict[str, int]:
        """Cheap figures for status and metrics, e.g. objects, bytes. Never a scan."""
