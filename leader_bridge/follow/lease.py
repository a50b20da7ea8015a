"""Leader election among the bridges of a shared store.

The leader counts a number up in the store. A standby watches that number by its own clock. When it has stood still for
a lease time and a little (so within one and a half), the standby begins a new term, if the term that it watched is
still the newest: nobody compares clocks, and a lease that was just taken holds. An old leader that still runs does no
harm: the store refuses what an older term appends. A fenced bridge publishes nothing and becomes a standby.

A leader that makes no progress steps down for a standby that is ahead (`leader_bridge.follow.standby`).

A bridge whose clock is further from the store's than epsilon does not lead: its stamps would mislead the followers.
It says so, steps down if it leads, and comes back when its clock is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from blockstore.errors import Fenced, StoreError
from blockstore.store_clock import StoreClock, wall_ms
from leader_bridge import metrics
from leader_bridge.clock import monotonic
from leader_bridge.follow.standby import Progress, RowStore, StandbyNodes, announce, wait_until_stuck, withdraw

if TYPE_CHECKING:
    from blockstore.cassandra.head import Lease

log = logging.getLogger(__name__)

#: in lease times: how often the leader counts up and a standby looks, and how long the number must stand still
_RENEW: Final = 1 / 4
_LOOK: Final = 1 / 10
_EXPIRES: Final = (1.1, 1.3)
#: lease times for which a bridge that stepped down leaves its old lease to others
_YIELD: Final = 2.5
_CLOCK_SECONDS: Final = 1.0
#: what a leader that stops in order leaves
_GIVEN_UP: Final = -1


@runtime_checkable
class LeaseStore(RowStore, Protocol):
    """A store that knows who leads: `blockstore.cassandra.store.CassandraStore`."""

    async def lease(self) -> Lease:
        """Who leads."""

    async def new_term(self, owner: str, after: int | None = None) -> int:
        """Begin a new leader term and fence every older one. Errors: Fenced, when `after` is not the newest term."""

    async def renew_lease(self, term: int, renewals: int) -> None:
        """Count the lease of `term` up. Errors: Fenced."""

    async def clock_ms(self) -> int:
        """The store's own clock, milliseconds since 1970."""

    def epsilon_ms(self) -> int:
        """The most that a clock may differ from it."""


class Leading(Progress, Protocol):
    """What leads: `leader_bridge.bridge.Bridge`."""

    @property
    def term(self) -> int:
        """Its term, 0 before it has one."""

    async def run(self) -> None:
        """Lead until stopped. Errors: Fenced."""

    def stop(self) -> None:
        """Ask `run` to end."""


async def wait_for_turn(store: LeaseStore, owner: str, lease_seconds: float, yielded_term: int = 0) -> int:
    """Wait until nobody leads: no term yet, one that was given up or is our own, or a counter that stands still. The
    newest term then.

    `yielded_term`: the term that this bridge gave up for another one to take, which has some lease times for it.
    While the store does not answer nothing is known, and the waiting begins anew.
    """
    seen: tuple[int, int] | None = None
    since = 0.0
    began = monotonic()
    expires_seconds = lease_seconds * random.uniform(*_EXPIRES)
    while True:
        try:
            lease = await store.lease()
        except StoreError as error:
            log.warning("the lease cannot be read: %s", error)
            seen = None
        else:
            now = monotonic()
            if yielded_term and lease.term == yielded_term and now - began < lease_seconds * _YIELD:
                pass
            elif lease.term == 0 or lease.owner == owner or lease.renewals == _GIVEN_UP:
                return lease.term
            elif seen != (lease.term, lease.renewals):
                if seen is None:
                    log.info("standing by: %s leads, term %d", lease.owner, lease.term)
                seen, since = (lease.term, lease.renewals), now
            elif now - since >= expires_seconds:
                log.warning("%s has not renewed term %d for %.1f s", lease.owner, lease.term, now - since)
                return lease.term
        await asyncio.sleep(lease_seconds * _LOOK)


async def _renew(store: LeaseStore, leader: Leading, lease_seconds: float) -> None:
    """Count up until fenced; then the leader is asked to stop."""
    renewals = 0
    while True:
        if leader.term:
            renewals += 1
            try:
                await store.renew_lease(leader.term, renewals)
            except Fenced:
                log.warning("term %d has ended: another bridge leads", leader.term)
                leader.stop()
                return
            except StoreError as error:
                log.warning("the lease is not renewed: %s", error)
        await asyncio.sleep(lease_seconds * _RENEW)


@contextlib.asynccontextmanager
async def hold_lease(store: object, owner: str, lease_seconds: float) -> AsyncIterator[int]:
    """Lead while the block runs: for an import, which writes what a bridge writes. The term; 0 where there is no lease.

    Bridges stand by meanwhile, and one goes on at once when the block ends. Errors: StoreError.
    """
    if not isinstance(store, LeaseStore):
        yield 0
        return
    term = await store.new_term(owner)
    renewing = asyncio.create_task(_renew_term(store, term, lease_seconds))
    try:
        yield term
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        with contextlib.suppress(StoreError):
            await store.renew_lease(term, _GIVEN_UP)


