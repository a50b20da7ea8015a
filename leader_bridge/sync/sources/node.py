"""A full node as a source, by RPC: its head, headers by epoch, and objects by `ChainReadObj`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from blockstore.cid import Cid, verify
from blockstore.errors import BadCid, HashMismatch
from chain.tipset import TipsetKey
from leader_bridge.clock import monotonic
from leader_bridge.nodes.subscription import fetch_chain_head, parse_tipset
from leader_bridge.sync.sources.source import (
    Answer,
    BadSource,
    LyingSource,
    NotHeldThere,
    ObjectWork,
    RangeWork,
    SourceBusy,
    SourceRefuses,
    SourceUnavailable,
    Work,
)
from leader_bridge.sync.sources.standing import WINDOW_SECONDS
from rpc.client.client import NodeClient
from rpc.json_wire import key_json
from rpc.node_errors import BadAnswer, CallFailed, NodeError, NodeRefused, RateLimited
from rpc.server.ranges.window import Window
from rpc.server.ranges.wire import HEADERS, Offer

#: tipsets of the head's chain that a node is asked for: each costs it a call of one batch
_CHAIN: Final = 20
#: in the text of an error that says nothing of whether the object is there
_BUSY_WORDS: Final = ("limit", "too many", "busy", "timeout", "timed out", "deadline", "cancel", "overload")


class NodeSource:
    """A node. `most_objects`: of one request; `requests_per_second`: what its operator allows us."""

    votes = True

    def __init__(self, client: NodeClient, *, most_objects: int = 100, requests_per_second: int = 10) -> None:
        self.client = client
        self.name = client.name
        self.most_objects = most_objects
        self.requests_per_second = requests_per_second
        #: a piece of work may take several requests: each counts
        self._window = Window(requests_per_second, WINDOW_SECONDS)
        self._one_at_a_time = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Send one request within the block, as soon as the limit allows it."""
        async with self._one_at_a_time:
            await asyncio.sleep(self._window.wait_seconds(monotonic()))
            self._window.start(monotonic())
            try:
                yield
            finally:
                self._window.ended(monotonic())

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def offer(self) -> Offer:
        """The chain below its head; the network is asked for elsewhere. Errors: SourceError."""
        try:
            async with self._turn():
                head = await fetch_chain_head(self.client)
            low = max(0, head.height - _CHAIN + 1)
            found = await self._tipsets(head.key, low, head.height)
        except NodeError as error:
            raise self._failure(error) from None
        return Offer({}, tuple((height, bytes(key)) for height, key in found), {}, self.requests_per_second)

    async def ask(self, work: Work) -> Answer:
        """As `SyncSource.ask`. Messages and receipts are asked for by their CIDs alone."""
        try:
            if isinstance(work, ObjectWork):
                return await self._objects(work.cids)
            if not isinstance(work, RangeWork) or work.parts != {HEADERS}:
                raise NotHeldThere(f"{self.name} gives no ranges of messages, and no shards")
            return await self._headers(work)
        except NodeError as error:
            raise self._failure(error) from None

    async def _objects(self, cids: Sequence[Cid]) -> Answer:
        """What of one batch is there; the rest of a longer list counts as cut off."""
        answer = Answer()
        absent: set[Cid] = set()
        part = cids[: self.most_objects]
        async with self._turn():
            read = await self.client.read_objects(part)
        for cid, data in zip(part, read, strict=True):
            if isinstance(data, CallFailed):
                if any(word in data.message.lower() for word in _BUSY_WORDS):
                    raise data
                absent.add(cid)
            elif data is not None:
                self._verify(cid, data)
                answer.found[cid] = data
                answer.size += len(data)
        answer.absent = frozenset(absent)
        return answer

    async def _headers(self, work: RangeWork) -> Answer:
        # the tipset below the range is part of the answer: the last one before a run of null rounds is found too
        tipsets = await self._tipsets(work.head, work.low, work.high, with_below=True)
        cids = [cid for _, key in tipsets for cid in key.cids]
        answer = Answer()
        for start in range(0, len(cids), self.most_objects):
            more = await self._objects(cids[start : start + self.most_objects])
            if more.absent:
                raise NotHeldThere(f"{self.name} does not hold the blocks of a tipset that it names")
            answer.found.update(more.found)
            answer.size += more.size
        return answer

    async def _tipsets(
        self, head: TipsetKey, low: int, high: int, *, with_below: bool = False
    ) -> list[tuple[int, TipsetKey]]:
        """(epoch, key) of the tipsets of a range of epochs, newest first. Errors: NodeError."""
        first = low - 1 if with_below and low else low
        calls = [("Filecoin.ChainGetTipSetByHeight", (height, key_json(head))) for height in range(high, first - 1, -1)]
        async with self._turn():
            answers: list[Any] = await self.client.batch(calls)
        for answer in answers:
            if isinstance(answer, CallFailed):
                raise answer
        found = dict.fromkeys(parse_tipset(answer) for answer in answers)
        return [one for one in found if one[0] >= low or with_below]

    def _verify(self, cid: Cid, data: bytes) -> None:
        try:
            verify(cid.multihash, data)
        except HashMismatch:
            raise LyingSource(f"{self.name} answered bytes that are not {cid}") from None
        except BadCid as error:
            raise BadSource(f"{self.name}: {error}") from None

    def _failure(self, error: NodeError) -> Exception:
        text = f"{self.name}: {error}"
        if isinstance(error, RateLimited):
            return SourceBusy(text, error.retry_after)
        if isinstance(error, NodeRefused):
            return SourceRefuses(text)
        if isinstance(error, CallFailed):
            is_busy = any(word in error.message.lower() for word in _BUSY_WORDS)
            return SourceUnavailable(text) if is_busy else NotHeldThere(text)
        return BadSource(text) if isinstance(error, BadAnswer) else SourceUnavailable(text)
