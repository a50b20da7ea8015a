"""The head log in Cassandra: one row says what the head is, and each compare-and-set is on that row.

Publishing an entry takes two compare-and-sets: no follower shows it before all may. The first, on (term, last sequence
number, its stamp), *prepares* the entry. Only when that is settled the second stamps
`visible_at = max(now + delta, previous + 2 epsilon)`. A new term stamps what an older one left prepared before
anything else.

A leader may die between the two steps. So a prepared entry holds when it was prepared, as a negative `visible_at`, and
becomes visible by itself `delta + STAMP_WITHIN_MS` after that. A stamp is never later: the leader whose stamp would be,
or the next one, waits until the entry is visible everywhere and then stamps that moment.

The head row holds the newest entry. Before the row goes on to the next one, its entry is written to the log, a row
an entry: its content was decided by compare-and-set, so whoever writes it, however late, writes the same. The row
exists always and all its columns are regular (ADR 0012 says which servers need that).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from blockstore.cassandra.session import OutcomeUnknown, Session
from blockstore.cassandra.values import MAX_CELL, ROW_PARTS, cut, is_cut, joined, parts_of
from blockstore.errors import Fenced, StoreError, StoreUnavailable
from blockstore.head_log import decode_entry, encode_entry
from blockstore.store import HeadEntry
from blockstore.store_clock import StoreClock, wall_ms

#: the table of head rows, one a chain; and of entries that are no longer the newest
HEAD: Final = "head"
ENTRIES: Final = "head_entries"
#: the row of the chain that a keyspace holds
CHAIN: Final = b"head"
#: entries of a partition of the log: what was trimmed burdens no reader of another partition
BUCKET: Final = 4096

#: a prepared entry that has no stamp for so long (milliseconds) becomes visible without one, delta later
STAMP_WITHIN_MS: Final = 1000
#: tries of a compare-and-set that times out
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Tail:
    """The newest end of the log: stamped entries (newest last), and whether one behind them is only prepared.

    `unstamped`: that one, with the `visible_at` that it gets if it is never stamped. `lease`: term and renewal counter
    of the leader, where the read showed them.
    """

    entries: tuple[HeadEntry, ...]
    prepared: bool
    lease: tuple[int, int] | None = None
    unstamped: HeadEntry | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Who leads. Standbys watch `renewals` stand still by their own clock; nobody compares clocks."""

    term: int
    owner: str
    renewals: int


@dataclass(frozen=True, slots=True)
class HeadRow:
    """The head row. `entry` (encoded) has number `last`; `visible_at` is its stamp, or minus when it was prepared.

    `previous` is the stamp of the entry before it. A new log has `last` 0 and no entry.
    """

    term: int
    last: int
    owner: bytes
    renewals: int
    entry: bytes
    visible_at: int
    previous: int

    @property
    def is_prepared(self) -> bool:
        """Whether the newest entry waits for its stamp."""
        return self.visible_at < 0