async def _renew_term(store: LeaseStore, term: int, lease_seconds: float) -> None:
    """Count up until fenced: what is written under the term has no effect then, and its head is refused."""
    for renewals in itertools.count(1):
        try:
            await store.renew_lease(term, renewals)
        except Fenced:
            log.error("term %d has ended: another leads", term)
            return
        except StoreError as error:
            log.warning("the lease is not renewed: %s", error)
        await asyncio.sleep(lease_seconds * _RENEW)


class _Clock:
    """This machine's clock against the store's, told in logs and metrics."""

    def __init__(self, store: LeaseStore, wall: Callable[[], int]) -> None:
        self._clock = StoreClock(store.clock_ms, store.epsilon_ms(), wall)
        self._was_off = False

    async def is_right(self) -> bool:
        """Measure: whether the clock is within epsilon of the store's for certain. Errors: StoreError."""
        was_off = self._was_off
        await self._clock.measure()
        off = self._was_off = not self._clock.is_accurate
        offset = self._clock.offset
        if offset is not None:
            metrics.CLOCK_OFFSET.set((offset.low + offset.high) / 2)
        metrics.CLOCK_OFF.set(off)
        if off and not was_off:
            log.error("this bridge does not lead: %s", self._clock.text)
        elif was_off and not off:
            log.warning("the clock is right again: %s", self._clock.text)
        return not off

    async def wait_until_right(self) -> None:
        """Measure until it is."""
        while True:
            try:
                if await self.is_right():
                    return
            except StoreError as error:
                log.warning("the store's clock cannot be read: %s", error)
            await asyncio.sleep(_CLOCK_SECONDS)

    async def wait_until_off(self) -> None:
        """Measure until it is. A store that does not answer proves nothing."""
        while True:
            with contextlib.suppress(StoreError):
                if not await self.is_right():
                    return
            await asyncio.sleep(_CLOCK_SECONDS)


async def lead(
    store: LeaseStore,
    make: Callable[[int], Leading],
    owner: str,
    lease_seconds: float,
    stop: asyncio.Event,
    *,
    nodes: StandbyNodes | None = None,
    wall: Callable[[], int] = wall_ms,
) -> None:
    """Stand by, lead, and stand by again when fenced, until `stop` is set. `owner` is this process's own name.

    `make` makes what leads, given the term after which it may begin its own. `nodes`: whose heads a standby announces.
    `wall` is this machine's clock, milliseconds since 1970. Errors: what a leader's `run` raises, but for Fenced.
    """
    stopped = asyncio.create_task(stop.wait())
    clock = _Clock(store, wall)
    yielded_term = 0

    async def my_turn() -> int:
        await clock.wait_until_right()
        announcing = asyncio.create_task(announce(store, owner, nodes, lease_seconds)) if nodes is not None else None
        try:
            return await wait_for_turn(store, owner, lease_seconds, yielded_term)
        finally:
            if announcing is not None:
                announcing.cancel()
                await asyncio.gather(announcing, return_exceptions=True)
                with contextlib.suppress(StoreError):
                    await withdraw(store, [owner])

    try:
        while not stop.is_set():
            turn = asyncio.create_task(my_turn())
            await asyncio.wait({turn, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not turn.done():
                turn.cancel()
                await asyncio.gather(turn, return_exceptions=True)
                return
            newest = turn.result()
            metrics.LEADS.set(1)
            try:
                yielded_term = await _lead_once(store, make(newest), clock, lease_seconds, stopped)
            finally:
                metrics.LEADS.set(0)
    finally:
        stopped.cancel()
        await asyncio.gather(stopped, return_exceptions=True)


async def _lead_once(
    store: LeaseStore, leader: Leading, clock: _Clock, lease_seconds: float, stopped: asyncio.Task[bool]
) -> int:
    """One term, to its end. The term, where this bridge stepped down for a standby; else 0."""
    running = asyncio.create_task(leader.run())
    renewing = asyncio.create_task(_renew(store, leader, lease_seconds))
    off = asyncio.create_task(clock.wait_until_off())
    stuck = asyncio.create_task(wait_until_stuck(store, leader, lease_seconds))
    try:
        await asyncio.wait({running, stopped, off, stuck}, return_when=asyncio.FIRST_COMPLETED)
        leader.stop()
        await running
    except Fenced as error:
        log.warning("fenced: %s", error)
    finally:
        is_stuck = stuck.done()
        steps_down = stopped.done() or off.done() or is_stuck
        for task in (running, renewing, off, stuck):
            task.cancel()
        await asyncio.gather(running, renewing, off, stuck, return_exceptions=True)
    if steps_down and leader.term:
        # the next one need not wait
        with contextlib.suppress(StoreError):
            await store.renew_lease(leader.term, _GIVEN_UP)
    return leader.term if is_stuck else 0
