"""What each new head brought, sent to the followers of a region while they would begin to ask for it.

Nothing depends on it: a follower that has not got a piece reads from the store. So whatever is in the way (too much
at once, a follower that is gone, a store that is slow) costs the piece, never the head.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Final

from blockstore.background import in_background
from blockstore.cid import Cid
from blockstore.errors import StoreError
from blockstore.shards.objects import pack, packed_size
from leader_bridge import metrics
from leader_bridge.dispersal.sender import LEAST_FOLLOWERS, Sender
from leader_bridge.follow.publisher import Publisher
from leader_bridge.store.mirror import Mirror

log = logging.getLogger(__name__)

#: a head that brings more is not sent: the first of a store, or one behind a long gap
_MOST_BYTES: Final = 32 << 20


class HeadDispersal:
    """Gathers what a bridge fetches for a head and sends it when the head is published.

    `least_bytes`: a head that brings less is not sent: reading it costs the followers less than passing it on.
    """

    def __init__(self, sender: Sender, *, least_bytes: int) -> None:
        self._sender = sender
        self._least_bytes = least_bytes
        self._gathered: dict[Cid, bytes] = {}
        self._bytes = 0
        self._piece: dict[Cid, bytes] | None = None
        self._wake = asyncio.Event()
        #: whether a head waits or is on its way
        self.is_busy = False
        self._failed = False
        #: heads that were sent, and that brought too little
        self.sent = self.small = 0

    def attach(self, mirror: Mirror, publisher: Publisher) -> None:
        """Send what this bridge fetches and publishes from now on."""
        self._gathered, self._bytes = {}, 0
        mirror.on_fetched = self._fetched
        publisher.on_head.append(self._published)

    def _fetched(self, found: Mapping[Cid, bytes]) -> None:
        for cid, data in found.items():
            if cid not in self._gathered:
                self._bytes += len(data)
                # counted on, so that it is known to be too much; not kept
                if self._bytes <= _MOST_BYTES:
                    self._gathered[cid] = data

    def _published(self) -> None:
        gathered, self._gathered = self._gathered, {}
        size, self._bytes = self._bytes, 0
        if size > _MOST_BYTES:
            metrics.DISPERSED.labels("too much").inc()
        elif packed_size(len(gathered), size) < self._least_bytes or len(self._sender.followers) < LEAST_FOLLOWERS:
            self.small += 1
            metrics.DISPERSED.labels("too little").inc()
        else:
            if self._piece is not None:
                # two heads in one piece
                waiting = sum(map(len, self._piece.values()))
                if waiting + size <= _MOST_BYTES:
                    gathered = {**self._piece, **gathered}
                metrics.DISPERSED.labels("overtaken").inc()
            self._piece = gathered
            self.is_busy = True
            self._wake.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send within the block."""
        task = in_background(self._run(), "dispersal")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._sender.close()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            piece, self._piece = self._piece, None
            if piece is not None:
                await self._send(piece)
            self.is_busy = self._piece is not None

    async def _send(self, piece: Mapping[Cid, bytes]) -> None:
        before = self._sender.sent_bytes
        try:
            sent = await self._sender.send(await asyncio.to_thread(pack, piece.items()))
        except (StoreError, ValueError) as error:
            if not self._failed:
                log.warning("a head is not sent to followers (%s): they read it from the store", error)
            self._failed = True
            metrics.DISPERSED.labels("failed").inc()
            return
        self._failed = False
        metrics.DISPERSED_BYTES.inc(self._sender.sent_bytes - before)
        metrics.DISPERSED.labels("sent" if sent.taken else "failed").inc()
        self.sent += bool(sent.taken)