class CassandraHeadLog:
    """Publishing and reading the log of one keyspace. `delta_ms` and `epsilon_ms` are the design's δ and ε.

    With `store_clock`, nothing is stamped by a clock (`now`) that may be more than ε from it: ClockOff then.
    `chain` names the row: another than `CHAIN` is a log of its own, to try a server with.
    """

    def __init__(
        self,
        session: Session,
        keyspace: str,
        delta_ms: int,
        epsilon_ms: int,
        now: Callable[[], int] = wall_ms,
        store_clock: Callable[[], Awaitable[int]] | None = None,
        chain: bytes = CHAIN,
    ) -> None:
        self._session = session
        self.delta_ms = delta_ms
        self.epsilon_ms = epsilon_ms
        self._now = now
        self._clock = None if store_clock is None else StoreClock(store_clock, epsilon_ms, now)
        self._chain = chain
        #: the term that was begun here; 0 before
        self.term = 0
        #: the newest stamp that is known here
        self._stamped = 0
        #: the entry whose append had an unknown outcome; 0: none
        self._left = 0
        #: the head row as the last append here left it
        self._row: HeadRow | None = None
        #: the last tail that was read, and what the row said then: its term, last number and stamp
        self._seen: tuple[tuple[int, int, int], Tail] | None = None
        head, log = f"{keyspace}.{HEAD}", f"{keyspace}.{ENTRIES}"
        columns = "term, last, owner, renewals, entry, visible_at, previous"
        # a compare-and-set also writes what it compares: whole rows, on every server
        self._init = f"INSERT INTO {head} (p, {columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS"
        self._take = f"UPDATE {head} SET term = ?, owner = ?, renewals = 0 WHERE p = ? IF term = ?"
        self._renew = f"UPDATE {head} SET term = ?, renewals = ? WHERE p = ? IF term = ?"
        self._prepare = (
            f"UPDATE {head} SET term = ?, last = ?, entry = ?, visible_at = ?, previous = ? "
            "WHERE p = ? IF term = ? AND last = ? AND visible_at = ?"
        )
        self._stamp = (
            f"UPDATE {head} SET term = ?, last = ?, visible_at = ? "
            "WHERE p = ? IF term = ? AND last = ? AND visible_at = ?"
        )
        self._state = f"SELECT {columns} FROM {head} WHERE p = ?"
        self._poll = f"SELECT term, last, visible_at, renewals FROM {head} WHERE p = ?"
        self._forget = f"DELETE FROM {head} WHERE p = ? IF term = ?"
        self._log = f"INSERT INTO {log} (p, seq, entry, visible_at) VALUES (?, ?, ?, ?)"
        self._between = (
            f"SELECT seq, entry, visible_at FROM {log} WHERE p = ? AND seq > ? AND seq < ? ORDER BY seq ASC LIMIT ?"
        )
        self._any = f"SELECT seq FROM {log} WHERE p = ? LIMIT ?"
        self._trim = f"DELETE FROM {log} WHERE p = ? AND seq <= ?"
        self._drop = f"DELETE FROM {log} WHERE p = ?"
        self._put_part = f"INSERT INTO {keyspace}.objects (m, d) VALUES (?, ?)"
        self._get_part = f"SELECT d FROM {keyspace}.objects WHERE m = ?"

    # --- leading -----------------------------------------------------------------------------------

    async def make(self, state: HeadRow | None = None) -> None:
        """Write the first state of a log (`state`: not an empty one); one that is there stays as it is."""
        s = state or HeadRow(0, 0, b"", 0, b"", 0, 0)
        values = [self._chain, s.term, s.last, s.owner, s.renewals, s.entry, s.visible_at, s.previous]
        for tried in range(_TRIES):
            await _pause(tried)
            with contextlib.suppress(OutcomeUnknown):
                await self._cas(self._init, values)
                return
        raise StoreUnavailable("the head log cannot be made: its writes time out")

    async def new_term(self, owner: str, after: int | None = None) -> int:
        """Fence every older term, then stamp what one of them left prepared. `term` is this one from then on.

        Errors: Fenced, when `after` is given and is not the newest term: another bridge was faster.
        """
        mark = f"{owner}\0{secrets.token_hex(8)}".encode()
        for tried in range(_TRIES * 4):
            await _pause(tried)
            row = await self._read()
            if row.owner != mark:  # else: a try that timed out was applied after all
                if after is not None and row.term != after:
                    raise Fenced(f"term {row.term} has begun meanwhile, after term {after}")
                try:
                    if not await self._cas(self._take, [row.term + 1, mark, self._chain, row.term]):
                        continue
                except OutcomeUnknown:
                    continue
                # an older term may have gone on until now
                row = await self._read()
                if row.owner != mark:
                    raise Fenced(f"term {row.term} has begun meanwhile")
            if row.is_prepared:
                row = await self._publish(row, row.term)
            self.term, self._row = row.term, row
            return row.term
        raise StoreUnavailable("the lease is contended, or its writes time out")

    async def renew(self, term: int, renewals: int) -> None:
        """Count the lease up. Errors: Fenced when another term exists."""
        for tried in range(_TRIES):
            await _pause(tried)
            with contextlib.suppress(OutcomeUnknown):
                if await self._cas(self._renew, [term, renewals, self._chain, term]):
                    return
                raise Fenced(f"term {term} has ended")
        raise StoreUnavailable("the lease cannot be renewed: its writes time out")

    async def lease(self) -> Lease:
        """Who leads now."""
        row = await self._read(serial=False)
        return Lease(row.term, row.owner.split(b"\0")[0].decode(), row.renewals)

    # --- publishing --------------------------------------------------------------------------------

    async def append(self, entry: HeadEntry) -> None:
        """Prepare, then stamp. A call again after StoreUnavailable goes on where the first one stopped.

        Where that one left another entry of this number, it is published and StoreUnavailable raised: the caller
        reads the log again, and goes on from there. Errors: Fenced, StoreUnavailable.
        """
        was_left, self._left = self._left, entry.seq
        blob = await self._stored(encode_entry(replace(entry, visible_at=0)))
        row, self._row = self._row, None
        if row is not None and (row.term, row.last) != (entry.term, entry.seq - 1):
            row = None
        for tried in range(_TRIES):
            await _pause(tried)
            row = row or await self._read()
            if row.term == entry.term and row.last == entry.seq == was_left:
                break
            if (row.term, row.last) != (entry.term, entry.seq - 1):
                self._left = 0
                raise Fenced(f"entry {entry.seq} of term {entry.term}: the log is at {row.last}, term {row.term}")
            if row.is_prepared:
                row = await self._publish(row, entry.term)
            await self._write_entry(row)
            wanted = replace(row, last=entry.seq, entry=blob, visible_at=-self._now(), previous=row.visible_at)
            values = [wanted.term, wanted.last, wanted.entry, wanted.visible_at, wanted.previous]
            try:
                if await self._cas(self._prepare, [*values, self._chain, row.term, row.last, row.visible_at]):
                    row = wanted
                    break
            except OutcomeUnknown:
                was_left = entry.seq
            # not applied, or not known: the row says which, and may change its mind once more
            row = None
        else:
            raise StoreUnavailable(f"entry {entry.seq} cannot be prepared: its writes time out")
        if row.is_prepared:
            row = await self._publish(row, entry.term)
        self._left = 0
        self._row = row
        if row.entry != blob:
            raise StoreUnavailable(f"entry {entry.seq} had been prepared before, as another: it is published now")

    async def _publish(self, row: HeadRow, term: int) -> HeadRow:
        """Stamp the entry of `row`, known to be prepared; the row then. Errors: Fenced, ClockOff, StoreUnavailable."""
        if self._clock is not None:
            await self._clock.require_accurate()
        settled_at = self._now()
        latest = self._visible_at(row)
        for tried in range(_TRIES):
            await _pause(tried)
            # taken after the prepare was settled: what a follower's horizon rests on
            visible_at = max(self._now() + self.delta_ms, row.previous + 2 * self.epsilon_ms)
            if visible_at > latest:
                visible_everywhere = max(latest, settled_at + self.delta_ms) + 2 * self.epsilon_ms
                await asyncio.sleep(max(0, visible_everywhere - self._now()) / 1000)
                visible_at = latest
            compared = [self._chain, term, row.last, row.visible_at]
            with contextlib.suppress(OutcomeUnknown):
                if await self._cas(self._stamp, [term, row.last, visible_at, *compared]):
                    self._stamped = visible_at
                    return replace(row, term=term, visible_at=visible_at)
            # a stamp that timed out may have been applied, also after the read that told that it was not
            found = await self._read()
            if (found.term, found.last) != (term, row.last):
                raise Fenced(f"entry {row.last} of term {term} was not stamped: the log is at term {found.term}")
            if not found.is_prepared:
                self._stamped = found.visible_at
                return found
        raise StoreUnavailable(f"entry {row.last} cannot be stamped: its writes time out")

    async def _stored(self, blob: bytes) -> bytes:
        """What stands in a cell for an encoded entry. One may hold hundreds of tipsets after an outage."""
        if len(blob) <= MAX_CELL:
            return blob
        header, parts = cut(ROW_PARTS + hashlib.sha256(blob).digest(), blob)
        await self._session.write_many(self._put_part, [list(part) for part in parts])
        return header

    async def _entry(self, value: bytes, visible_at: int) -> HeadEntry:
        """Errors: StoreError."""
        if is_cut(value):
            rows = [await self._session.execute(self._get_part, [key]) for key in parts_of(value)]
            value = joined(value, [found[0][0] if found else None for found in rows])
        return replace(decode_entry(value), visible_at=visible_at)

    async def _write_entry(self, row: HeadRow) -> None:
        """Write the stamped entry of the head row to the log."""
        if row.last:
            bucket = self._bucket(row.last)
            await self._session.execute(self._log, [bucket, row.last, row.entry, row.visible_at])

    def publish_delay_ms(self) -> int:
        """Milliseconds to wait so that the next `visible_at` is at most delta ahead."""
        return max(0, self._stamped + 2 * self.epsilon_ms - self._now() - self.delta_ms)

    # --- reading -----------------------------------------------------------------------------------

    def _visible_at(self, row: HeadRow) -> int:
        """The stamp of the row's entry; for one that has none, when it becomes visible by itself."""
        return row.visible_at if row.visible_at > 0 else -row.visible_at + self.delta_ms + STAMP_WITHIN_MS

    async def tail(self, limit: int = 1) -> Tail:
        """The newest stamped entries, at most `limit`, by QUORUM reads: what the bounded-staleness rule is about.

        While nothing changes this reads four numbers of one row by its key.
        """
        rows = await self._session.execute(self._poll, [self._chain])
        if not rows:
            return Tail((), False)
        term, last, visible_at, renewals = rows[0]
        seen = self._seen
        if limit > 1 or seen is None or seen[0] != (term, last, visible_at):
            row = await self._read(serial=False)
            older = limit - (row.visible_at > 0)
            entries = await self._range(row.last - 1 - older, row.last, older) if older and row.last > 1 else []
            newest = await self._entry(row.entry, self._visible_at(row)) if row.last else None
            if newest is not None and not row.is_prepared:
                entries.append(newest)
            lease = (row.term, row.renewals)
            read = Tail(tuple(entries), row.is_prepared, lease, newest if row.is_prepared else None)
            self._seen = (row.term, row.last, row.visible_at), read
            return read
        return Tail(seen[1].entries[-limit:], seen[1].prepared, (term, renewals), seen[1].unstamped)

    async def head(self) -> HeadEntry | None:
        """The newest published entry. The caller must compare `visible_at` with the clock."""
        tail = await self.tail()
        unstamped = tail.unstamped
        if unstamped is not None and self._now() >= unstamped.visible_at + 2 * self.epsilon_ms:
            return unstamped
        return tail.entries[-1] if tail.entries else None

    async def entries(self, after: int, limit: int) -> list[HeadEntry]:
        """Entries behind `after` that a follower may serve by now, by one clock or another, and stamped ones."""
        row = await self._read(serial=False)
        found = await self._range(after, row.last, limit)
        if after < row.last and len(found) < limit:
            newest = await self._entry(row.entry, self._visible_at(row))
            if not row.is_prepared or self._now() >= newest.visible_at - self.epsilon_ms:
                found.append(newest)
        return found

    async def _range(self, after: int, below: int, limit: int) -> list[HeadEntry]:
        """Entries of the log with numbers between these two, in order."""
        low, high = (max(0, after) + 1) // BUCKET, max(0, below - 1) // BUCKET
        first = high
        # what was trimmed leaves no row in the buckets below
        while first > low and await self._session.execute(self._any, [self._partition(first - 1), 1]):
            first -= 1
        found: list[HeadEntry] = []
        for bucket in range(first, high + 1):
            if len(found) < limit:
                values = [self._partition(bucket), after, below, limit - len(found)]
                rows = await self._session.execute(self._between, values)
                found += [await self._entry(entry, visible_at) for _, entry, visible_at in rows]
        return found

    async def trim(self, keep: int) -> None:
        """Forget all but the newest `keep` (at least one) entries."""
        floor = (await self._read(serial=False)).last - max(1, keep)
        if floor <= 0:
            return
        await self._session.execute(self._trim, [self._bucket(floor), floor])
        await self._drop_below(floor // BUCKET)

    async def _drop_below(self, bucket: int) -> None:
        while bucket > 0 and await self._session.execute(self._any, [self._partition(bucket - 1), 1]):
            bucket -= 1
            await self._session.execute(self._drop, [self._partition(bucket)])

    async def remove(self) -> None:
        """Forget the whole log: for one that was made to try a server."""
        row = await self._read()
        await self._session.execute(self._drop, [self._bucket(row.last)])
        await self._drop_below(row.last // BUCKET)
        await self._cas(self._forget, [self._chain, row.term])

    async def last(self) -> int:
        """The newest sequence number, prepared ones too; 0 in an empty log."""
        rows = await self._session.execute(self._poll, [self._chain])
        return int(rows[0][1]) if rows else 0

    def _bucket(self, seq: int) -> bytes:
        return self._partition(seq // BUCKET)

    def _partition(self, bucket: int) -> bytes:
        return self._chain + bucket.to_bytes(8, "big")

    async def _cas(self, cql: str, values: list[Any]) -> bool:
        return bool((await self._session.execute(cql, values))[0][0])

    async def _read(self, *, serial: bool = True) -> HeadRow:
        """`serial` settles compare-and-sets that are under way, on the servers that know it. Errors: StoreError."""
        rows = await self._session.execute(self._state, [self._chain], serial=serial)
        if not rows:
            raise StoreError("the head log has not been made")
        return HeadRow(*rows[0])


async def _pause(tried: int) -> None:
    """Wait before another try of a compare-and-set: a node of the store may have just failed."""
    if tried:
        await asyncio.sleep(min(0.5, 0.02 * 2**tried))
