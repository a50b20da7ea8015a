"""The fleet: rows of the FLEET table, how a follower renews its own, and how a reader finds the dead ones.

One row a member, under the address that a balancer uses for it. The processes behind one address (workers on one
port) keep one row together: any of them renews it. A row says that it was renewed by being another than before, so
no clocks are compared: a reader that goes on looking (`FleetWatch`) counts for how long a row has stayed the same.
A reader that looks once (`recent`) has only the time written in the row, and is generous with it.

What a row says is not trusted: followers may write these rows, and configuration files are made of them. A row
with anything else than an address in the place of an address is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from blockstore.errors import StoreError
from blockstore.store import FLEET, Batch, Store

log = logging.getLogger(__name__)

SERVING: Final = "serving"
#: it still answers, but takes nothing new
DRAINING: Final = "draining"

#: the partition holds no more rows than this (some 400 kB): who comes later is not registered
MOST_MEMBERS: Final = 1000
#: bytes of a row; a longer one is nobody's
_MOST_BYTES: Final = 4096
#: missed renewals until a member counts as gone, and until its row is removed
MISSED_RENEWALS: Final = 6
_FORGET: Final = 60
#: for a reader that looks once: seconds, and renewals, that a row may be old, whatever the clocks say
_RECENT_SECONDS: Final = 120.0
#: a member reads the others' rows once in so many renewals of its own
_SWEEP: Final = 4

_MEMBERS: Final = b"members"
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?\Z")
_VERSION: Final = re.compile(r"[^A-Za-z0-9 ._+/-]")


class BadAddress(ValueError):
    """Not an address that a balancer could use; the text says why."""


def split_address(text: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT. Brackets around IPv6 are taken off. Errors: BadAddress."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            # no scope: what stands behind a % may be anything
            if ipaddress.IPv6Address(host).scope_id is not None:
                raise ValueError
        except ValueError:
            raise BadAddress(f"{text!r} is no HOST:PORT") from None
    elif not _HOST.match(host):
        raise BadAddress(f"{text!r} is no HOST:PORT")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise BadAddress(f"{text!r} has no port from 1 to 65535")
    return host, int(port)


def require_reachable_address(text: str) -> str:
    """The address itself, if others can connect to it. Errors: BadAddress (a wildcard, port 0, no HOST:PORT)."""
    host, _ = split_address(text)
    try:
        wildcard = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        wildcard = False  # a name
    if wildcard:
        raise BadAddress(f"{text} stands for every address of this machine: no balancer can connect to it")
    return text


@dataclass(frozen=True, slots=True)
class Member:
    """A row. `address` (HOST:PORT) is also its key; `agent_port` 0 says that no agent check is answered.

    `renew_seconds` is the time between renewals, `max_body` the largest request body in bytes, `written_ms` the
    writer's clock (milliseconds since 1970), `instance` and `renewals` what makes each renewal another row.
    """

    address: str
    state: str = SERVING
    agent_port: int = 0
    version: str = ""
    max_body: int = 100 << 20
    renew_seconds: float = 5.0
    written_ms: int = 0
    instance: str = ""
    renewals: int = 0

    @property
    def host(self) -> str:
        """Without brackets."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """Where JSON-RPC is served."""
        return split_address(self.address)[1]

    def encode(self) -> bytes:
        """The row's value."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()


def decode_member(key: bytes, value: bytes) -> Member | None:
    """The member that a row describes; None for a row that is not valid."""
    try:
        if len(value) > _MOST_BYTES:
            raise ValueError("too long")
        found: dict[str, Any] = json.loads(value)
        member = Member(
            address=require_reachable_address(found["address"]),
            state=found["state"],
            agent_port=_within(found["agent_port"], 0, 65535),
            version=_VERSION.sub("?", str(found["version"]))[:80],
            max_body=_within(found["max_body"], 1, 1 << 40),
            renew_seconds=_seconds(found["renew_seconds"]),
            written_ms=_within(found["written_ms"], 0, 1 << 53),
            instance=str(found["instance"])[:64],
            renewals=_within(found["renewals"], 0, 1 << 53),
        )
        if member.state not in (SERVING, DRAINING) or member.address.encode() != key:
            raise ValueError("state or key")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("a row of the fleet is left out: %r: %s", key[:80], error)
        return None
    return member


