"""Who leads, where several bridges stand over one shared store.

The leader counts a number up in the store. A standby watches that number by its own clock, and begins a new
term when it has stood still for a lease time and a half, so within two: nobody compares clocks. That the old
leader still runs does no harm: the store refuses what an older term appends. A bridge that is fenced so
publishes nothing any more and becomes a standby itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from blockstore.errors import Fenced, StoreError

if TYPE_CHECKING:
    from blockstore.cassandra_head import Lease

log = logging.getLogger(__name__)

#: in lease times: how often the leader counts up and a standby looks, and how long the number must stand still
_RENEW: Final = 1 / 4
_LOOK: Final = 1 / 10
_PATIENCE: Final = (1.4, 1.7)
#: what a leader that stops in order leaves
_GIVEN_UP: Final = -1


@runtime_checkable
class LeaseStore(Protocol):
    """A store that knows who leads: `blockstore.cassandra_store.CassandraStore`."""

    async def lease(self) -> Lease:
        """Who leads."""

    async def renew_lease(self, term: int, renewals: int) -> None:
        """Count the lease of `term` up. Errors: Fenced."""


class Leading(Protocol):
    """What leads: `leader_bridge.bridge.Bridge`."""

    @property
    def term(self) -> int:
        """Its term, 0 before it has one."""

    async def run(self) -> None:
        """Lead until stopped. Errors: Fenced."""

    def stop(self) -> None:
        """Ask `run` to end."""


async def wait_for_turn(store: LeaseStore, owner: str, lease_seconds: float) -> None:
    """Return when nobody leads: no term yet, one that was given up or is our own, or a counter that stands still.

    While the store does not answer nothing is known, and the waiting begins anew.
    """
    seen: tuple[int, int] | None = None
    since = 0.0
    patience = lease_seconds * random.uniform(*_PATIENCE)
    while True:
        try:
            lease = await store.lease()
        except StoreError as error:
            log.warning("the lease cannot be read: %s", error)
            seen = None
        else:
            now = time.monotonic()
            if lease.term == 0 or lease.owner == owner or lease.renewals == _GIVEN_UP:
                return
            if seen != (lease.term, lease.renewals):
                if seen is None:
                    log.info("standing by: %s leads, term %d", lease.owner, lease.term)
                seen, since = (lease.term, lease.renewals), now
            elif now - since >= patience:
                log.warning("%s has not renewed term %d for %.1f s", lease.owner, lease.term, now - since)
                return
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


async def lead(
    store: LeaseStore, make: Callable[[], Leading], owner: str, lease_seconds: float, stop: asyncio.Event
) -> None:
    """Stand by, lead, and stand by again when fenced, until `stop` is set. `owner` is this process's own name.

    Errors: what a leader's `run` raises, but for Fenced.
    """
    stopped = asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            turn = asyncio.create_task(wait_for_turn(store, owner, lease_seconds))
            await asyncio.wait({turn, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not turn.done():
                turn.cancel()
                await asyncio.gather(turn, return_exceptions=True)
                return
            turn.result()
            await _lead_once(store, make(), lease_seconds, stop, stopped)
    finally:
        stopped.cancel()
        await asyncio.gather(stopped, return_exceptions=True)


async def _lead_once(
    store: LeaseStore, leader: Leading, lease_seconds: float, stop: asyncio.Event, stopped: asyncio.Task[bool]
) -> None:
    """One term, to its end."""
    running = asyncio.create_task(leader.run())
    renewing = asyncio.create_task(_renew(store, leader, lease_seconds))
    try:
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        leader.stop()
        await running
    except Fenced as error:
        log.warning("fenced: %s", error)
    finally:
        for task in (running, renewing):
            task.cancel()
        await asyncio.gather(running, renewing, return_exceptions=True)
    if stop.is_set() and leader.term:
        # the next one need not wait
        with contextlib.suppress(StoreError):
            await store.renew_lease(leader.term, _GIVEN_UP)
