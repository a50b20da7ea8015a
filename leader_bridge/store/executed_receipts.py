"""Receipts and events made by execution: what a snapshot lacks, with no node asked.

A row says that the receipts of its tipset's parent are held. To make them the parent is executed, and the result must
have the roots that the header names. Objects are stored before the row says so, so a kill at any moment loses at most
the work on one tipset.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from blockstore.store import Store
from chain.errors import ChainError
from chain.index.chain_index import HELD_EVENTS, HELD_RECEIPTS, HELD_STATE, TipsetRow
from chain.ipld.amt import amt_build
from chain.tipset import Tipset
from leader_bridge.clock import monotonic
from leader_bridge.store.execution import TipsetExecution, require_equal
from leader_bridge.store.tipset_writer import TipsetWriter
from rpc.errors import CannotExecute, ExecutionRefused, RpcError

log = logging.getLogger(__name__)

#: tipsets whose events are indexed together
_GROUP: Final = 8
#: seconds for which an executor that does not answer is waited for, and between two tries
_WAIT_SECONDS: Final = 120.0
_RETRY_SECONDS: Final = 1.0
#: a tipset at which the executor was lost so often is left out: executing it takes too long or too much memory
_TRIES: Final = 3
#: so many tipsets in a row that cannot be executed: the older ones are not tried in this pass
_EMPTY_LIMIT: Final = 64
#: different reasons that are told of one by one
_REASONS: Final = 20


@dataclass(slots=True)
class _Left:
    """Tipsets that were not executed for one reason."""

    count: int
    lowest: int
    highest: int


class ExecutedReceipts:
    """Makes receipts and events. `percent` of the time it executes; the rest it leaves to others.

    `wait_seconds`: for how long an executor that does not answer is waited for.
    """

    def __init__(
        self,
        store: Store,
        writer: TipsetWriter,
        execution: TipsetExecution,
        *,
        percent: int = 100,
        wait_seconds: float = _WAIT_SECONDS,
    ) -> None:
        self._store = store
        self._writer = writer
        self._execution = execution
        self._percent = percent
        self._wait_seconds = wait_seconds
        self._executed_seconds = 0.0

    async def complete(
        self,
        rows: Sequence[TipsetRow],
        give_way: Callable[[], Awaitable[None]],
        report: Callable[[int, int], None],
    ) -> list[TipsetRow]:
        """Make what rows lack, in their order; the rows that still lack it.

        `give_way` is awaited before each tipset; `report` is called with (tipsets done, epoch) after it.
        Errors: ExecutionDiffers, RpcError (the executor does not answer), NotAvailableYet, NoSource, StoreError.
        """
        lacking: list[TipsetRow] = []
        reasons: dict[str, _Left] = {}
        made: list[TipsetRow] = []
        in_a_row = 0
        for at, row in enumerate(rows):
            if in_a_row >= _EMPTY_LIMIT:
                log.info("nothing is executed below epoch %d: so much there cannot be", row.height)
                lacking += rows[at:]
                break
            await give_way()
            self._executed_seconds = 0.0
            reason = await self._make(row)
            if reason is None:
                made.append(row)
                in_a_row = 0
            else:
                lacking.append(row)
                in_a_row += 1
                left = reasons.setdefault(reason, _Left(0, row.parent_height, row.parent_height))
                left.count, left.lowest = left.count + 1, row.parent_height
            if len(made) == _GROUP:
                await self._writer.index_events([one.key for one in made])
                made.clear()
            report(1, row.height)
            await asyncio.sleep(self._executed_seconds * (100 - self._percent) / self._percent)
        await self._writer.index_events([one.key for one in made])
        for reason, left in list(reasons.items())[:_REASONS]:
            log.info("not executed: %d of epochs %d to %d: %s", left.count, left.lowest, left.highest, reason)
        if len(reasons) > _REASONS:
            log.info("others are not executed for %d more reasons", len(reasons) - _REASONS)
        return lacking

    async def _make(self, row: TipsetRow) -> str | None:
        """Make the receipts and events of a row's parent; why not, where they cannot be made."""
        (child,) = await self._writer.tipsets([row.key])
        if row.parent_height < 0 and row.height:
            return "the tipset before them is not held"
        if row.parent_height <= 0:
            made = await genesis_receipts(child)
            if made is None:
                return "the genesis has receipts of its own"
            objects = made
        else:
            parent_row = await self._writer.row(row.parent)
            if parent_row is None or not parent_row.held & HELD_STATE:
                return "the state before them is not held"
            (parent,) = await self._writer.tipsets([row.parent])
            try:
                objects = await self._execute(parent, child)
            except (ChainError, CannotExecute, ExecutionRefused) as error:
                return str(error)
            except _TooMuch as error:
                return str(error)
        await self._writer.contents().put_many(list(objects.items()), closed=True)
        await self._writer.add_flags(row.key, HELD_RECEIPTS | HELD_EVENTS)
        return None

    async def _execute(self, parent: Tipset, child: Tipset) -> dict[bytes, bytes]:
        """What the receipts and events of a tipset are made of, children first."""
        end = monotonic() + self._wait_seconds
        tried = 0
        while True:
            began = monotonic()
            try:
                done = await self._execution.execute(parent)
                # not the time in which an executor was waited for
                self._executed_seconds = monotonic() - began
                break
            except (CannotExecute, ExecutionRefused):
                raise
            except RpcError as error:
                # a run that was under way, not one that was refused at once
                tried += monotonic() - began > _RETRY_SECONDS
                if tried >= _TRIES:
                    raise _TooMuch(f"the executor ended {tried} times in the middle of it: {error}") from None
                if monotonic() > end:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)
        require_equal(parent, (done.root, done.receipts), (child.parent_state_root, child.parent_message_receipts))
        return dict(done.receipt_objects)


async def genesis_receipts(child: Tipset) -> dict[bytes, bytes] | None:
    """The objects of the genesis' receipts, in which nothing was executed; None where its child names others."""
    objects: dict[bytes, bytes] = {}
    empty = await amt_build(lambda cid, data: objects.__setitem__(cid.multihash, data), [], version=0)
    return objects if empty == child.parent_message_receipts else None


class _TooMuch(Exception):
    """A tipset that takes more time or memory than the executor has."""
