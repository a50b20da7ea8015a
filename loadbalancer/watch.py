"""Keeping a balancer's file, and the running balancer, as the fleet is.

The file is the one truth: it is written, then the balancer is told to read it. A file that the balancer would not
take never takes the place of the former one. Whatever cannot be read or told is tried again at the next look; till
then what was before stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from blockstore.errors import StoreError
from loadbalancer.control import BadConfiguration, Balancer, ReloadFailed
from loadbalancer.files import replace_file
from loadbalancer.fleet import SERVING, FleetWatch, Member

log = logging.getLogger(__name__)

#: seconds that a follower may take to say whether it is ready
_PATIENCE: Final = 3.0
#: followers asked at once, and bad answers in a row until one counts as not ready
_AT_ONCE: Final = 64
_STRIKES: Final = 2

Probe = Callable[[Member], Awaitable[bool]]


async def ready(member: Member) -> bool:
    """Whether its `/readyz` answers 200. Never raises what a network can do."""
    request = f"GET /readyz HTTP/1.1\r\nHost: {member.address}\r\nConnection: close\r\n\r\n".encode()
    with contextlib.suppress(OSError, TimeoutError, EOFError, ValueError):
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(member.host, member.port)
            try:
                writer.write(request)
                await writer.drain()
                return (await reader.readline()).split(b" ", 2)[1:2] == [b"200"]
            finally:
                writer.close()
    return False


class Watcher:
    """Applies the fleet to one balancer, in turns."""

    def __init__(self, fleet: FleetWatch, balancer: Balancer, file: Path, *, probe: Probe = ready) -> None:
        self._fleet = fleet
        self._balancer = balancer
        self._file = file
        self._probe = probe
        self._strikes: dict[str, int] = {}
        #: the file is newer than what the balancer runs with
        self._untold = False
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
            # that all have gone is less likely than that none can renew; their health is checked anyway
            self._say(logging.WARNING, "no member of the fleet renews its registration: the configuration stands")
            return
        down = frozenset[str]() if self._balancer.checks_health else await self._not_ready(members)
        try:
            await self._apply(members, down)
        except BadConfiguration as error:
            self._say(logging.ERROR, f"{self._file} stays as it was, the new one is refused: {error}")
        except ReloadFailed as error:
            self._say(logging.ERROR, f"{self._file} is written, but: {error}")
        except OSError as error:
            self._say(logging.ERROR, f"{self._file} cannot be written: {error}")
        else:
            self._said = ""

    async def _apply(self, members: Sequence[Member], down: frozenset[str]) -> None:
        text = self._balancer.config(members, down)
        if text == self._refused:
            return
        if not self._file.exists() or self._file.read_text() != text:
            with replace_file(self._file, text) as new:
                try:
                    await self._balancer.check(new)
                except BadConfiguration:
                    self._refused = text
                    raise
            self._untold = True
        self._refused = None
        if self._untold:
            await self._balancer.reload(self._file)
            self._untold = False
            out = f", not ready: {', '.join(sorted(down))}" if down else ""
            log.info("%s: %d followers%s", self._file, len(members), out)

    async def _not_ready(self, members: Sequence[Member]) -> frozenset[str]:
        """The addresses of members that said twice in a row that they are not ready, or nothing."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def ask(member: Member) -> None:
            async with places:
                good = await self._probe(member)
            self._strikes[member.address] = 0 if good else self._strikes.get(member.address, 0) + 1

        await asyncio.gather(*(ask(member) for member in members))
        addresses = {member.address for member in members}
        self._strikes = {address: count for address, count in self._strikes.items() if address in addresses}
        return frozenset(address for address, count in self._strikes.items() if count >= _STRIKES)

    def _say(self, level: int, text: str) -> None:
        """Once, until something else is to be said."""
        if text != self._said:
            log.log(level, "%s", text)
            self._said = text
