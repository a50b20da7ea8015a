"""The transactions that have come into a full node's mempool, as installed filters report them.

A process hears one node's mempool from the first such filter that is installed or polled in it until none has been for
a filter's life. Filters stand in the store and keep the time up to which they have told, so any process that has heard
the mempool since then answers a poll. As in Lotus the oldest are left out where there are more than one poll
returns. Source: Lotus `chain/events/filter/mempool.go`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from chain.errors import ChainError
from chain.tipset import EMPTY_KEY
from rpc.context import Context
from rpc.errors import NeedsNode, Unavailable
from rpc.lookup.filters.installed_filters import PENDING, FilterState, filters_of
from rpc.lookup.head_changes import Cursor
from rpc.methods.eth.pending import MPOOL_ADD, pending_hash
from rpc.services import Mempool

_KEY: Final = "pending_hashes"
#: seconds that a call waits until the mempool is heard
_BEGIN_SECONDS: Final = 10.0

MISSED: Final = (
    "pending transactions since the filter's last poll were missed: this process has not heard the mempool all that "
    "time. Go on polling: the filter tells what comes from now on"
)


class Missed(Exception):
    """Not everything was heard. `until`: from this time on it is, ms since 1970."""

    def __init__(self, until: int) -> None:
        super().__init__(until)
        self.until = until


def _now() -> int:
    return time.time_ns() // 1_000_000


class PendingHashes:
    """The last `most` hashes, with the times at which they were heard, ms since 1970.

    Nothing is heard any more when nobody has asked for `idle_seconds`.
    """

    def __init__(
        self, mempool: Mempool, chain_id: int, most: int, idle_seconds: float, now: Callable[[], int] = _now
    ) -> None:
        self._mempool = mempool
        self._chain_id = chain_id
        self._idle_seconds = idle_seconds
        self._now = now
        self._heard: deque[tuple[int, bytes]] = deque(maxlen=most)
        self._task: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None

    async def begin(self) -> int:
        """Hear the mempool; the time at which it is heard. Errors: Unavailable (no node tells)."""
        if self._task is None or self._task.done():
            self._heard.clear()
            self._task = asyncio.create_task(self._hear(), name="pending transactions")
            # it begins to read
            await asyncio.sleep(0)
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self._task.cancel)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BEGIN_SECONDS):
                await self._mempool.wait_until_heard()
        if self._mempool.heard_since is None:
            raise Unavailable("no full node behind this follower tells its mempool now: ask again later")
        return self._now()

    async def after(self, told: int) -> tuple[list[bytes], int]:
        """(the hashes heard after `told`, oldest first; the time until which these are all).

        Errors: Unavailable, Missed.
        """
        was_heard = self._task is not None and not self._task.done()
        # what comes in this millisecond is told by the next poll
        until = await self.begin() - 1
        heard_since = self._mempool.heard_since
        if not was_heard or heard_since is None or told < heard_since:
            raise Missed(until + 1)
        return [digest for at, digest in self._heard if told < at <= until], until

    async def _hear(self) -> None:
        updates = self._mempool.updates()
        try:
            async for update in updates:
                if update.get("Type") != MPOOL_ADD:
                    continue
                with contextlib.suppress(ValueError, ChainError):
                    # what is no message has no hash
                    self._heard.append((self._now(), pending_hash(update.get("Message"), self._chain_id)))
        finally:
            close = getattr(updates, "aclose", None)
            if close is not None:
                await close()


def pending_hashes(ctx: Context) -> PendingHashes:
    """The process's `PendingHashes`. Errors: NeedsNode."""
    mempool = ctx.services.mempool
    if mempool is None:
        raise NeedsNode("Filecoin.EthNewPendingTransactionFilter")
    found: PendingHashes | None = ctx.caches.get(_KEY)
    if found is None:
        limits = filters_of(ctx).limits
        found = ctx.caches[_KEY] = PendingHashes(mempool, ctx.network.eth_chain_id, limits.results, limits.ttl_seconds)
    return found


def cursor_at(told: int) -> Cursor:
    """A filter of pending transactions has told what was heard until this time."""
    return Cursor(told, 0, 0, EMPTY_KEY)


async def new_pending_filter(ctx: Context) -> FilterState:
    """A filter that tells what is heard from now on. Errors: NeedsNode, Unavailable."""
    return FilterState(PENDING, cursor_at(await pending_hashes(ctx).begin()), 0)
