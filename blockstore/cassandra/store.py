"""The shared store: a keyspace of Apache Cassandra, ScyllaDB or YugabyteDB (YCQL), for N followers on N machines.

Objects stand by multihash, rows by (partition, key), each table by its access path. Everything is read and
written at QUORUM; nothing is counted or scanned over partitions. Every value begins with a byte: 0 as it is, 1 LZ4.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

import lz4.block

from blockstore.cassandra import schema as cassandra_schema
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.compare_and_set import swap
from blockstore.cassandra.head import CassandraHeadLog, Lease, Tail
from blockstore.cassandra.session import AcsyllaSession, Forbidden, SchemaMissing, Session, burst
from blockstore.cid import verify
from blockstore.errors import BadCid, HashMismatch, Missing, SchemaMismatch, StoreUnavailable
from blockstore.store import (
    COVERAGE,
    FILTERS,
    FLEET,
    LEASE,
    META,
    SCHEMA_VERSION,
    TIPSETS,
    Batch,
    HeadEntry,
    Held,
    Table,
)
from blockstore.store_clock import wall_ms

log = logging.getLogger(__name__)

_SCHEMA_KEY: Final = b"\0schema"
#: smaller values are not compressed: LZ4 gains nothing
_SMALL: Final = 256
#: Cassandra has no empty partition key, and none over 64 KiB; no multihash is so long
_MAX_KEY: Final = 0xFFFF
#: tables whose rows promise that other rows and objects are there
_PROMISING: Final = frozenset({TIPSETS.name, COVERAGE.name, META.name})


#: tables that others than the leader write, each row by its owner or by compare-and-set
_UNFENCED: Final = frozenset({FILTERS.name, FLEET.name, LEASE.name})


def pack(data: bytes) -> bytes:
    """The stored form of a value: compressed when LZ4 saves at least a tenth."""
    if len(data) >= _SMALL:
        small = lz4.block.compress(data)
        if len(small) < len(data) * 9 // 10:
            return b"\1" + bytes(small)
    return b"\0" + data


def unpack(value: bytes) -> bytes:
    """The inverse of `pack`."""
    return bytes(lz4.block.decompress(value[1:])) if value[0] else value[1:]


class CassandraStore:
    """A Store in one keyspace. Made by `open`; bound to the event loop that opened it."""

    def __init__(self, session: Session, address: CassandraAddress, head_log: CassandraHeadLog, readonly: bool) -> None:
        self.url = address.url
        self._session = session
        self._keyspace = address.keyspace
        self._log = head_log
        self._readonly = readonly
        self._closed = False
        self._written_at = 0
        objects = f"{address.keyspace}.objects"
        self._get = f"SELECT d FROM {objects} WHERE m = ?"
        self._held = f"SELECT m, c FROM {objects} WHERE m = ?"
        self._put_loose = f"INSERT INTO {objects} (m, d) VALUES (?, ?)"
        self._put_closed = f"INSERT INTO {objects} (m, d, c) VALUES (?, ?, true)"
        self._close_one = f"UPDATE {objects} SET c = true WHERE m = ?"
        loose = f"{address.keyspace}.{cassandra_schema.LOOSE}"
        self._get_apart = f"SELECT d FROM {loose} WHERE m = ?"
        self._put_apart = f"INSERT INTO {loose} (m, d) VALUES (?, ?)"
        #: whether this role may not write the table `objects`
        self._restricted = False

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        readonly: bool = False,
        delta_ms: int = 500,
        epsilon_ms: int = 50,
        replication: int = 1,
        may_create_tables: bool = True,
    ) -> CassandraStore:
        """A writer creates the tables where there are none and `may_create_tables` allows it.

        Errors: StoreUnavailable, SchemaMismatch, Forbidden, StoreError.
        """
        address = CassandraAddress.parse(url)
        session = await AcsyllaSession.open(address)

        async def clock() -> int:
            return await store.clock_ms()

        head_log = CassandraHeadLog(session, address.keyspace, delta_ms, epsilon_ms, store_clock=clock)
        store = cls(session, address, head_log, readonly=readonly)
        try:
            await store._check(address, replication, may_create_tables and not readonly)
        except BaseException:
            await session.close()
            raise
        return store

    async def _check(self, address: CassandraAddress, replication: int, may_create: bool) -> None:
        try:
            made = await self.row(META, b"", _SCHEMA_KEY)
        except SchemaMissing:
            made = None
        if made is None:
            if not may_create:
                raise StoreUnavailable(f"{self.url} has not been made yet")
            await asyncio.to_thread(cassandra_schema.apply, address, replication)
            await self._log.make()
            batch = Batch()
            batch.put(META, b"", _SCHEMA_KEY, b"%d" % SCHEMA_VERSION)
            await self.write(batch)
        elif int(made) != SCHEMA_VERSION:
            age = "newer" if int(made) > SCHEMA_VERSION else "older"
            raise SchemaMismatch(
                f"{self.url} has schema {int(made)}, {age} than {SCHEMA_VERSION} which this version writes"
            )

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._session.close()

    # --- objects -----------------------------------------------------------------------------------

    async def get(self, multihash: bytes) -> bytes | None:
        if not 0 < len(multihash) <= _MAX_KEY:
            return None
        rows = await self._execute(self._get, [bytes(multihash)])
        return unpack(rows[0][0]) if rows else await self._apart(bytes(multihash))

    async def _apart(self, multihash: bytes) -> bytes | None:
        """A loose object that a follower wrote, if its hash is right."""
        rows = await self._execute(self._get_apart, [multihash])
        if not rows:
            return None
        try:
            data = unpack(rows[0][0])
            verify(multihash, data)
        except (HashMismatch, BadCid, lz4.block.LZ4BlockError, IndexError) as error:
            log.error("a loose object is ignored, its hash is wrong: %s", error)
            return None
        return data

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        return await burst(self.get, multihashes)

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        return await burst(self._held_one, multihashes)

    async def _held_one(self, multihash: bytes) -> Held:
        if not 0 < len(multihash) <= _MAX_KEY:
            return Held.ABSENT
        rows = await self._execute(self._held, [bytes(multihash)])
        if rows:
            return Held.CLOSED if rows[0][1] else Held.LOOSE
        return Held.ABSENT if await self._apart(bytes(multihash)) is None else Held.LOOSE

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        self._writable()
        if not closed:
            await burst(self._put_loose_one, objects)
            return
        pairs = list(objects)
        if len(pairs) == 1:
            await self._put_one(self._put_closed, pairs[0])
            return
        # one may link to another: none is marked as closed before all are durable
        await burst(lambda pair: self._put_one(self._put_loose, pair), pairs)
        await burst(self._mark_closed, dict.fromkeys(pair[0] for pair in pairs))

    async def put_closed(self, objects: Iterable[tuple[bytes, bytes]]) -> None:
        """Store closed objects in any order, one statement each. What they link to is durable already."""
        self._writable()
        await burst(lambda pair: self._put_one(self._put_closed, pair), objects)

    async def _put_one(self, cql: str, pair: tuple[bytes, bytes]) -> None:
        await self._execute(cql, [bytes(pair[0]), pack(pair[1])])

    async def _put_loose_one(self, pair: tuple[bytes, bytes]) -> None:
        if not self._restricted:
            try:
                await self._put_one(self._put_loose, pair)
                return
            except Forbidden:
                # a follower's role writes to a table of its own
                self._restricted = True
        await self._put_one(self._put_apart, pair)

    async def mark_closed(self, multihashes: Iterable[bytes]) -> None:
        """Set the closed flag on objects that this instance wrote, one statement each. Does not look for them."""
        self._writable()
        await burst(self._mark_closed, dict.fromkeys(multihashes))

    async def _mark_closed(self, multihash: bytes) -> None:
        await self._execute(self._close_one, [bytes(multihash)])

    async def close_many(self, multihashes: Sequence[bytes]) -> None:
        self._writable()
        # an UPDATE would make a row that is absent: look first (no object is ever removed)
        rows = await burst(lambda mh: self._execute(self._held, [bytes(mh)]), multihashes)
        loose = [mh for mh, found in zip(multihashes, rows, strict=True) if found and not found[0][1]]
        apart = [mh for mh, found in zip(multihashes, rows, strict=True) if not found]
        copies: list[tuple[bytes, bytes]] = []
        for multihash, data in zip(apart, await burst(self._apart, apart), strict=True):
            if data is None:
                raise Missing(multihash)
            copies.append((multihash, data))
        await burst(lambda pair: self._put_one(self._put_loose, pair), copies)
        await burst(self._mark_closed, dict.fromkeys([*loose, *apart]))

    # --- rows --------------------------------------------------------------------------------------

    async def row(self, table: Table, partition: bytes, key: bytes) -> bytes | None:
        cql = f"SELECT v FROM {self._keyspace}.{table.name} WHERE p = ? AND k = ?"
        rows = await self._execute(cql, [_partition(partition), bytes(key)])
        return unpack(rows[0][0]) if rows else None

    async def rows(self, table: Table, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        return await burst(lambda pair: self.row(table, *pair), keys)

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
        if end is not None and end <= start:
            return []
        order = "DESC" if reverse else "ASC"
        below = "" if end is None else " AND k < ?"
        cql = f"SELECT k, v FROM {self._keyspace}.{table.name} WHERE p = ? AND k >= ?{below} ORDER BY k {order} LIMIT ?"
        values: list[Any] = [_partition(partition), bytes(start), limit]
        if end is not None:
            values.insert(2, bytes(end))
        return [(key, unpack(value)) for key, value in await self._execute(cql, values)]

    async def write(self, batch: Batch) -> None:
        """Rows that promise nothing at once, then the others in order, a table's at once; the last write of a row wins.

        So a batch of which a part was lost leaves no row that says of others that they are there. Rows of the chain
        carry a write time of the leader's term: what a former leader still writes loses, in whatever order it arrives.
        """
        self._writable()
        time = self._write_time()
        written = {(table.name, p, k): v for table, p, k, v in batch.puts}
        gone = {(t.name, p, k) for t, p, k in batch.deletes} - written.keys()
        await burst(lambda row: self._delete(row, time), sorted(gone))
        await burst(
            lambda row: self._put(row, time),
            [(*row, value) for row, value in written.items() if row[0] not in _PROMISING],
        )
        run: list[tuple[str, bytes, bytes, bytes]] = []
        for (name, partition, key), value in written.items():
            if name not in _PROMISING:
                continue
            if run and run[-1][0] != name:
                await burst(lambda row: self._put(row, time), run)
                run = []
            run.append((name, partition, key, value))
        await burst(lambda row: self._put(row, time), run)

    def _write_time(self) -> int:
        """Of a batch: above every one of this process before, and of every older term.

        Without a term it is the wall clock in milliseconds, not in microseconds: below every term's.
        """
        self._written_at = max(self._written_at + 1, self._log.fence or wall_ms())
        return self._written_at

    async def _put(self, row: tuple[str, bytes, bytes, bytes], time: int) -> None:
        name, partition, key, value = row
        cql = f"INSERT INTO {self._keyspace}.{name} (p, k, v) VALUES (?, ?, ?)"
        values: list[Any] = [_partition(partition), bytes(key), pack(value)]
        if name not in _UNFENCED:
            cql += " USING TIMESTAMP ?"
            values.append(time)
        await self._execute(cql, values)

    async def _delete(self, row: tuple[str, bytes, bytes], time: int) -> None:
        name, partition, key = row
        fenced = name not in _UNFENCED
        cql = f"DELETE FROM {self._keyspace}.{name}{' USING TIMESTAMP ?' if fenced else ''} WHERE p = ? AND k = ?"
        await self._execute(cql, [*([time] if fenced else []), _partition(partition), bytes(key)])

    async def swap(
        self, table: Table, partition: bytes, key: bytes, expected: bytes | None, value: bytes | None
    ) -> bool:
        self._writable()
        name = f"{self._keyspace}.{table.name}"
        return await swap(self._session, name, _partition(partition), bytes(key), expected, value)

    # --- head log ----------------------------------------------------------------------------------

    async def new_term(self, owner: str, after: int | None = None) -> int:
        self._writable()
        return await self._log.new_term(owner, after)

    async def append_head(self, entry: HeadEntry) -> None:
        self._writable()
        await self._log.append(entry)

    def publish_delay_ms(self) -> int:
        """Milliseconds to wait before the next head change is published, so that it shows within delta."""
        return self._log.publish_delay_ms()

    async def head(self) -> HeadEntry | None:
        return await self._log.head()

    async def head_entries(self, after: int, limit: int = 1000) -> list[HeadEntry]:
        return await self._log.entries(after, limit)

    async def head_tail(self, limit: int = 2) -> Tail:
        """The newest entries, and whether one is prepared behind them: for the bounded-staleness rule."""
        return await self._log.tail(limit)

    async def clock_ms(self) -> int:
        """The clock of one of the store's nodes, milliseconds since 1970."""
        return int((await self._execute("SELECT toUnixTimestamp(now()) FROM system.local", []))[0][0])

    def epsilon_ms(self) -> int:
        """The most that a clock may differ from this store's."""
        return self._log.epsilon_ms

    async def trim_head_log(self, keep: int) -> None:
        self._writable()
        await self._log.trim(keep)

    async def renew_lease(self, term: int, renewals: int) -> None:
        """Count the lease of `term` up to `renewals`. Errors: Fenced."""
        self._writable()
        await self._log.renew(term, renewals)

    async def lease(self) -> Lease:
        """Who leads."""
        return await self._log.lease()

    # --- whole store -------------------------------------------------------------------------------

    async def stats(self) -> dict[str, int]:
        return {"head_seq": await self._log.last()}

    # --- within ------------------------------------------------------------------------------------

    def _writable(self) -> None:
        if self._closed or self._readonly:
            raise StoreUnavailable(f"{self.url} is {'closed' if self._closed else 'open read-only'}")

    async def _execute(self, cql: str, values: list[Any]) -> list[list[Any]]:
        if self._closed:
            raise StoreUnavailable(f"{self.url} is closed")
        return await self._session.execute(cql, values)


def _partition(partition: bytes) -> bytes:
    # an empty partition key is refused by Cassandra
    return b"p" + partition
