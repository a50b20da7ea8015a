"""Keeps a balancer's file and the running balancer up to date with the fleet.

The file is the one truth: it is written, then the balancer is told to read it. A file that the balancer would not
take never takes the place of the former one. Whatever cannot be read or told is tried again at the next look; till
then what was before stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blockstore.errors import StoreError
from loadbalancer.control import BadConfiguration, Balancer, ReloadFailed
from loadbalancer.files import replace_file
from loadbalancer.fleet import SERVING, FleetWatch, Member
from loadbalancer.settings import LAST_RESORT_PATH

log = logging.getLogger(__name__)

#: seconds that a follower may take to say whether it is ready
_PROBE_SECONDS: Final = 3.0
#: followers asked at once, and equal answers in a row until one is marked so
_AT_ONCE: Final = 64
_CONFIRMATIONS: Final = 2


class Readiness(enum.Enum):
    """What a follower says of itself."""

    READY = "ready"
    #: its answers are right, its head is behind or old: a last resort
    BEHIND = "behind"
    DOWN = "down"


Probe = Callable[[Member], Awaitable[Readiness]]


async def probe_readiness(member: Member) -> Readiness:
    """Ask a follower's `/readyz`. Never raises what a network can do."""
    if await _answers_200(member, "/readyz"):
        return Readiness.READY
    return Readiness.BEHIND if await _answers_200(member, LAST_RESORT_PATH) else Readiness.DOWN


async def _answers_200(member: Member, path: str) -> bool:
    request = f"GET {path} HTTP/1.1\r\nHost: {member.address}\r\nConnection: close\r\n\r\n".encode()
    with contextlib.suppress(OSError, TimeoutError, EOFError, ValueError):
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(member.host, member.port)
            try:
                writer.write(request)
                await writer.drain()
                return (await reader.readline()).split(b" ", 2)[1:2] == [b"200"]
            finally:
                writer.close()
    return False


@dataclass(slots=True)
class _Observed:
    """How a member is marked, and what it said last, how often in a row."""

    marked: Readiness = Readiness.READY
    last: Readiness = Readiness.READY
    times: int = 0

    def add(self, said: Readiness) -> None:
        """A member changes its mark when it says the same twice in a row; who was down is ready at once."""
        self.times = self.times + 1 if said is self.last else 1
        self.last = said
        if self.times >= _CONFIRMATIONS or (self.marked is Readiness.DOWN and said is Readiness.READY):
            self.marked = said


class Watcher:
    """Applies the fleet to one balancer, turn by turn."""

    def __init__(self, fleet: FleetWatch, balancer: Balancer, file: Path, *, probe: Probe = probe_readiness) -> None:
        self._fleet = fleet
        self._balancer = balancer
        self._file = file
        self._probe = probe
        self._observed: dict[str, _Observed] = {}
        #: the balancer has not loaded the file yet
        self._needs_reload = False
        self._refused: str | None = None
        self._said = ""

    async def run(self, stop: asyncio.Event, interval: float) -> None:
        """Turns, `interval` seconds apart, until `stop`."""
        while not stop.is_set():
            await self.turn()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), interval)

    async def turn(self) -> None:
        """Look at the fleet; where it has changed, change the file and tell the balancer."""
        try:
            members = [member for member in await self._fleet.look() if member.state == SERVING]
        except StoreError as error:
            self._say(logging.WARNING, f"the fleet cannot be read, the configuration stands: {error}")
            return
        if not members and self._file.exists():
            # more likely nobody can renew than all are gone; the balancer checks their health anyway
            self._say(logging.WARNING, "no member of the fleet renews its registration: the configuration stands")
            return
        if not self._balancer.checks_health:
            await self._observe(members)
        try:
            await self._apply(members)
        except BadConfiguration as error:
            self._say(logging.ERROR, f"{self._file} stays as it was, the new one is refused: {error}")
        except ReloadFailed as error:
            self._say(logging.ERROR, f"{self._file} is written, but: {error}")
        except OSError as error:
            self._say(logging.ERROR, f"{self._file} cannot be written: {error}")
        else:
            self._said = ""

    async def _apply(self, members: Sequence[Member]) -> None:
        down, behind = self._marked(Readiness.DOWN), self._marked(Readiness.BEHIND)
        text = self._balancer.config(members, down, behind)
        if text == self._refused:
            return
        if not self._file.exists() or self._file.read_text() != text:
            with replace_file(self._file, text) as new:
                try:
                    await self._balancer.check(new)
                except BadConfiguration:
                    self._refused = text
                    raise
            self._needs_reload = True
        self._refused = None
        if self._needs_reload:
            await self._balancer.reload(self._file)
            self._needs_reload = False
            marks = (("not ready", down), ("behind", behind))
            notes = [f", {name}: {', '.join(sorted(some))}" for name, some in marks if some]
            # that no follower is fresh is for somebody to look at
            level = logging.WARNING if behind and len(down) + len(behind) == len(members) else logging.INFO
            log.log(level, "%s: %d followers%s", self._file, len(members), "".join(notes))

    async def _observe(self, members: Sequence[Member]) -> None:
        """Ask every member how it is."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def ask(member: Member) -> None:
            async with places:
                said = await self._probe(member)
            self._observed.setdefault(member.address, _Observed()).add(said)

        await asyncio.gather(*(ask(member) for member in members))
        addresses = {member.address for member in members}
        self._observed = {address: one for address, one in self._observed.items() if address in addresses}

    def _marked(self, readiness: Readiness) -> frozenset[str]:
        return frozenset(address for address, one in self._observed.items() if one.marked is readiness)

    def _say(self, level: int, text: str) -> None:
        """Log a text once, until another one comes."""
        if text != self._said:
            log.log(level, "%s", text)
            self._said = text
