"""What a serving process tells the balancers: its row of the fleet, and its answers to agent checks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from blockstore.store import Store
from follower.settings import CannotRun, Settings, split_listen
from loadbalancer.agent import AgentCheck, Condition
from loadbalancer.fleet import BadAddress, Member, Registration, require_reachable_address
from rpc.server.server import Server

log = logging.getLogger(__name__)

#: seconds for each write that says that this member leaves
_LEAVE_SECONDS: Final = 2.0


def fleet_member(settings: Settings, version: str) -> Member | None:
    """The row that this process keeps, or None where it belongs to no fleet. Errors: CannotRun (its address).

    `fleet = "auto"` registers where there can be others: over a store that machines share, and where `advertise`
    or `agent_listen` is set.
    """
    wanted = settings["fleet"]
    asked = bool(settings["advertise"] or settings["agent_listen"])
    shared = settings["store"].startswith("cassandra://")
    if wanted == "off" or (wanted == "auto" and not asked and not shared):
        return None
    name = "advertise" if settings["advertise"] else "listen"
    try:
        address = require_reachable_address(settings[name])
    except BadAddress as error:
        raise CannotRun(
            f"{name}: {error}; set advertise to the HOST:PORT under which balancers reach this follower, "
            'or fleet to "off"'
        ) from None
    agent_port = split_listen(settings["agent_listen"])[1] if settings["agent_listen"] else 0
    return Member(
        address=address,
        agent_port=agent_port,
        version=version,
        max_body=settings["max_body_mb"] << 20,
        renew_seconds=settings["renew_seconds"],
    )


class Membership:
    """A server's part in the fleet, from its first request to its last. `member` None: it belongs to none."""

    def __init__(self, settings: Settings, server: Server, store: Store, member: Member | None) -> None:
        self._settings = settings
        self._server = server
        self._registration = None if member is None else Registration(store, member, lambda: server.health.draining)
        self._agent = AgentCheck(self.condition) if settings["agent_listen"] else None

    async def condition(self) -> Condition:
        """What agent checks answer, from the checks of `/readyz`."""
        if self._server.health.draining:
            return Condition(False, draining=True)
        health = self._server.health
        whole, fresh = await asyncio.gather(health.whole(), health.fresh())
        failed = [f"{name}: {result.text}" for name, result in (whole | fresh).items() if not result.ok]
        is_whole = all(result.ok for result in whole.values())
        return Condition(not failed, reason="; ".join(failed), behind=is_whole)

    async def join(self) -> None:
        """Answer agent checks, and be in the fleet from now on. Errors: OSError (the agent's address)."""
        if self._agent is not None:
            await self._agent.listen(*split_listen(self._settings["agent_listen"]))
        if self._registration is not None:
            self._registration.start()

    async def leave(self, hurry: asyncio.Event) -> float:
        """Announce that this server stops, and wait until balancers have noticed, or until `hurry`.

        Requests are answered meanwhile. Returns the seconds of `drain_seconds` that are left.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        whole: float = self._settings["drain_seconds"]
        self._server.drain()
        if self._registration is not None:
            await self._registration.drain(min(_LEAVE_SECONDS, whole))
        if self._registration is not None or self._agent is not None:
            notice = min(self._settings["drain_notice_seconds"], whole) - (loop.time() - began)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), max(notice, 0))
        if self._registration is not None:
            await self._registration.leave(_LEAVE_SECONDS)
        return max(whole - (loop.time() - began), 0.0)

    async def close(self) -> None:
        """Answer no agent check any more."""
        if self._agent is not None:
            await self._agent.close()
