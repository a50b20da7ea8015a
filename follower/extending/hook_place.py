"""How far a hook has come, and which process runs it: one row of the FLEET table for each hook.

Only compare-and-set writes it, so two processes never both go on from one place. A process that runs a hook renews the
row; another takes it over when the row has not changed for two lease times by its own clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from dataclasses import dataclass, replace
from typing import Final

import orjson

from blockstore.errors import StoreError, StoreUnavailable
from blockstore.store import FLEET, Store

log = logging.getLogger(__name__)

#: partition of the FLEET table; row key: the hook's name
_HOOKS: Final = b"hooks"
_RETRY_SECONDS: Final = 0.5


class HookTaken(StoreError):
    """Another process runs this hook."""


@dataclass(frozen=True, slots=True)
class _Row:
    """`owner`: "" for none; `renewals`: grows while one runs it; `position`: None before the first change."""

    owner: str
    renewals: int
    position: str | None

    def encode(self) -> bytes:
        return orjson.dumps([self.owner, self.renewals, self.position])


class HookPlace:
    """The row of one hook. `lease_seconds`: see the module."""

    def __init__(self, store: Store, name: str, lease_seconds: float) -> None:
        self._store = store
        self._key = name.encode()
        self._lease_seconds = lease_seconds
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._lock = asyncio.Lock()
        self._row: _Row | None = None

    async def take(self, stop: asyncio.Event) -> bool:
        """Wait until this process may run the hook; False when `stop` is set first. Errors: StoreError."""
        seen: bytes | None = None
        unchanged_since = 0.0
        clock = asyncio.get_running_loop().time
        while not stop.is_set():
            value = await self._store.row(FLEET, _HOOKS, self._key)
            row = _Row("", 0, None) if value is None else _Row(*orjson.loads(value))
            if value != seen:
                if row.owner and seen is None:
                    log.info("hook %s runs in %s: standing by", self._key.decode(), row.owner)
                seen, unchanged_since = value, clock()
            if not row.owner or clock() - unchanged_since > 2 * self._lease_seconds:
                mine = replace(row, owner=self._owner, renewals=row.renewals + 1)
                if await self._swap(value, mine):
                    return True
            await _pause(stop, min(_RETRY_SECONDS, self._lease_seconds / 4))
        return False

    @property
    def position(self) -> str | None:
        """The position that was kept last."""
        return None if self._row is None else self._row.position

    async def keep(self, position: str) -> None:
        """Keep a position. Errors: HookTaken, StoreError."""
        await self._update(position)

    async def renew(self) -> None:
        """Renew until cancelled. Errors: HookTaken, StoreError."""
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            await self._update(None)

    async def release(self) -> None:
        """Let another process, or the next one here, go on at once."""
        async with self._lock:
            if self._row is not None:
                with contextlib.suppress(StoreError):
                    await self._swap(self._row.encode(), replace(self._row, owner=""))
                self._row = None

    async def _update(self, position: str | None) -> None:
        async with self._lock:
            row = self._row
            if row is None:
                raise HookTaken("the hook is not held")
            new = replace(row, renewals=row.renewals + 1, position=position or row.position)
            if not await self._swap(row.encode(), new):
                self._row = None
                raise HookTaken(f"another process runs hook {self._key.decode()} now")

    async def _swap(self, expected: bytes | None, new: _Row) -> bool:
        """Write the row if it is `expected`. A write whose outcome is not known is looked up."""
        value = new.encode()
        try:
            done = await self._store.swap(FLEET, _HOOKS, self._key, expected, value)
        except StoreUnavailable:
            await asyncio.sleep(_RETRY_SECONDS)
            found = await self._store.row(FLEET, _HOOKS, self._key)
            if found == expected:
                raise
            done = found == value
        if done:
            self._row = new
        return done


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
