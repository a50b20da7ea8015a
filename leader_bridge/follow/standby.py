"""Standbys that could lead: how they announce themselves, and how a leader that makes no progress learns of them.

A standby whose nodes answer keeps a row in the FLEET table with a counter and the epoch of its best node's head. The
leader takes a row whose counter moves for a standby that waits. When one is ahead of the published head for several
lease times in which the leader made no progress, the leader steps down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Protocol

import orjson

from blockstore.errors import StoreError
from blockstore.store import FLEET, Batch, Table
from leader_bridge.clock import monotonic
from leader_bridge.nodes.subscription import fetch_chain_head
from rpc.client.client import NodeClient
from rpc.client.node_info import NodeInfo
from rpc.node_errors import NodeError

log = logging.getLogger(__name__)

#: partition of the FLEET table; row key: the standby's name, value: [counter, epoch] as JSON
_STANDBYS: Final = b"standbys"
_MOST_STANDBYS: Final = 64
_NODE_TIMEOUT: Final = 2.0
#: in lease times: how often a standby announces itself, for how long an announcement holds, after how long a row that
#: nobody renews is removed
_ANNOUNCE: Final = 1 / 2
_FRESH: Final = 1.5
_FORGET: Final = 20
#: lease times without progress after which a leader steps down for a standby that is ahead
STEP_DOWN: Final = 3


class RowStore(Protocol):
    """The rows of a store: `blockstore.store.Store`."""

    async def write(self, batch: Batch) -> None:
        """Apply a batch of row writes."""

    async def scan(
        self,
        table: Table,
        partition: bytes,
        *,
        start: bytes = b"",
        end: bytes | None = None,
        reverse: bool = False,
        limit: int = 1000,
    ) -> list[tuple[bytes, bytes]]:
        """(key, value) of one partition."""


class Progress(Protocol):
    """What a leader does: `leader_bridge.bridge.Bridge`."""

    @property
    def progress(self) -> int:
        """A number that grows with everything published or fetched."""

    @property
    def published_height(self) -> int:
        """Epoch of the published head; -1 without one."""


class StandbyNodes:
    """The nodes of a bridge that does not lead. `await aclose()` when done."""

    def __init__(self, nodes: Sequence[NodeInfo]) -> None:
        self._clients = [NodeClient(node, timeout=_NODE_TIMEOUT) for node in nodes]

    async def highest(self) -> int | None:
        """The highest epoch that a node shows as its head; None when none answers."""
        heads = await asyncio.gather(*(fetch_chain_head(client) for client in self._clients), return_exceptions=True)
        heights: list[int] = []
        for head in heads:
            if isinstance(head, NodeError):
                log.debug("a node of this standby: %s", head)
            elif isinstance(head, BaseException):
                raise head
            else:
                heights.append(head.height)
        return max(heights, default=None)

    async def aclose(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(client.close() for client in self._clients))


async def announce(store: RowStore, owner: str, nodes: StandbyNodes, lease_seconds: float) -> None:
    """Keep this standby's row, until cancelled, while a node of it answers."""
    counter = 0
    while True:
        height = await nodes.highest()
        if height is not None:
            counter += 1
            batch = Batch()
            batch.put(FLEET, _STANDBYS, owner.encode(), orjson.dumps([counter, height]))
            try:
                await store.write(batch)
            except StoreError as error:
                log.warning("this standby is not announced: %s", error)
        await asyncio.sleep(lease_seconds * _ANNOUNCE)


async def withdraw(store: RowStore, owners: Sequence[str]) -> None:
    """Remove rows of standbys. Errors: StoreError."""
    batch = Batch()
    for owner in owners:
        batch.delete(FLEET, _STANDBYS, owner.encode())
    if batch:
        await store.write(batch)


class _Seen:
    """A standby's row, and when (the loop's clock) it changed last."""

    __slots__ = ("changed_at", "value")

    def __init__(self, value: bytes, changed_at: float) -> None:
        self.value = value
        self.changed_at = changed_at


async def wait_until_stuck(store: RowStore, leader: Progress, lease_seconds: float) -> None:
    """Return when the leader has made no progress for `STEP_DOWN` lease times while a standby is ahead of it."""
    seen: dict[str, _Seen] = {}
    first = True
    progress = leader.progress
    since = monotonic()
    while True:
        try:
            rows = await store.scan(FLEET, _STANDBYS, limit=_MOST_STANDBYS)
            now = monotonic()
            for key, value in rows:
                owner = key.decode()
                if owner not in seen:
                    # a row that was there at the start may be of a standby that is gone: it must move once
                    seen[owner] = _Seen(value, now - _FRESH * lease_seconds if first else now)
                elif seen[owner].value != value:
                    seen[owner] = _Seen(value, now)
            first = False
            gone = [owner for owner, one in seen.items() if now - one.changed_at > _FORGET * lease_seconds]
            await withdraw(store, gone)
            for owner in gone:
                del seen[owner]
        except StoreError as error:
            # a leader that cannot reach the store loses the lease by itself
            log.debug("standbys cannot be read: %s", error)
        now = monotonic()
        ahead = {
            owner: height
            for owner, one in seen.items()
            if now - one.changed_at < _FRESH * lease_seconds and (height := _height_of(one.value)) is not None
        }
        best = max(ahead, key=ahead.__getitem__, default=None)
        if best is None or ahead[best] <= leader.published_height or leader.progress != progress:
            progress, since = leader.progress, now
        elif now - since >= STEP_DOWN * lease_seconds:
            log.error(
                "no progress for %.1f s at epoch %d, while standby %s has a node at epoch %d: this bridge steps down",
                now - since,
                leader.published_height,
                best,
                ahead[best],
            )
            return
        await asyncio.sleep(lease_seconds / 4)


def _height_of(value: bytes) -> int | None:
    try:
        return int(orjson.loads(value)[1])
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
        return None
