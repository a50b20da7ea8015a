"""Traces: each executed tipset's `trace_block` answer, asked of the node once and stored beside the tipset.

A tipset can be traced when a child of it is there, so a head's parent is asked for while the head is stored. The
head does not wait longer than a moment: what did not come is asked for again, and behind all that the past is
walked, newest first, down to `lookback` epochs below the head. What is older is removed. `trace_block` takes an
epoch, not a hash, so an answer is kept only if it says, or the node says around it, that it is our tipset's.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from blockstore.cid import Cid
from blockstore.errors import StoreError
from blockstore.store import HEIGHTS, META, RECORDED, Batch, HeadEntry, Store
from chain.errors import BadObject, ChainError
from chain.index.chain_index import HEIGHT_BUCKET
from chain.index.coverage import covered
from chain.index.recorded_answers import TRACES, TRACES_INDEX, drop_answers, keep_answer
from chain.tipset import Tipset, TipsetKey
from leader_bridge.clock import monotonic
from leader_bridge.nodes.sources import NoSource
from leader_bridge.store.coverage import merge_ranges, save_coverage
from leader_bridge.store.execution import ExecutionDiffers
from leader_bridge.store.tipset_writer import NotAvailableYet, TipsetWriter
from rpc.client.client import NodeClient
from rpc.errors import CannotExecute, ExecutionRefused, Unavailable
from rpc.node_errors import BadAnswer, CallFailed, NodeError

log = logging.getLogger(__name__)

#: META row: traces of all epochs below this one are removed
FLOOR: Final = b"traces_floor"
#: seconds that publishing a head may wait for its parent's traces
_PUBLISH_WAIT_SECONDS: Final = 0.5
#: tipsets that wait to be asked for: new ones, and those that failed
_FRESH: Final = 64
_LATER: Final = 256
_TRIES: Final = 5
_RETRY_SECONDS: Final = 5.0
#: so many errors of the node in a row: it is left alone for a while
_REFUSALS: Final = 8
_COOL_DOWN_SECONDS: Final = 600.0
#: between two questions about the past, at least; and no less than the last one took
_PAUSE_SECONDS: Final = 0.02
#: tipsets removed in one go
_REMOVE: Final = 256


class Moved(Exception):
    """The node has another tipset at that epoch."""


class Traces:
    """Records traces of one node at a time: `run` is the work, `begin` names the node.

    `make` executes a tipset for its traces: the node is asked only for what cannot be executed.
    `ask` with each head change before its work, `settle` after it. `idle` is set while nothing is left to do.
    """

    def __init__(
        self,
        store: Store,
        writer: TipsetWriter,
        lookback: int,
        head: Callable[[], HeadEntry | None],
        *,
        make: Callable[[Tipset], Awaitable[bytes]] | None = None,
        publish_wait_seconds: float = _PUBLISH_WAIT_SECONDS,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        self._store = store
        self._writer = writer
        self._lookback = lookback
        self._head = head
        self._make = make
        self._publish_wait_seconds = publish_wait_seconds
        self._retry_seconds = retry_seconds
        self._client: NodeClient | None = None
        self._fresh: deque[TipsetKey] = deque(maxlen=_FRESH)
        #: (not before, how often it was tried, tipset)
        self._later: deque[tuple[float, int, TipsetKey]] = deque(maxlen=_LATER)
        #: the past is to be walked from the head down; and the next tipset of it to look at
        self._walk_due = False
        self._walk: TipsetKey | None = None
        self._walk_from = 0.0
        self._refusals = 0
        self._cooling_until = 0.0
        #: epochs above this one were reverted: they are covered no more
        self._reverted: int | None = None
        self._floor: int | None = None
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self.idle = asyncio.Event()

    def begin(self, client: NodeClient | None) -> None:
        """Another node (None: only `make` is asked), or another connection: the past is walked again."""
        self._client = client
        self._refusals = 0
        self._cooling_until = 0.0
        self._walk_due = True
        self._stir()

    def ask(self, applies: Sequence[Tipset], common: int | None) -> None:
        """A head change: tipsets applied (rising), and the epoch down to which there are reverts, or None."""
        if common is not None:
            self._reverted = common if self._reverted is None else min(common, self._reverted)
        if self._make is None and self._cooling_until > monotonic():
            return
        wanted = [tipset.parents for tipset in applies if tipset.height]
        if len(wanted) > _FRESH:
            # more than is asked for at once: the walk finds the others
            self._walk_due = True
        if wanted:
            self._fresh.extend(wanted)
            self._settled.clear()
            self._stir()

    async def settle(self) -> None:
        """Wait until what was asked for has come or failed, but no longer than a moment."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), self._publish_wait_seconds)

    async def run(self) -> None:
        """Ask, until cancelled."""
        while True:
            try:
                pause = await self._step()
            except (StoreError, NotAvailableYet, NoSource, BadObject) as error:
                log.warning("traces: tried again: %s", error)
                pause = self._retry_seconds
            if not pause:
                await asyncio.sleep(0)
            else:
                if not self._fresh:
                    self._settled.set()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)
                self._wake.clear()

    def _stir(self) -> None:
        self.idle.clear()
        self._wake.set()

    # --- what is next ------------------------------------------------------------------------------

    async def _step(self) -> float:
        """Do one thing; the seconds to wait afterwards unless something new comes."""
        now = monotonic()
        if self._make is None and (self._client is None or self._cooling_until > now):
            self._fresh.clear()
            return max(_PAUSE_SECONDS, self._cooling_until - now) if self._client else _COOL_DOWN_SECONDS
        if self._fresh:
            await self._try(self._fresh.pop(), 1)
            return 0.0
        self._settled.set()
        if await self._remove_old():
            return _PAUSE_SECONDS
        if self._later and self._later[0][0] <= now:
            _, tries, key = self._later.popleft()
            await self._try(key, tries + 1)
            return max(_PAUSE_SECONDS, monotonic() - now)
        head = self._head()
        if self._walk_due and head is not None:
            self._walk_due, self._walk, self._walk_from = False, TipsetKey(head.head.key), 0.0
        if self._walk is not None and self._walk_from <= now:
            return await self._walk_on(self._walk)
        if self._walk is None and not self._later:
            self.idle.set()
            return _COOL_DOWN_SECONDS
        waits = [self._later[0][0]] if self._later else []
        if self._walk is not None:
            waits.append(self._walk_from)
        return max(_PAUSE_SECONDS, min(waits) - now)

    def _lowest(self) -> int:
        head = self._head()
        return 0 if head is None else max(0, head.head.height - self._lookback)

    async def _walk_on(self, key: TipsetKey) -> float:
        """Look at one tipset of the past. A head's own turn comes with its child."""
        row = await self._writer.row(key)
        if row is None:
            # the backfill has not come so far yet, or never will
            self._walk_from = monotonic() + self._retry_seconds
            if self._later or self._fresh:
                return _PAUSE_SECONDS
            self.idle.set()
            return self._retry_seconds
        if row.height < self._lowest():
            self._walk = None
            return 0.0
        head = self._head()
        began = monotonic()
        asked = (head is None or key != head.head.key) and row.height > 0 and await self._try(key, 1)
        self._walk = row.parent if row.height else None
        return max(_PAUSE_SECONDS, monotonic() - began) if asked else 0.0

    # --- one tipset --------------------------------------------------------------------------------

    async def _try(self, key: TipsetKey, tries: int) -> bool:
        """Record one tipset's traces, or note that they are to be asked for again; whether the node was asked."""
        client = self._client
        try:
            (tipset,) = await self._writer.tipsets([key])
            if await self._store.row(RECORDED, key.cid, TRACES) is not None:
                await self._cover(await self._epochs(tipset))
                return False
            answer = await self._made(tipset)
            if answer is None:
                if client is None or self._cooling_until > monotonic():
                    return True
                answer = orjson.dumps(await traces_of(client, tipset))
                self._refusals = 0
        except CallFailed as error:
            self._refusals += 1
            log.debug("the node does not trace: %s", error)
            if self._refusals >= _REFUSALS:
                log.warning("the node does not trace (%s): it is not asked for a while", error)
                self._refusals = 0
                self._cooling_until = monotonic() + _COOL_DOWN_SECONDS
            self._again(key, tries)
        except (NodeError, Moved, NotAvailableYet, NoSource, Unavailable) as error:
            log.debug("no traces yet: %s", error)
            self._again(key, tries)
        else:
            await self._keep(tipset, answer)
        return True

    async def _made(self, tipset: Tipset) -> bytes | None:
        """The traces of a tipset by execution; None where it cannot be executed. Errors: Unavailable, for now."""
        if self._make is None:
            return None
        try:
            return await self._make(tipset)
        except (ChainError, CannotExecute, ExecutionRefused) as error:
            log.debug("the traces of epoch %d are not made by execution: %s", tipset.height, error)
        except Unavailable:
            if self._client is None:
                raise
        except ExecutionDiffers as error:
            log.error("%s: no more traces are made by execution; see docs/operating.md", error)
            self._make = None
        return None

    def _again(self, key: TipsetKey, tries: int) -> None:
        if tries < _TRIES:
            self._later.append((monotonic() + self._retry_seconds * tries, tries, key))

    async def _keep(self, tipset: Tipset, answer: bytes) -> None:
        try:
            await keep_answer(self._store, tipset.key.cid, TRACES, answer)
        except ValueError as error:
            log.warning("the traces of epoch %d are not kept: %s", tipset.height, error)
            return
        await self._cover(await self._epochs(tipset))

    async def _epochs(self, tipset: Tipset) -> tuple[int, int]:
        """A tipset's epoch and the null rounds before it; the genesis too, which has nothing to trace."""
        row = await self._writer.row(tipset.key)
        below = row.parent_height if row is not None and row.parent_height >= 0 else tipset.height - 1
        return (below + 1 if below else 0), tipset.height

    async def _cover(self, epochs: tuple[int, int] | None, floor: int = 0) -> None:
        """Note that epochs are covered now, and that those below `floor` and those reverted are no more."""
        async with self._writer.rows_lock:
            before = await covered(self._store, TRACES_INDEX)
            top, self._reverted = self._reverted, None
            kept = [
                (max(low, floor), high if top is None else min(high, top))
                for low, high in before
                if high >= floor and (top is None or low <= top)
            ]
            after = merge_ranges([*kept, *([epochs] if epochs else ())])
            if after != before:
                batch = Batch()
                save_coverage(batch, TRACES_INDEX, after)
                await self._store.write(batch)

    # --- removing ----------------------------------------------------------------------------------

    async def _remove_old(self) -> bool:
        """Remove some of what is older than `lookback`; whether there may be more."""
        if self._floor is None:
            value = await self._store.row(META, b"", FLOOR)
            self._floor = 0 if value is None else int(orjson.loads(value))
        lowest = self._lowest()
        if self._floor > lowest:
            # the lookback was made longer: what will be recorded below is to be removed one day too
            await self._set_floor(Batch(), lowest)
        if self._floor >= lowest:
            return False
        bucket = self._floor // HEIGHT_BUCKET
        end = min(lowest, (bucket + 1) * HEIGHT_BUCKET)
        rows = await self._store.scan(
            HEIGHTS,
            bucket.to_bytes(8, "big"),
            start=self._floor.to_bytes(8, "big"),
            end=end.to_bytes(8, "big"),
            limit=_REMOVE,
        )
        if len(rows) == _REMOVE and int.from_bytes(rows[-1][0][:8], "big") > self._floor:
            # the last epoch may have more tipsets: it comes with the next ones
            end = int.from_bytes(rows[-1][0][:8], "big")
            rows = [row for row in rows if int.from_bytes(row[0][:8], "big") < end]
        batch = Batch()
        dropped = await drop_answers(self._store, batch, [Cid(key[8:]) for key, _ in rows], TRACES)
        if dropped:
            await self._cover(None, end)
        await self._set_floor(batch, end)
        return True

    async def _set_floor(self, batch: Batch, floor: int) -> None:
        batch.put(META, b"", FLOOR, orjson.dumps(floor))
        await self._store.write(batch)
        self._floor = floor


async def traces_of(client: NodeClient, tipset: Tipset) -> list[Any]:
    """A tipset's `trace_block` answer. Errors: Moved (the node has another tipset there), NodeError."""
    number, digest = hex(tipset.height), "0x" + tipset.key.block_hash.hex()
    answer = await _traces_at(client, number)
    if not answer:
        # nothing in it tells whose it is: the node must have our tipset there before and after it is said again
        before = await _hash_at(client, number)
        answer = await _traces_at(client, number)
        after = await _hash_at(client, number)
        if {before, after} != {digest}:
            raise Moved(f"at epoch {tipset.height} the node has {after}")
    for trace in answer:
        if not isinstance(trace, dict) or trace.get("blockHash") != digest:
            raise Moved(f"at epoch {tipset.height} the node traced another tipset")
    return answer


async def _traces_at(client: NodeClient, number: str) -> list[Any]:
    answer = await client.call("trace_block", number)
    if not isinstance(answer, list):
        raise BadAnswer(f"{client.name}: trace_block answered no list")
    return answer


async def _hash_at(client: NodeClient, number: str) -> Any:
    block = await client.call("eth_getBlockByNumber", number, False)
    return block.get("hash") if isinstance(block, dict) else None
