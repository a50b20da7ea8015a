"""The head of a shared store, served only as long as the reads of its log prove that it is the head.

Many followers stand over one log, with no stickiness before them: which head each may serve at a moment is
`blockstore.cassandra.bounded_staleness`'s rule. Here are the reads that feed it, the waiting where it allows no head,
the pushes, which leave when every follower serves what they tell, and the measuring of this machine's clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from blockstore.cassandra.bounded_staleness import HeadWindow
from blockstore.cassandra.head import Tail
from blockstore.errors import StoreError
from blockstore.store import HeadEntry
from blockstore.store_clock import StoreClock, boottime_ms, wall_ms
from chain.errors import ChainError, NotHeld
from chain.index.chain_index import ChainIndex
from follower.head import NewestHead, StoreHeads
from rpc.errors import RpcError, Unavailable
from rpc.services import CheckResult, Head

log = logging.getLogger(__name__)

#: reads of the log that may hang; one more, and the oldest is given up
_HANGING: Final = 32
#: entries of the first read: some of them may not be visible yet
_FIRST: Final = 64
#: entries read at a time where the tail does not reach back to what is known
_PAGE: Final = 256
#: entries that are known and not yet visible, at most; a log further ahead is read when their time has come
_AHEAD: Final = 4096
#: of delta: between the starts of two reads, while heads are asked for
_BUSY: Final = 1 / 4
#: of what a read proves (delta less epsilon), the same while none is asked for: a head is servable all the time
_IDLE: Final = 0.8
#: of the time between two such reads: one that is due so soon after another is left out
_JUST_READ: Final = 0.1
#: how long (seconds) after the last request for a head a follower counts as busy
_BUSY_SECONDS: Final = 2.0
#: between two measurements of the clock, where it is known and where it is not
_CLOCK_SECONDS: Final = 1.0
_CLOCK_IDLE_SECONDS: Final = 2.0
_CLOCK_UNKNOWN_SECONDS: Final = 0.1


class SharedStore(Protocol):
    """What is asked of a store: `blockstore.cassandra.store.CassandraStore`."""

    async def head_tail(self, limit: int = 1) -> Tail:
        """The newest stamped entries, by a QUORUM read."""

    async def head_entries(self, after: int, limit: int = 1000) -> list[HeadEntry]:
        """Stamped entries behind `after`."""

    async def clock_ms(self) -> int:
        """The store's own clock, milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """A head that is servable, by what is known, until a moment, while our wall clock is between two moments and ahead
    of the other one by so much: a look at both clocks tells that, where the rule itself takes four times as long."""

    head: Head
    until: int
    wall_from: int
    wall_until: float
    ahead_from: float
    ahead_until: float


class SharedStoreHeads:
    """A HeadSource over a shared store. `start` begins reading, `close` ends it.

    `wait_seconds` is how long a request waits for a head that may be served. `now` (only forward, counts
    suspended time) and `wall` (since 1970) are in milliseconds.
    """

    def __init__(
        self,
        store: SharedStore,
        index: ChainIndex,
        delta_ms: int,
        epsilon_ms: int,
        *,
        wait_seconds: float = 5.0,
        now: Callable[[], int] = boottime_ms,
        wall: Callable[[], int] = wall_ms,
    ) -> None:
        self.window = HeadWindow(delta_ms, epsilon_ms)
        #: how far this machine's clock is from the store's
        self.clock = StoreClock(store.clock_ms, epsilon_ms, wall, now)
        self._store = store
        self._index = index
        self._wait_seconds = wait_seconds
        self._now = now
        self._wall = wall
        #: `newest.before_new_head` is awaited before a head is served for the first time
        self.newest = NewestHead(index)
        self._waiting: asyncio.Task[HeadEntry | None] | None = None
        self._reads: dict[asyncio.Task[None], None] = {}
        self._running: list[asyncio.Task[None]] = []
        self._failed = ""
        #: the leader's term and renewals as last read, when they changed, and when they were read (`now`)
        self._lease: tuple[int, int] | None = None
        self._lease_changed_at = self._lease_read_at = 0
        #: whether the clock was last found to be right; None before the first time
        self._was_accurate: bool | None = None
        #: what `peek` may tell without asking the rule again
        self._standing: _Standing | None = None
        #: whether a head was asked for since the last read was started, and until when this follower counts as busy
        self._asked = False
        self._busy_until = float("-inf")
        #: set by who waits for a read
        self._hurry = asyncio.Event()
        #: when (the loop's clock) there was last a head to serve
        self._servable_at = float("-inf")
        self._was_read = asyncio.Event()
        self._pushes = StoreHeads(_Released(self), index, poll_seconds=max(0.002, epsilon_ms / 4000))

    def start(self) -> None:
        """Begin to read the log and to measure the clock."""
        loops: list[Coroutine[Any, Any, None]] = [self._read_on(), self._measure_on()]
        self._running = [asyncio.create_task(loop) for loop in loops]

    async def close(self) -> None:
        """End every subscription and every read."""
        await self._pushes.close()
        tasks = [*self._running, *self._reads]
        if self._waiting is not None:
            tasks.append(self._waiting)  # type: ignore[arg-type]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- requests ----------------------------------------------------------------------------------

    async def current(self) -> Head:
        """The head that may be served now. Errors: NotHeld (nothing published yet), Unavailable."""
        return self.peek() or await self._checked()

    def peek(self) -> Head | None:
        """The head that may be served now, where it is known and nothing is to be waited for; None: ask `current`."""
        self._asked = True
        standing = self._standing
        if standing is not None:
            now, wall = self._now(), self._wall()
            if (
                now < standing.until
                and standing.wall_from < wall < standing.wall_until
                and standing.ahead_from <= wall - now <= standing.ahead_until
            ):
                return standing.head
        known = self.newest.known
        if known is None:
            return None
        entry = self._servable()
        if entry is None or entry.seq != known.seq or entry.head.key != known.tipset.key:
            return None
        self._standing = self._stands(known, entry)
        return known

    def _stands(self, head: Head, served: HeadEntry) -> _Standing | None:
        """How long a head that has just been found servable remains so, for certain."""
        unchanged = self.window.unchanged_while(served)
        if unchanged is None:
            return None
        # `_servable` asks for a millisecond later than it is
        until = unchanged.until - 1
        ahead = self.clock.accurate_until(until)
        if ahead is None:
            return None
        wall_until = float("inf") if unchanged.wall_until is None else unchanged.wall_until
        return _Standing(head, until, unchanged.wall_from, wall_until, *ahead)

    async def _checked(self) -> Head:
        """As `current`, for health checks: they do not make a follower busy."""
        return await self.newest.of(self._servable() or await self._next_servable())

    async def _next_servable(self) -> HeadEntry:
        # one task looks for all who wait
        if self._waiting is None or self._waiting.done():
            self._waiting = asyncio.create_task(self._wait())
        entry = await asyncio.shield(self._waiting)
        if entry is None:
            raise self._why_none()
        return entry

    def _servable(self) -> HeadEntry | None:
        now, wall = self._now(), self._wall()
        if not self.clock.is_accurate_at(now, wall):
            return None
        # both clocks are cut to whole milliseconds: the later moment is the careful one for the horizon
        entry = self.window.head(now + 1, wall)
        if entry is not None:
            self._servable_at = asyncio.get_running_loop().time()
        return entry

    async def _wait(self) -> HeadEntry | None:
        self._hurry.set()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._wait_seconds
        pause = max(0.001, self.window.epsilon_ms / 4000)
        # what is waited for is a clock as well as a read
        while True:
            entry = self._servable()
            if entry is not None or loop.time() >= until:
                return entry
            await asyncio.sleep(pause)

    def _why_none(self) -> RpcError | NotHeld:
        if not self.clock.is_accurate:
            return Unavailable(f"this follower is out of service: {self.clock.text}")
        if self.window.horizon_ms is not None and not self.window.entries:
            return NotHeld("any head: nothing has been published to this store yet")
        return Unavailable(
            "which head is the newest is not known now: the store's head log cannot be read"
            if self._failed
            else "which head is the newest is not known now"
        )

    # --- pushes ------------------------------------------------------------------------------------

    def subscribe(self, after: int | None = None) -> AsyncIterator[HeadEntry]:
        """Every entry after `after` in order, each not before every follower may serve it. See HeadSource."""
        return self._pushes.subscribe(after)

    def is_released(self, entry: HeadEntry) -> bool:
        """Whether the entry is visible by every clock within epsilon of ours."""
        return self._wall() > entry.visible_at + self.window.epsilon_ms

    async def released_head(self) -> HeadEntry | None:
        """The newest released entry of those that are known."""
        await self._first_read()
        due = [entry for entry in self.window.entries.values() if self.is_released(entry)]
        return max(due, key=lambda entry: entry.seq, default=None)

    async def released_entries(self, after: int, limit: int) -> list[HeadEntry]:
        """Released entries behind `after`, without a gap: from memory, or from the log where they are older."""
        known = self.window.entries
        if not known or after >= max(known):
            return []
        if after + 1 in known:
            seqs = range(after + 1, after + 1 + limit)
            found = [known[seq] for seq in seqs if seq in known]
        else:
            found = await self._store.head_entries(after, min(limit, max(known) - after))
        out: list[HeadEntry] = []
        for entry in found:
            if not self.is_released(entry) or (out and entry.seq != out[-1].seq + 1):
                break
            out.append(entry)
        return out

    async def _first_read(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._wait_seconds):
                await self._was_read.wait()

    # --- reads of the log --------------------------------------------------------------------------

    async def _read_on(self) -> None:
        """Start a read every delta / 4, whatever became of those before; less often while no head is asked for."""
        loop = asyncio.get_running_loop()
        busy = self.window.delta_ms * _BUSY / 1000
        due = loop.time()
        while True:
            if len(self._reads) >= _HANGING:
                next(iter(self._reads)).cancel()
            task = asyncio.create_task(self._read())
            self._reads[task] = None
            task.add_done_callback(self._read_ended)
            asked, self._asked = self._asked, False
            if asked:
                self._busy_until = loop.time() + _BUSY_SECONDS
            if self._is_busy:
                # a loop that was held up starts one read, not all those that it missed
                due = max(due + busy, loop.time())
                await asyncio.sleep(due - loop.time())
            else:
                self._hurry.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._until_tick()):
                        await self._hurry.wait()
                due = loop.time()

    def _until_tick(self) -> float:
        """Seconds until idle followers read next: all at once, as their clocks tell it.

        A request that comes alone wakes a server's threads, which then look for more work for some milliseconds. Where
        many come together they do that once.
        """
        every = (self.window.delta_ms - self.window.epsilon_ms) * _IDLE
        left = every - self._wall() % every
        # a timer may be a little early, and a read may just have been made
        return (left if left > every * _JUST_READ else left + every) / 1000

    @property
    def _is_busy(self) -> bool:
        return asyncio.get_running_loop().time() < self._busy_until

    def _read_ended(self, task: asyncio.Task[None]) -> None:
        self._reads.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("reading the head log failed", exc_info=error)

    async def _read(self) -> None:
        began = self._now()
        try:
            tail = await self._store.head_tail(1 if self.window.entries else _FIRST)
            self._note_lease(tail.lease)
            tail = await self._whole(tail)
        except StoreError as error:
            if not self._failed:
                log.warning("the head log cannot be read: %s", error)
            self._failed = str(error)
            return
        self._failed = ""
        self._standing = None
        if self.window.observe(began, self._now(), tail):
            self._start_over()
        self._was_read.set()

    def _note_lease(self, lease: tuple[int, int] | None) -> None:
        """Nobody's clock is looked at: a lease that is renewed is another one at each renewal."""
        self._lease_read_at = self._now()
        if lease != self._lease or not self._lease_changed_at:
            self._lease, self._lease_changed_at = lease, self._lease_read_at

    def _start_over(self) -> None:
        """Forget the heads of a log that is no more; subscribers must begin anew."""
        log.error(
            "the store's head log went back, as one that is restored from a backup does: heads that clients have seen "
            "are not in it. This follower starts over from the log as it is now and ends all subscriptions"
        )
        self.newest.forget()
        self._pushes.end_subscriptions()

    async def _whole(self, tail: Tail) -> Tail:
        """With what lies between the newest known entry and the tail: one of those may be the head."""
        if not self.window.entries or not tail.entries:
            return tail
        newest = max(self.window.entries)
        missing: list[HeadEntry] = []
        while newest + 1 < tail.entries[0].seq:
            if len(self.window.entries) + len(missing) >= _AHEAD:
                # what is behind them is not known: the read proves nothing
                return Tail(tuple(missing), True)
            # the newest known entry is read again: in a log that was restored and has gone on it is another
            after = newest if missing else newest - 1
            entries = await self._store.head_entries(after, _PAGE)
            if not entries or entries[-1].seq <= newest:
                return Tail((*missing, *entries), True)
            missing += [entry for entry in entries if entry.seq < tail.entries[0].seq]
            newest = entries[-1].seq
        return replace(tail, entries=(*missing, *tail.entries))

    # --- the clock ---------------------------------------------------------------------------------

    async def _measure_on(self) -> None:
        while True:
            try:
                await self.measure()
            except StoreError as error:
                log.debug("the store's clock cannot be read: %s", error)
            if not self.clock.is_accurate:
                await asyncio.sleep(_CLOCK_UNKNOWN_SECONDS)
            elif self._is_busy:
                await asyncio.sleep(_CLOCK_SECONDS)
            else:
                await asyncio.sleep(_CLOCK_IDLE_SECONDS)
                await asyncio.sleep(self._until_tick())

    async def measure(self) -> None:
        """Read the store's clock between two of ours. Errors: StoreError."""
        try:
            await self.clock.measure()
        finally:
            self._standing = None
            is_accurate = self.clock.is_accurate
            if not is_accurate and self._was_accurate:
                log.error("out of service: %s", self.clock.text)
            elif is_accurate and self._was_accurate is False:
                log.warning("in service: %s", self.clock.text)
            # before the first good measurement there is nothing to say
            if is_accurate or self._was_accurate is not None:
                self._was_accurate = is_accurate

    # --- health ------------------------------------------------------------------------------------

    async def last_head(self) -> Head | None:
        """The head that may be served now, else the last one that was; None before the first. It never waits.

        Errors: NotHeld.
        """
        return self.newest.known if self._servable() is None else await self._checked()

    async def check(self) -> CheckResult:
        """Health: whether a head can be served, or could a moment ago.

        A store that stalls stalls for every follower: were all of them taken out of service at once, requests would
        fail that now wait. Where one follower alone has none, the balancer asks another when its wait is over.
        """
        lacking = asyncio.get_running_loop().time() - self._servable_at
        if self.clock.is_accurate and self._servable() is None and lacking < self._wait_seconds:
            return CheckResult(True, f"no head may be served for {lacking:.1f} s: {self._why_none()}")
        try:
            async with asyncio.timeout(1):
                head = await self._checked()
        except (StoreError, ChainError, RpcError) as error:
            return CheckResult(False, str(error))
        except TimeoutError:
            return CheckResult(False, self._failed or str(self._why_none()))
        return CheckResult(True, f"head {head.tipset.height}, entry {head.seq}")

    async def live_check(self) -> CheckResult:
        """Whether the store answers. A clock that is off is nothing that a restart would mend."""
        return CheckResult(not self._failed, self._failed or "the store's head log is read")

    def lease_check(self, most_seconds: float) -> CheckResult:
        """Health: whether a bridge has renewed the lease lately. Time in which the log was not read does not count."""
        if self._lease is None:
            return CheckResult(True, "the lease has not been read yet")
        seconds = (self._lease_read_at - self._lease_changed_at) / 1000
        if seconds <= most_seconds:
            return CheckResult(True, f"the lease of term {self._lease[0]} was renewed {seconds:.0f} s ago")
        return CheckResult(False, f"no bridge leads: term {self._lease[0]} was not renewed for {seconds:.0f} s")

    @property
    def resets(self) -> int:
        """How often the log went back."""
        return self.window.resets

    async def clock_check(self) -> CheckResult:
        """Health: whether this clock is within epsilon of the store's for certain."""
        return CheckResult(self.clock.is_accurate, self.clock.text)


class _Released:
    """The head log as pushes may tell it."""

    def __init__(self, heads: SharedStoreHeads) -> None:
        self._heads = heads

    async def head(self) -> HeadEntry | None:
        return await self._heads.released_head()

    async def head_entries(self, after: int, limit: int = 1000) -> list[HeadEntry]:
        return await self._heads.released_entries(after, limit)
