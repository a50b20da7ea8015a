"""The shared store: a keyspace of Apache Cassandra, ScyllaDB or YugabyteDB (YCQL), for N followers on N machines.

Objects stand by multihash, rows by (partition, key), each table by its access path. Everything is read and
written at QUORUM; nothing is counted or scanned over partitions. Every value begins with a byte that says its form
(`blockstore.cassandra.values`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Final

from blockstore.cassandra import migration
from blockstore.cassandra import schema as cassandra_schema
from blockstore.cassandra.address import CassandraAddress
from blockstore.cassandra.compare_and_set import MOST_VALUE, swap
from blockstore.cassandra.generations import Generations
from blockstore.cassandra.head import CassandraHeadLog, Lease, Tail
from blockstore.cassandra.place import CassandraPlace, may_be_held, put_parts, put_value, whole_value
from blockstore.cassandra.probe import probe
from blockstore.cassandra.schema import BY_TERM, SCHEMA_VERSION, table_name
from blockstore.cassandra.session import AcsyllaSession, Forbidden, SchemaMissing, Session, burst
from blockstore.cassandra.values import MAX_CELL, ROW_PARTS, pack, unpack
from blockstore.cid import verify
from blockstore.errors import SchemaMismatch, StoreError, StoreUnavailable
from blockstore.generations import LAYOUT_KEY, Layout, close_in, held_for
from blockstore.store import META, Batch, HeadEntry, Held, Table

log = logging.getLogger(__name__)

_SCHEMA_KEY: Final = b"\0schema"
#: the schema whose objects are all in one table
_WITHOUT_GENERATIONS: Final = 2
#: what the server has shown that it does, by `probe`
_PROBE_KEY: Final = b"\0probe"


class CassandraStore:
    """A Store in one keyspace. Made by `open`; bound to the event loop that opened it."""

    def __init__(self, session: Session, address: CassandraAddress, head_log: CassandraHeadLog, readonly: bool) -> None:
        self.url = address.url
        self._session = session
        self._keyspace = address.keyspace
        self._log = head_log
        self._readonly = readonly
        self._closed = False
        #: statements that remove the tables of an older version, where `open` has copied them
        self.copied_from: list[str] = []

        def layout_row() -> Awaitable[bytes | None]:
            return self.row(META, b"", LAYOUT_KEY)

        self._generations = Generations(session, address, layout_row)
        loose = f"{address.keyspace}.{cassandra_schema.LOOSE}"
        self._get_apart = f"SELECT d FROM {loose} WHERE m = ?"
        self._put_apart = f"INSERT INTO {loose} (m, d) VALUES (?, ?)"
        #: whether this role may not write the tables of objects
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
        may_migrate: bool = False,
    ) -> CassandraStore:
        """A writer creates the tables where there are none and `may_create_tables` allows it, and tries the server.
        Tables of an older version are refused, or with `may_migrate` copied.

        Errors: StoreUnavailable, SchemaMismatch, Forbidden, StoreError.
        """
        address = CassandraAddress.parse(url)
        session = await AcsyllaSession.open(address)

        async def clock() -> int:
            return await store.clock_ms()

        head_log = CassandraHeadLog(session, address.keyspace, delta_ms, epsilon_ms, store_clock=clock)
        store = cls(session, address, head_log, readonly=readonly)
        try:
            await store._check(address, replication, may_create_tables and not readonly, may_migrate)
        except BaseException:
            await session.close()
            raise
        return store

    async def _check(self, address: CassandraAddress, replication: int, may_create: bool, may_migrate: bool) -> None:
        made = await self._meta(_SCHEMA_KEY)
        if made is None:
            older = await self._is_older()
            if older and not may_migrate:
                raise SchemaMismatch(
                    f"{self.url} was made by an older version of this program: stop its bridges, then run "
                    f"`follower schema --store {self.url} --apply`"
                )
            if not may_create:
                raise StoreUnavailable(f"{self.url} has not been made yet")
            await asyncio.to_thread(cassandra_schema.apply, address, replication)
            if older:
                await self._log.make(await asyncio.to_thread(migration.copy_tables, address, self._log.delta_ms))
                self.copied_from = migration.old_tables(self._keyspace)
            else:
                await self._log.make()
            await self._probe()
            batch = Batch()
            batch.put(META, b"", _SCHEMA_KEY, b"%d" % SCHEMA_VERSION)
            await self.write(batch)
        elif int(made) == _WITHOUT_GENERATIONS and may_create:
            # all that it holds is lasting; what comes goes into generations
            await asyncio.to_thread(cassandra_schema.apply, address, replication)
            # whichever term wrote the older number, it must not show again
            cql = f"DELETE FROM {self._keyspace}.{table_name(META.name)} WHERE p = ? AND k = ?"
            await self._execute(cql, [_partition(b""), _SCHEMA_KEY])
            await self.write(Batch([(META, b"", _SCHEMA_KEY, b"%d" % SCHEMA_VERSION)]))
        elif int(made) != SCHEMA_VERSION:
            age = "newer" if int(made) > SCHEMA_VERSION else "older"
            raise SchemaMismatch(
                f"{self.url} has schema {int(made)}, {age} than {SCHEMA_VERSION} which this version writes"
            )
        elif may_create:
            if await self._meta(_PROBE_KEY) is None:
                # tables that were made by hand
                await self._probe()
            await self._add_tables(address)
        await self._generations.follow()

    async def _meta(self, key: bytes) -> bytes | None:
        try:
            return await self.row(META, b"", key)
        except SchemaMissing:
            return None

    async def _add_tables(self, address: CassandraAddress) -> None:
        """Make the tables of rows that are not there: a store of this schema may be older than they are."""
        cql = f"SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{self._keyspace}'"
        there = {row[0] for row in await self._execute(cql, [])}
        wanted = cassandra_schema.row_statements(self._keyspace)
        lacking = [statement for name, statement in wanted.items() if name not in there]
        if lacking:
            await asyncio.to_thread(cassandra_schema.run, address, lacking)

    async def _is_older(self) -> bool:
        """Whether the tables of schema 1 are there."""
        try:
            cql = f"SELECT v FROM {self._keyspace}.{META.name} WHERE p = ? AND k = ?"
            return bool(await self._execute(cql, [_partition(b""), _SCHEMA_KEY]))
        except SchemaMissing:
            return False

    async def _probe(self) -> None:
        """Try the server with a log of its own, once a store. Errors: StoreError."""
        await probe(self._session, self._keyspace)
        await self.write(Batch([(META, b"", _PROBE_KEY, b"passed")]))

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._session.close()

    # --- generations -------------------------------------------------------------------------------

    @property
    def looks(self) -> int:
        return self._generations.looks

    @property
    def current_generation(self) -> int:
        return self._generations.layout.current

    async def layout(self) -> Layout:
        await self._generations.follow()
        return self._generations.layout

    def place(self, number: int) -> CassandraPlace:
        return self._generations.place(number)

    async def make_generation(self, number: int) -> None:
        self._writable()
        await self._generations.make(number)

    async def drop_generation(self, number: int) -> None:
        self._writable()
        await self._generations.drop(number)

    async def generations(self) -> list[int]:
        return await self._generations.numbers()

    async def drop_partitions(self, table: Table, partitions: Sequence[bytes]) -> None:
        self._writable()
        cql = f"DELETE FROM {self._keyspace}.{table_name(table.name)} WHERE p = ?"
        await self._session.write_many(cql, ([_partition(partition)] for partition in partitions))

    # --- objects -----------------------------------------------------------------------------------

    async def get(self, multihash: bytes) -> bytes | None:
        self._check_open()
        if not may_be_held(multihash):
            return None
        return await self._generations.find(multihash, self._apart)

    async def _apart(self, multihash: bytes) -> bytes | None:
        """A loose object that a follower wrote, if its hash is right."""
        rows = await self._execute(self._get_apart, [bytes(multihash)])
        if not rows:
            return None
        try:
            data = unpack(await whole_value(self._session, self._get_apart, rows[0][0]))
            verify(multihash, data)
        except StoreUnavailable:
            raise
        except StoreError as error:
            log.error("a loose object is ignored, its hash is wrong: %s", error)
            return None
        return data

    async def get_many(self, multihashes: Sequence[bytes]) -> list[bytes | None]:
        return await burst(self.get, multihashes)

    async def held_many(self, multihashes: Sequence[bytes]) -> list[Held]:
        self._check_open()
        current = self._generations.current
        return await held_for(current, self._generations.lasting, self._held_elsewhere, multihashes)

    async def _held_elsewhere(self, multihashes: Sequence[bytes]) -> list[Held]:
        previous = self._generations.previous
        held = await previous.held_many(multihashes) if previous else [Held.ABSENT] * len(multihashes)
        absent = [at for at, how in enumerate(held) if not how]
        for at, data in zip(absent, await burst(self._apart_of, [multihashes[at] for at in absent]), strict=True):
            held[at] = Held.LOOSE if data is not None else Held.ABSENT
        return held

    async def _apart_of(self, multihash: bytes) -> bytes | None:
        return await self._apart(multihash) if may_be_held(multihash) else None

    async def put_many(self, objects: Iterable[tuple[bytes, bytes]], *, closed: bool) -> None:
        self._writable()
        if closed:
            await self._generations.current.put_many(objects, closed=True)
        else:
            await burst(self._put_loose_one, objects)

    async def put_closed(self, objects: Iterable[tuple[bytes, bytes]]) -> None:
        """Store closed objects in any order, one statement each. What they link to is durable already."""
        self._writable()
        await self._generations.current.put_closed(objects)

    async def _put_loose_one(self, pair: tuple[bytes, bytes]) -> None:
        key, value = bytes(pair[0]), pack(pair[1])
        if not self._restricted:
            put = self._generations.current.put_cql
            try:
                await put_value(self._session, put, put, key, value)
                return
            except Forbidden:
                # a follower's role writes to a table of its own
                self._restricted = True
        await put_value(self._session, self._put_apart, self._put_apart, key, value)

    async def mark_closed(self, multihashes: Iterable[bytes]) -> None:
        """Set the closed flag on objects that this instance wrote, one statement each. Does not look for them."""
        self._writable()
        await self._generations.current.mark_closed(multihashes)

    async def close_many(self, multihashes: Sequence[bytes]) -> None:
        self._writable()
        await close_in(self._generations.current, self.get_many, multihashes)

    # --- rows --------------------------------------------------------------------------------------

    async def row(self, table: Table, partition: bytes, key: bytes) -> bytes | None:
        cql = f"SELECT v FROM {self._keyspace}.{table_name(table.name)} WHERE p = ? AND k = ?"
        values: list[Any] = [_partition(partition), bytes(key)]
        if table.name in BY_TERM:
            # the newest term's comes first
            cql += " LIMIT ?"
            values.append(1)
        rows = await self._execute(cql, values)
        return await self._value(rows[0][0]) if rows else None

    async def _value(self, value: bytes) -> bytes | None:
        """What a row's cell says. A row that a term removed is an empty cell."""
        if not value:
            return None
        return unpack(await whole_value(self._session, self._generations.lasting.get_cql, value))

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
        rows = self._newest_rows if table.name in BY_TERM else self._page
        found = await rows(table.name, partition, bytes(start), end, reverse, limit)
        return [(key, await self._value(value) or b"") for key, value in found]

    async def _page(
        self, name: str, partition: bytes, start: bytes, end: bytes | None, reverse: bool, limit: int
    ) -> list[list[Any]]:
        order = "DESC" if reverse else "ASC"
        below = "" if end is None else " AND k < ?"
        cql = (
            f"SELECT k, v FROM {self._keyspace}.{table_name(name)} "
            f"WHERE p = ? AND k >= ?{below} ORDER BY k {order} LIMIT ?"
        )
        values: list[Any] = [_partition(partition), start, limit]
        if end is not None:
            values.insert(2, bytes(end))
        return await self._execute(cql, values)

    async def _newest_rows(
        self, name: str, partition: bytes, start: bytes, end: bytes | None, reverse: bool, limit: int
    ) -> list[list[Any]]:
        """As `_page`, of each key the row that counts, without those that were removed."""
        found: dict[bytes, bytes] = {}
        size = limit + 1
        while True:
            page = await self._page(name, partition, start, end, reverse, size)
            last = page[-1][0] if len(page) == size else None
            for key, value in page:
                # in order the newest of a key comes first, in reverse it comes last
                if key != last and (reverse or key not in found):
                    found[key] = value
            living = [[key, value] for key, value in found.items() if value]
            if last is None or len(living) >= limit:
                return living[:limit]
            # the last key may go on behind the page: it is read again, whole
            if page[0][0] == last:
                size *= 2
            if reverse:
                end = last + b"\0"
            else:
                start = last

    async def write(self, batch: Batch) -> None:
        """Rows that promise nothing at once, then the others in order, a table's at once; the last write of a row wins.

        So a batch of which a part was lost leaves no row that says of others that they are there. Rows that a leader
        reads, changes and writes are written under its term, beside those of older terms: what a former leader still
        writes is not read, in whatever order it arrives. Other rows of the chain are the same whoever writes them.
        """
        self._writable()
        written = {(table.name, p, k): v for table, p, k, v in batch.puts}
        gone = {(t.name, p, k) for t, p, k in batch.deletes} - written.keys()
        await burst(self._delete, sorted(gone))
        await burst(self._put, [(*row, value) for row, value in written.items() if row[0] not in BY_TERM])
        run: list[tuple[str, bytes, bytes, bytes]] = []
        for (name, partition, key), value in written.items():
            if name not in BY_TERM:
                continue
            if run and run[-1][0] != name:
                await burst(self._put, run)
                run = []
            run.append((name, partition, key, value))
        await burst(self._put, run)

    async def _put(self, row: tuple[str, bytes, bytes, bytes]) -> None:
        name, partition, key, data = row
        value = pack(data)
        if len(value) > MAX_CELL:
            digest = hashlib.sha256(value).digest()
            value = await put_parts(self._session, self._generations.lasting.put_cql, ROW_PARTS + digest, value)
        await self._put_value(name, partition, key, value)

    async def _put_value(self, name: str, partition: bytes, key: bytes, value: bytes) -> None:
        if name in BY_TERM:
            cql = f"INSERT INTO {self._keyspace}.{table_name(name)} (p, k, t, v) VALUES (?, ?, ?, ?)"
            await self._execute(cql, [_partition(partition), bytes(key), self._order(), value])
        else:
            cql = f"INSERT INTO {self._keyspace}.{name} (p, k, v) VALUES (?, ?, ?)"
            await self._execute(cql, [_partition(partition), bytes(key), value])

    def _order(self) -> int:
        """Which of the rows of a key counts: the newest term's, and of those what was written after the last time-out.

        YugabyteDB keeps what arrives last: a write that timed out may land on what was written after it.
        """
        return self._log.term << 32 | self._session.unsettled

    async def _delete(self, row: tuple[str, bytes, bytes]) -> None:
        name, partition, key = row
        if name in BY_TERM:
            # an older term's row would show again
            await self._put_value(name, partition, key, b"")
            return
        cql = f"DELETE FROM {self._keyspace}.{name} WHERE p = ? AND k = ?"
        await self._execute(cql, [_partition(partition), bytes(key)])

    async def swap(
        self, table: Table, partition: bytes, key: bytes, expected: bytes | None, value: bytes | None
    ) -> bool:
        self._writable()
        if table.name in BY_TERM or (value is not None and len(value) > MOST_VALUE):
            raise StoreError(f"rows of {table.name}, or values of this size, are not compared and set")
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

    async def head_tail(self, limit: int = 1) -> Tail:
        """The newest stamped entries, and whether one is prepared behind them: for the bounded-staleness rule."""
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
        self._check_open()
        return await self._session.execute(cql, values)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable(f"{self.url} is closed")


def _partition(partition: bytes) -> bytes:
    # an empty partition key is refused by Cassandra
    return b"p" + partition
