"""Asks many sources at once: one request a source, within its limit and the limit for all, cool-downs obeyed.

`answered` sends one piece of work to whichever source is free, again and again until one has answered or none holds it.
A source that takes much longer than the others is not waited for: the request goes to another one too, and to the
next where that one is slow as well. The first good answer counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from blockstore.cid import Cid
from blockstore.store import Held
from leader_bridge.clock import monotonic
from leader_bridge.nodes.sources import Fetched
from leader_bridge.sync import metrics
from leader_bridge.sync.requests import (
    GO_SECONDS,
    REQUEST_SECONDS,
    Cancelled,
    Closed,
    Lacks,
    NoSources,
    NotHeldAnywhere,
    Priority,
    RequestError,
    Requests,
    Ticket,
    TimedOut,
)
from leader_bridge.sync.sources.cooldowns import Cooldowns, Pauses
from leader_bridge.sync.sources.response_times import ResponseTimes, kind_of
from leader_bridge.sync.sources.source import (
    Answer,
    BadSource,
    LyingSource,
    NotHeldThere,
    ObjectWork,
    SourceBusy,
    SourceError,
    SourceRefuses,
    SyncSource,
    Work,
)
from leader_bridge.sync.sources.source_set import SourceSet
from leader_bridge.sync.sources.standing import WINDOW_SECONDS, Standing, full_window
from rpc.server.ranges.window import Window
from rpc.server.ranges.wire import Offer

log = logging.getLogger(__name__)

#: failures in a row that are a source's own fault: it is removed then
_MOST_FAILURES: Final = 5
#: seconds between two looks at a request of a kind that nobody has answered yet
_LOOK_SECONDS: Final = 0.25
#: seconds between two looks for one more source for a slow request
_NOBODY_SECONDS: Final = 5.0
#: requests for which stages have work, though there are fewer sources: more may join
_LEAST_AT_ONCE: Final = 4
#: seconds between two lines about the same trouble
_SAY_SECONDS: Final = 60.0


#: stores objects; how each is stored now
StoreFound = Callable[[Mapping[Cid, bytes]], Awaitable[Mapping[Cid, Held]]]


class Pool:
    """The sources. Use `async with pool.running():` around requests.

    `in_all`: requests a second to all sources together; `per_source`: to each, where it does not allow less.
    """

    def __init__(
        self,
        sources: Sequence[SyncSource],
        *,
        in_all: int = 50,
        per_source: int = 10,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._per_source = per_source
        self.standings = {source.name: self._standing(source) for source in sources}
        self._set = SourceSet()
        self._cooldowns = Cooldowns()
        self._all = Window(in_all, WINDOW_SECONDS)
        self._requests: Requests[Work] = Requests(seconds=request_seconds)
        self._wake = asyncio.Event()
        self._asking: dict[asyncio.Task[None], str] = {}
        #: sources whose answer is not stored yet
        self._storing: set[str] = set()
        self._times = ResponseTimes()
        self._said_at: float | None = None
        #: is told which source's results are not to be trusted
        self.on_bad: list[Callable[[str], None]] = []

    def _standing(self, source: SyncSource) -> Standing:
        return Standing(source, Window(min(self._per_source, source.requests_per_second), WINDOW_SECONDS))

    def wanted(self) -> int:
        """How many sources to look for now; a search counts from this call on. See `SourceSet.wanted`."""
        return self._set.wanted(monotonic())

    def add(self, source: SyncSource) -> None:
        """Use one more source, which has just been asked for its head. Nothing happens where it is known."""
        if source.name not in self.standings:
            one = self.standings[source.name] = self._standing(source)
            one.window = full_window(one.window.limit)
            self._wake.set()

    @property
    def usable(self) -> int:
        """Sources that are in use now."""
        return len(self._set.used)

    @property
    def most_at_once(self) -> int:
        """Requests that sources may have at once, those included that join soon."""
        return max(len(self.standings), _LEAST_AT_ONCE)

    @property
    def received_bytes(self) -> int:
        """Bytes of all answers."""
        return sum(one.received_bytes for one in self.standings.values())

    def cooldown_seconds(self, name: str) -> float:
        """For how long a source is left alone."""
        now = monotonic()
        return max(self._cooldowns.wait_seconds(name, now), self.standings[name].pauses.until - now, 0.0)

    def keep_limits(self) -> None:
        """Take over the limits that the sources have told."""
        for one in self.standings.values():
            limit = min(self._per_source, one.source.requests_per_second)
            if limit != one.window.limit:
                one.window = full_window(limit)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Pool]:
        """Send requests within the block."""
        self._find_sources()
        sending = asyncio.create_task(self._run(), name="sync pool")
        # requests that nobody sends any more end with Closed
        sending.add_done_callback(lambda _: self._requests.close())
        try:
            yield self
        finally:
            self._requests.close()
            sending.cancel()
            for task in self._asking:
                task.cancel()
            await asyncio.gather(sending, *self._asking, return_exceptions=True)
            await asyncio.gather(*(one.source.close() for one in self.standings.values()))
            if not sending.cancelled() and (fault := sending.exception()) is not None:
                raise fault

    # --- requests ------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def answered(
        self,
        work: Work,
        *,
        never: frozenset[str] = frozenset(),
        priority: Priority = Priority.LOW,
    ) -> AsyncIterator[tuple[str, Answer]]:
        """(who answered, the answer). Waits while no source may be asked.

        The source is asked for something else when the block ends. Store the answer within it, and ask for nothing:
        so whatever a kill loses is one request of each source. `never`: sources that are passed over.
        Errors: NotHeldAnywhere, Closed.
        """
        name, answer = await self._request(work, never, priority)
        try:
            yield name, answer
        finally:
            self._is_stored(name)

    def _is_stored(self, name: str) -> None:
        self._storing.discard(name)
        self._wake.set()

    async def _request(self, work: Work, never: frozenset[str], priority: Priority) -> tuple[str, Answer]:
        lacking: set[str] = set(never)
        while True:
            try:
                return await self._first_answer(work, frozenset(lacking), priority)
            except Lacks as error:
                lacking.add(error.source)
            except NoSources:
                if lacking:
                    raise NotHeldAnywhere(frozenset(lacking)) from None
                self._say_that_it_waits()
                await asyncio.sleep(1.0)
            except (Closed, NotHeldAnywhere):
                raise
            except RequestError:
                # what waited for it is more urgent than what is new
                priority = Priority.HIGH

    async def _first_answer(self, work: Work, never: frozenset[str], priority: Priority) -> tuple[str, Answer]:
        kind = kind_of(work)
        tries = [self._submit(work, never, priority)]
        try:
            while True:
                slow = self._times.slow_seconds(kind)
                newest = tries[-1].ticket
                left = newest.sent_at + slow - monotonic() if newest.source else slow
                if left <= 0:
                    left = self._try_one_more(work, never, tries) or slow
                if not self._times.knows(kind):
                    left = min(left, _LOOK_SECONDS)
                done, _ = await asyncio.wait(
                    [one.future for one in tries], timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                for one in [one for one in tries if one.future in done]:
                    tries.remove(one)
                    if one.future.exception() is None:
                        return one.future.result()
                    if not tries:
                        one.future.result()
                    if isinstance(one.future.exception(), Lacks):
                        never |= {one.ticket.source}
        finally:
            for one in tries:
                if one.is_answered:
                    # nobody stores it
                    self._is_stored(one.ticket.source)
                self._requests.cancel(one.ticket)

    def _try_one_more(self, work: Work, never: frozenset[str], tries: list[_Try]) -> float:
        """Send a slow request to a source that does not have it yet; seconds after which to look again (0: usual)."""
        asked = never | {one.ticket.source for one in tries}
        try:
            tries.append(self._submit(work, asked, Priority.HIGH))
        except RequestError:
            return _NOBODY_SECONDS
        metrics.REPEATED.inc()
        return 0.0

    def _submit(self, work: Work, never: frozenset[str], priority: Priority) -> _Try:
        future: asyncio.Future[tuple[str, Answer]] = asyncio.get_running_loop().create_future()

        def done(source: str, answer: object, error: RequestError | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
                # whoever was faster has been listened to
                future.exception()
            else:
                assert isinstance(answer, Answer)
                self._storing.add(source)
                future.set_result((source, answer))

        ticket = self._requests.submit(work, done, never=never, priority=priority)
        self._wake.set()
        return _Try(ticket, future)

    async def objects(
        self, cids: Sequence[Cid], priority: Priority = Priority.LOW, store: StoreFound | None = None
    ) -> Fetched:
        """Objects by CID from any sources; those that no source holds are `missing`. Errors: Closed, those of `store`.

        `store`: stores what an answer has brought, before its source is asked again.
        """
        fetched = Fetched()
        waiting: list[tuple[list[Cid], frozenset[str]]] = [(list(dict.fromkeys(cids)), frozenset())]
        while waiting:
            asked, never = waiting.pop()
            try:
                async with self.answered(ObjectWork(asked), never=never, priority=priority) as (name, answer):
                    if store is not None:
                        fetched.stored.update(await store(answer.found))
            except NotHeldAnywhere:
                fetched.missing += asked
                continue
            fetched.found.update(answer.found)
            priority = Priority.HIGH
            if absent := [cid for cid in asked if cid in answer.absent and cid not in answer.found]:
                waiting.append((absent, never | {name}))
            if short := [cid for cid in asked if cid not in answer.absent and cid not in answer.found]:
                if len(short) == len(asked):
                    # an answer with nothing in it leads nowhere
                    self.blame(name, BadSource(f"{name} sent an empty answer"))
                    never |= {name}
                waiting.append((short, never))
        return fetched

    async def fetch(self, cids: Sequence[Cid]) -> Fetched:
        """See `leader_bridge.store.mirror.Fetcher`."""
        return await self.objects(cids)

    async def offer(self, name: str) -> Offer:
        """What a source holds; the question counts like any other, and waits as long as the source wants.

        Errors: SourceError.
        """
        one = self.standings[name]
        # again after each wait: others that waited for the same moment may have been sent
        while True:
            now = monotonic()
            waits = (one.told_to_wait_until - now, one.window.wait_seconds(now), self._all.wait_seconds(now))
            if max(waits) <= 0:
                break
            await asyncio.sleep(max(waits))
        one.window.start(monotonic())
        self._all.start(monotonic())
        try:
            return await one.source.offer()
        except SourceBusy as error:
            self._told_to_wait(one, error)
            raise
        finally:
            one.window.ended(monotonic())

    def is_busy(self, name: str) -> bool:
        """Whether a source still works on a request, or its answer is not stored yet."""
        return name in self._storing or name in self._asking.values()

    # --- sources -------------------------------------------------------------------------------------

    def blame(self, name: str, error: BadSource) -> None:
        """A source has given something bad: what it gave is withdrawn, and it is left alone."""
        one = self.standings[name]
        one.bad += 1
        metrics.BAD_ANSWERS.labels(name).inc()
        self._remove(one, error, is_critical=isinstance(error, LyingSource))
        for tell in self.on_bad:
            tell(name)

    def refuse(self, name: str, reason: str) -> None:
        """Do not use a source any more."""
        one = self.standings[name]
        if not one.refusal:
            log.error("refused as a source: %s", reason)
        one.refusal = reason
        self._set.remove(name)
        self._requests.remove_source(name)

    def _remove(self, one: Standing, error: Exception, *, is_critical: bool) -> None:
        name = one.source.name
        one.failures = 0
        if not is_critical and self._set.used == (name,):
            # nobody else could be asked meanwhile, and what it gives is verified
            one.pauses.failed(monotonic())
            return
        seconds = self._cooldowns.removed(name, monotonic(), is_critical=is_critical)
        log.warning("%s; it is left alone for %g minutes", error, seconds / 60)
        one.window = full_window(one.window.limit)
        if seconds:
            next_name = self._set.remove(name)
            self._requests.remove_source(name)
            if next_name is not None:
                self._requests.add_source(next_name)

    def _find_sources(self) -> None:
        """Take into use what is known and not left alone. `discovery` makes more of them known."""
        now = monotonic()
        known = {*self._set.used, *self._set.reserved}
        for name, one in self.standings.items():
            is_back = name not in known and not one.refusal and not self._cooldowns.wait_seconds(name, now)
            if is_back and self._set.add(name):
                self._requests.add_source(name)

    # --- sending -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            now = monotonic()
            self._find_sources()
            for name in self._requests.expire(now):
                for task in [task for task, asked in self._asking.items() if asked == name]:
                    task.cancel()
                self._failed(self.standings[name], TimedOut(f"{name} did not answer in time"), is_own_fault=True)
            for name, ticket in self._requests.assign(now, self._take):
                task = asyncio.create_task(self._ask(name, ticket))
                self._asking[task] = name
                task.add_done_callback(self._asked)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._wait_seconds()):
                    await self._wake.wait()

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.pop(task, None)
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("a source could not be asked", exc_info=task.exception())

    def _take(self, name: str) -> bool:
        now = monotonic()
        one = self.standings[name]
        if one.pauses.until > now or one.window.wait_seconds(now) or self._all.wait_seconds(now):
            return False
        if self.is_busy(name):
            # with a request that was given up, or with an answer that is being stored
            return False
        one.window.start(now)
        self._all.start(now)
        one.requests += 1
        return True

    def _wait_seconds(self) -> float:
        """Seconds until something may be sent that waits now, or a source returns."""
        now = monotonic()
        if not self._requests.waiting:
            return 1.0
        # whoever is busy wakes us when it is free
        free = [self.standings[name] for name in self._requests.sources if not self.is_busy(name)]
        waits = [max(one.pauses.until - now, one.window.wait_seconds(now)) for one in free]
        soonest = max(min(waits, default=1.0), self._all.wait_seconds(now))
        return min(1.0, max(GO_SECONDS / 2, soonest))

    async def _ask(self, name: str, ticket: Ticket[Work]) -> None:
        one = self.standings[name]
        began = monotonic()
        try:
            answer = await one.source.ask(ticket.work)
        except SourceError as error:
            self._end(one, ticket, error)
            return
        finally:
            # the source may have got the request as late as this
            one.window.ended(monotonic())
        one.failures = 0
        one.pauses.answered()
        one.objects += len(answer.found)
        one.received_bytes += answer.size
        metrics.OBJECTS.labels(name).inc(len(answer.found))
        metrics.BYTES.labels(name).inc(answer.size)
        self._times.add(kind_of(ticket.work), monotonic() - began)
        self._requests.deliver(name, ticket.number, answer)

    def _end(self, one: Standing, ticket: Ticket[Work], error: SourceError) -> None:
        """A request has failed: say so to who waits for it, and judge the source."""
        name = one.source.name
        match error:
            case NotHeldThere():
                one.failures = 0
                one.pauses.answered()
                self._requests.fail(name, ticket.number, Lacks(name))
                return
            case SourceBusy():
                self._told_to_wait(one, error)
            case SourceRefuses():
                self.refuse(name, str(error))
            case LyingSource():
                self.blame(name, error)
            case BadSource():
                self._failed(one, error, is_own_fault=True)
            case _:
                self._failed(one, error, is_own_fault=False)
        self._requests.fail(name, ticket.number, Cancelled(str(error)))

    def _told_to_wait(self, one: Standing, error: SourceBusy) -> None:
        one.limited += 1
        metrics.LIMITED.labels(one.source.name).inc()
        one.told_to_wait_until = one.pauses.told_to_wait(monotonic(), error.seconds)

    def _failed(self, one: Standing, error: Exception, *, is_own_fault: bool) -> None:
        metrics.FAILURES.labels(one.source.name).inc()
        one.errors += 1
        if one.pauses.failed(monotonic()) == Pauses.FIRST:
            log.warning("a source does not answer well: %s", error)
        if not is_own_fault:
            return
        one.failures += 1
        if one.failures >= _MOST_FAILURES:
            self._remove(one, error, is_critical=False)

    def _say_that_it_waits(self) -> None:
        now = monotonic()
        if self._said_at is None or now - self._said_at >= _SAY_SECONDS:
            self._said_at = now
            names = ", ".join(f"{name} {self.cooldown_seconds(name):.0f} s" for name in self.standings)
            log.warning("no source can be asked just now; they are left alone for: %s", names)


@dataclass(eq=False, slots=True)
class _Try:
    """One of the ways of a request: it has one at each source that was asked."""

    ticket: Ticket[Work]
    future: asyncio.Future[tuple[str, Answer]]

    @property
    def is_answered(self) -> bool:
        return self.future.done() and not self.future.cancelled() and self.future.exception() is None
