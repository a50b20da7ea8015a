"""The head log as it was made before, to show what stricter servers do with it.

One partition with static columns: a new entry is inserted under conditions on static columns. Kept as it was, apart
from its name, its imports and `term`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from blockstore.cassandra.head import Lease, Tail
from blockstore.cassandra.session import OutcomeUnknown, Session
from blockstore.errors import Fenced, StoreError, StoreUnavailable
from blockstore.head_log import decode_entry, encode_entry
from blockstore.store import HEAD_LOG, HeadEntry
from blockstore.store_clock import StoreClock, wall_ms

#: tries of a compare-and-set that times out
_TRIES: Final = 5
_PARTITION: Final = b"head"
#: write times (microseconds) that a term has to itself where the clocks of leaders disagree
_TERM_WRITES: Final = 1 << 24
#: a prepared entry that has no stamp for so long (milliseconds) becomes visible without one, delta later
STAMP_WITHIN_MS: Final = 1000


class FormerHeadLog:
    """Publishing and reading the log of one keyspace. `delta_ms` and `epsilon_ms` are the design's δ and ε.

    With `store_clock`, nothing is stamped by a clock (`now`) that may be more than ε from it: ClockOff then.
    """

    def __init__(
        self,
        session: Session,
        keyspace: str,
        delta_ms: int,
        epsilon_ms: int,
        now: Callable[[], int] = wall_ms,
        store_clock: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self._session = session
        self._delta = delta_ms
        self.epsilon_ms = epsilon_ms
        self._now = now
        self._clock = None if store_clock is None else StoreClock(store_clock, epsilon_ms, now)
        #: rows of this process's term are written at this time (microseconds) and later; 0 without a term
        self.fence = 0
        self.term = 0
        #: the newest stamp that is known here
        self._stamped = 0
        #: the entry whose append had an unknown outcome; 0: none
        self._left = 0
        table = f"{keyspace}.{HEAD_LOG.name}"
        self._init = f"INSERT INTO {table} (p, term, last, renewals, fence) VALUES (?, 0, 0, 0, 0) IF NOT EXISTS"
        self._take = f"UPDATE {table} SET term = ?, owner = ?, renewals = 0, fence = ? WHERE p = ? IF term = ?"
        self._renew = f"UPDATE {table} SET renewals = ? WHERE p = ? IF term = ?"
        self._prepare = (
            f"UPDATE {table} SET entry = ?, visible_at = ?, last = ? WHERE p = ? AND seq = ? IF term = ? AND last = ?"
        )
        self._stamp = f"UPDATE {table} SET visible_at = ? WHERE p = ? AND seq = ? IF term = ? AND visible_at = ?"
        self._state = f"SELECT term, last, owner, renewals, fence FROM {table} WHERE p = ? LIMIT 1"
        columns = "seq, entry, visible_at, term, renewals"
        self._newest = f"SELECT {columns} FROM {table} WHERE p = ? ORDER BY seq DESC LIMIT ?"
        self._after = f"SELECT seq, entry, visible_at FROM {table} WHERE p = ? AND seq > ? ORDER BY seq ASC LIMIT ?"
        self._trim = f"DELETE FROM {table} WHERE p = ? AND seq <= ?"

    async def make(self) -> None:
        """Write the first state of a log; one that is there stays as it is."""
        for tried in range(_TRIES):
            await _pause(tried)
            with contextlib.suppress(OutcomeUnknown):
                await self._cas(self._init, [_PARTITION])
                return
        raise StoreUnavailable("the head log cannot be made: its writes time out")

    async def new_term(self, owner: str, after: int | None = None) -> int:
        """Fence every older term, then publish what one of them left prepared. `fence` is this term's from then on.

        Errors: Fenced, when `after` is given and is not the newest term: another bridge was faster.
        """
        mark = f"{owner}\0{secrets.token_hex(8)}".encode()
        for tried in range(_TRIES * 4):
            await _pause(tried)
            term, _, held_by, _, fence = await self._read_state()
            if held_by != mark:  # else: a try that timed out was applied after all
                if after is not None and term != after:
                    raise Fenced(f"term {term} has begun meanwhile, after term {after}")
                # above every write time of older terms, and near the wall clock: ScyllaDB refuses times far ahead
                fence = max(self._now() * 1000, fence + _TERM_WRITES)
                try:
                    if not await self._cas(self._take, [term + 1, mark, fence, _PARTITION, term]):
                        continue
                except OutcomeUnknown:
                    continue
                term += 1
            self.fence = fence
            self.term = int(term)
            newest = await self._session.execute(self._newest, [_PARTITION, 2], serial=True)
            if newest and newest[0][0] is not None and newest[0][2] < 0:
                await self._publish(newest[0][0], term, newest)
            return int(term)
        raise StoreUnavailable("the lease is contended, or its writes time out")

    async def renew(self, term: int, renewals: int) -> None:
        """Count the lease up. Errors: Fenced when another term exists."""
        for tried in range(_TRIES):
            await _pause(tried)
            with contextlib.suppress(OutcomeUnknown):
                if await self._cas(self._renew, [renewals, _PARTITION, term]):
                    return
                raise Fenced(f"term {term} has ended")
        raise StoreUnavailable("the lease cannot be renewed: its writes time out")

    async def lease(self) -> Lease:
        """Who leads now (a SERIAL read)."""
        term, _, owner, renewals, _ = await self._read_state()
        return Lease(term, (owner or b"").split(b"\0")[0].decode(), renewals)

    async def append(self, entry: HeadEntry) -> None:
        """Prepare, then stamp. A call again after StoreUnavailable goes on where the first one stopped.

        Where that one left another entry of this number, it is published and StoreUnavailable raised: the caller
        reads the log again, and goes on from there. Errors: Fenced, StoreUnavailable.
        """
        was_left, self._left = self._left, entry.seq
        blob = encode_entry(replace(entry, visible_at=0))
        newest: list[list[Any]] = []
        for tried in range(_TRIES):
            await _pause(tried)
            values = [blob, -self._now(), entry.seq, _PARTITION, entry.seq, entry.term, entry.seq - 1]
            try:
                if await self._cas(self._prepare, values):
                    newest = await self._session.execute(self._newest, [_PARTITION, 2], serial=True)
                    break
            except OutcomeUnknown:
                was_left = entry.seq
            # not applied, or not known: the SERIAL read settles which
            term, last, *_ = await self._read_state()
            newest = await self._session.execute(self._newest, [_PARTITION, 2], serial=True)
            if term == entry.term and last == entry.seq == was_left and newest and newest[0][0] == entry.seq:
                break
            if (term, last) != (entry.term, entry.seq - 1):
                self._left = 0
                raise Fenced(f"entry {entry.seq} of term {entry.term}: the log is at {last}, term {term}")
        else:
            raise StoreUnavailable(f"entry {entry.seq} cannot be prepared: its writes time out")
        if newest[0][0] != entry.seq:
            self._left = 0
            raise Fenced(f"entry {entry.seq} of term {entry.term}: another leader has gone on from it")
        if newest[0][2] < 0:
            await self._publish(entry.seq, entry.term, newest)
        self._left = 0
        if newest[0][1] != blob:
            raise StoreUnavailable(f"entry {entry.seq} had been prepared before, as another: it is published now")

    async def _publish(self, seq: int, term: int, newest: list[list[Any]]) -> None:
        """Stamp entry `seq`, known to be prepared, or wait until it is visible without a stamp.

        `newest`: its row and the one before it, newest first.
        """
        if self._clock is not None:
            await self._clock.require_accurate()
        settled_at = self._now()
        prepared = newest[0][2]
        previous = self._visible_at(newest[1]) if len(newest) > 1 else 0
        latest = self._visible_at(newest[0])
        for tried in range(_TRIES):
            await _pause(tried)
            # taken after the prepare was settled: what a follower's horizon rests on
            visible_at = max(self._now() + self._delta, previous + 2 * self.epsilon_ms)
            if visible_at > latest:
                visible_everywhere = max(latest, settled_at + self._delta) + 2 * self.epsilon_ms
                await asyncio.sleep(max(0, visible_everywhere - self._now()) / 1000)
                self._stamped = latest
                return
            with contextlib.suppress(OutcomeUnknown):
                if await self._cas(self._stamp, [visible_at, _PARTITION, seq, term, prepared]):
                    self._stamped = visible_at
                    return
            # a stamp that timed out may have been applied, also after the read that told that it was not
            rows = await self._session.execute(self._newest, [_PARTITION, 1], serial=True)
            if (await self._read_state())[0] != term:
                raise Fenced(f"entry {seq} of term {term} was not stamped: a newer term exists")
            if rows and rows[0][0] == seq and rows[0][2] > 0:
                self._stamped = rows[0][2]
                return
        raise StoreUnavailable(f"entry {seq} cannot be stamped: its writes time out")

    def _visible_at(self, row: list[Any]) -> int:
        """The stamp of an entry's row; for one that has none, when it becomes visible by itself."""
        return row[2] if row[2] > 0 else -row[2] + self._delta + STAMP_WITHIN_MS  # type: ignore[no-any-return]

    def _entry(self, row: list[Any]) -> HeadEntry:
        return replace(decode_entry(row[1]), visible_at=self._visible_at(row))

    def publish_delay_ms(self) -> int:
        """Milliseconds to wait so that the next `visible_at` is at most delta ahead."""
        return max(0, self._stamped + 2 * self.epsilon_ms - self._now() - self._delta)

    async def tail(self, limit: int = 2) -> Tail:
        """The newest entries, by a QUORUM read: what the bounded-staleness rule is about."""
        rows = await self._session.execute(self._newest, [_PARTITION, limit])
        lease = (rows[0][3], rows[0][4]) if rows else None
        entries = [self._entry(row) for row in reversed(rows) if row[0] is not None]
        if not entries or rows[0][2] > 0:
            return Tail(tuple(entries), False, lease)
        return Tail(tuple(entries[:-1]), True, lease, entries[-1])

    async def head(self) -> HeadEntry | None:
        """The newest published entry. The caller must compare `visible_at` with the clock."""
        tail = await self.tail()
        unstamped = tail.unstamped
        if unstamped is not None and self._now() >= unstamped.visible_at + 2 * self.epsilon_ms:
            return unstamped
        return tail.entries[-1] if tail.entries else None

    async def entries(self, after: int, limit: int) -> list[HeadEntry]:
        """Entries behind `after` that a follower may serve by now, by one clock or another, and stamped ones."""
        # one more: an entry that another follows is published for certain
        rows = await self._session.execute(self._after, [_PARTITION, after, limit + 1])
        entries = [self._entry(row) for row in rows]
        if rows and rows[-1][2] < 0 and self._now() < entries[-1].visible_at - self.epsilon_ms:
            entries.pop()
        del entries[limit:]
        return entries

    async def trim(self, keep: int) -> None:
        """Forget all but the newest `keep` (at least one) entries."""
        head = await self.head()
        if head is not None:
            await self._session.execute(self._trim, [_PARTITION, head.seq - max(1, keep)])

    async def last(self) -> int:
        """The newest sequence number, prepared ones too; 0 in an empty log."""
        rows = await self._session.execute(self._state, [_PARTITION])
        return int(rows[0][1]) if rows else 0

    async def _cas(self, cql: str, values: list[Any]) -> bool:
        return bool((await self._session.execute(cql, values))[0][0])

    async def _read_state(self) -> list[Any]:
        rows = await self._session.execute(self._state, [_PARTITION], serial=True)
        if not rows:
            raise StoreError("the head log has not been made")
        return rows[0]


async def _pause(tried: int) -> None:
    """Wait before another try of a compare-and-set: a node of the store may have just failed."""
    if tried:
        await asyncio.sleep(min(0.5, 0.02 * 2**tried))