def _within(value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError("a number is out of range")
    return value


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0.0 < seconds < 1e9:
        raise ValueError("a number is out of range")
    return min(max(seconds, 0.05), 60.0)


async def read_fleet(store: Store) -> dict[str, tuple[Member, bytes]]:
    """Every row that makes sense, by address, with its bytes. Errors: StoreError."""
    rows = await store.scan(FLEET, _MEMBERS, limit=MOST_MEMBERS)
    members = ((decode_member(key, value), value) for key, value in rows)
    return {member.address: (member, value) for member, value in members if member is not None}


def is_recent(member: Member, now_ms: int) -> bool:
    """Whether a row that is read once may be of a living member: written lately, by clocks that need not agree.

    Within two minutes (or 24 renewals) of the reader's clock, in the past or the future. A member killed within
    that time still counts: the balancer's health checks keep requests from it.
    """
    slack = max(_RECENT_SECONDS, 4 * MISSED_RENEWALS * member.renew_seconds)
    return abs(now_ms - member.written_ms) <= slack * 1000


@dataclass(slots=True)
class _Seen:
    value: bytes
    #: seconds for which the row is known to have stayed the same, between looks that succeeded
    unchanged: float = 0.0


class FleetWatch:
    """A reader that goes on looking, once about every `interval` seconds.

    A row that has just been seen for the first time counts as living. Time counts against a row only between two
    looks that both succeeded, and no more than two intervals at a time: neither a store that did not answer nor a
    reader that was suspended makes anyone dead.
    """

    def __init__(self, store: Store, interval: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._most = 2 * interval
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._looked: float | None = None

    async def look(self) -> list[Member]:
        """The members that live, in the order of their addresses; rows of the long dead are removed.

        Errors: StoreError: nothing is known then, what was known before stands.
        """
        try:
            rows = await read_fleet(self._store)
        except StoreError:
            self._looked = None
            raise
        now = self._clock()
        passed = 0.0 if self._looked is None else min(now - self._looked, self._most)
        self._looked = now
        living: list[Member] = []
        dead: list[tuple[str, bytes]] = []
        for address, (member, value) in sorted(rows.items()):
            seen = self._seen.get(address)
            if seen is None or seen.value != value:
                self._seen[address] = _Seen(value)
            else:
                seen.unchanged += passed
            unchanged = self._seen[address].unchanged
            if unchanged < MISSED_RENEWALS * member.renew_seconds:
                living.append(member)
            elif unchanged >= _FORGET * member.renew_seconds:
                dead.append((address, value))
        for address in self._seen.keys() - rows.keys():
            del self._seen[address]
        for address, value in dead:
            await self._forget(address, value)
        return living

    async def _forget(self, address: str, value: bytes) -> None:
        """Remove a row that is still what it was; one renewed in this very moment comes back with its next renewal."""
        key = address.encode()
        with contextlib.suppress(StoreError):
            if await self._store.row(FLEET, _MEMBERS, key) == value:
                batch = Batch()
                batch.delete(FLEET, _MEMBERS, key)
                await self._store.write(batch)
                log.info("%s has not renewed for long: its row is removed", address)


class Registration:
    """Keeps a member's row for one process. Errors are logged; they never stop serving.

    `draining` is read at each renewal, so that the row of a draining server says so.
    """

    def __init__(self, store: Store, member: Member, draining: Callable[[], bool] = lambda: False) -> None:
        self._store = store
        self._member = replace(member, instance=secrets.token_hex(8))
        self._draining = draining
        self._watch = FleetWatch(store, _SWEEP * member.renew_seconds)
        self._renewing: asyncio.Task[None] | None = None
        self._failing = False
        self._shown = False

    def start(self) -> None:
        """Write the row now, and go on renewing it."""
        self._renewing = asyncio.create_task(self._run(), name="fleet registration")

    async def drain(self, seconds: float) -> None:
        """Renew no more, and say `draining`, taking at most `seconds`."""
        await self._halt()
        await self._bounded(self._write(DRAINING), seconds)

    async def leave(self, seconds: float) -> None:
        """Renew no more, and remove the row, taking at most `seconds`."""
        await self._halt()
        await self._bounded(self._remove(), seconds)

    async def _halt(self) -> None:
        task, self._renewing = self._renewing, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        count = 0
        while True:
            try:
                if not self._shown or count % _SWEEP == 0:
                    await self._look()
                if self._shown:
                    await self._write(DRAINING if self._draining() else SERVING)
                self._failing = False
            except Exception as error:
                # whatever it is: answering requests does not depend on it
                if not self._failing:
                    log.warning("the registration in the fleet is not renewed: %s", error)
                self._failing = True
            count += 1
            await asyncio.sleep(self._member.renew_seconds)

    async def _look(self) -> None:
        """Remove the rows of the long dead, and see whether there is room for this one."""
        await self._watch.look()
        if not self._shown:
            rows = await self._store.scan(FLEET, _MEMBERS, limit=MOST_MEMBERS)
            self._shown = len(rows) < MOST_MEMBERS or any(key == self._member.address.encode() for key, _ in rows)
            if not self._shown:
                log.error("the fleet has %d rows: %s is not registered", MOST_MEMBERS, self._member.address)

    async def _write(self, state: str) -> None:
        self._member = replace(
            self._member, state=state, written_ms=int(time.time() * 1000), renewals=self._member.renewals + 1
        )
        batch = Batch()
        batch.put(FLEET, _MEMBERS, self._member.address.encode(), self._member.encode())
        await self._store.write(batch)

    async def _remove(self) -> None:
        batch = Batch()
        batch.delete(FLEET, _MEMBERS, self._member.address.encode())
        await self._store.write(batch)

    async def _bounded(self, work: Any, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await work
        except Exception as error:
            log.warning("%s: the fleet is not told that it leaves: %r", self._member.address, error)
