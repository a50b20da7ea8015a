"""The mempool of the best full node, heard once for all clients of a process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

from follower.forwarding.method_rules import Kind
from follower.forwarding.node import ForwardNode
from follower.forwarding.route import ForwardRoute
from rpc.node_errors import NodeError

log = logging.getLogger(__name__)

#: updates that may wait for one reader
_WAITING: Final = 1024
#: seconds for the answer to the subscription, and between two tries while no node answers
_ANSWER_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 1.0


class _Reader:
    """One who reads. `is_over`: it has missed something."""

    def __init__(self) -> None:
        self.waiting: deque[Any] = deque()
        self.wake = asyncio.Event()
        self.is_over = False

    def push(self, update: Any) -> None:
        if len(self.waiting) >= _WAITING:
            self.waiting.clear()
            self.is_over = True
        if not self.is_over:
            self.waiting.append(update)
        self.wake.set()


class MempoolFeed:
    """`rpc.services.Mempool` over the nodes of a route. Nothing is subscribed to while nobody reads."""

    def __init__(self, route: ForwardRoute) -> None:
        self._route = route
        self._readers: set[_Reader] = set()
        self._task: asyncio.Task[None] | None = None
        #: since when everything is told, ms since 1970; None while no node tells, or while nobody reads
        self.heard_since: int | None = None
        self._heard = asyncio.Event()

    async def updates(self) -> AsyncIterator[dict[str, Any]]:
        """Each change of the mempool from now on. Ends for a reader that is 1,024 updates behind.

        What happens while one node is left for another is not told.
        """
        reader = _Reader()
        self._readers.add(reader)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            while not reader.is_over:
                while reader.waiting:
                    yield reader.waiting.popleft()
                reader.wake.clear()
                if not reader.is_over:
                    await reader.wake.wait()
        finally:
            self._readers.discard(reader)
            if not self._readers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def wait_until_heard(self) -> None:
        """Return once a node tells: for one who reads `updates`."""
        await self._heard.wait()

    async def close(self) -> None:
        """End the subscription, and with it every reader's."""
        for reader in self._readers:
            reader.is_over = True
            reader.wake.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            for node in self._route.ranked(Kind.QUICK):
                try:
                    await self._hear(node)
                except NodeError as error:
                    log.info("the mempool of %s: %s", node.name, error)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _hear(self, node: ForwardNode) -> None:
        """Pass on what a node tells, until it ends. Errors: NodeError."""
        connection = await node.connect()
        try:
            channel = await connection.open_channel("Filecoin.MpoolSub", [], _ANSWER_SECONDS)
            self.heard_since = time.time_ns() // 1_000_000
            self._heard.set()
            async for update in channel:
                for reader in tuple(self._readers):
                    reader.push(update)
            log.info("the mempool of %s: %s", node.name, channel.reason)
        finally:
            self.heard_since = None
            self._heard.clear()
            await connection.close()
