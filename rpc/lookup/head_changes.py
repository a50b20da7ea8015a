"""Head changes one by one: the tipsets that were reverted and applied since a cursor.

Source: Lotus `chain/events/observer.go`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final

from blockstore.store import HeadEntry, TipsetRef
from chain.consensus.ancestry import Ancestor
from chain.index.chain_index import ChainIndex
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.lookup.ancestors import ancestry_of
from rpc.services import Head

#: the `Cursor.step` of a cursor that goes on by ancestry, not by the head log
BY_ANCESTRY: Final = -1
#: entries of the head log read at a time; epochs of a walk
_PAGE: Final = 128


@dataclass(frozen=True, slots=True)
class Cursor:
    """What a client has seen: all entries of the head log up to `seq`, and `step` head changes of the next entry.

    `height` and `key` name the client's head; with `step` BY_ANCESTRY its changes go on from there by ancestry.
    """

    seq: int
    step: int
    height: int
    key: TipsetKey


@dataclass(frozen=True, slots=True)
class Step:
    """One tipset applied or reverted; `after` is the cursor behind it."""

    reverted: bool
    key: TipsetKey
    after: Cursor


def cursor_at_head(head: Head) -> Cursor:
    """Everything up to a head has been told."""
    return Cursor(head.seq, 0, head.tipset.height, head.tipset.key)


async def find_parent(index: ChainIndex, key: TipsetKey) -> Ancestor | None:
    """The parent of a tipset; None for the genesis. One row, usually cached. Errors: NotHeld, Missing."""
    row = await index.row(key)
    if row is not None and row.parent_height >= 0:
        return Ancestor(row.parent_height, row.parent.block_hash, row.parent)
    tipset = await index.tipset(key)
    return None if tipset.height == 0 else Ancestor.of(await index.parent(tipset))


def _moves(entry: HeadEntry) -> list[tuple[bool, TipsetRef]]:
    return [*((True, ref) for ref in entry.reverts), *((False, ref) for ref in entry.applies)]


async def steps_since(ctx: Context, cursor: Cursor, head: Head) -> AsyncIterator[Step]:
    """The head changes after a cursor up to `head`, as the head log has them.

    Where the log does not reach back so far: the way from the tipset at the cursor to the head, by ancestry, which
    leaves out what was applied and reverted in between. Errors: NotHeld, StoreError.
    """
    while cursor.step != BY_ANCESTRY and cursor.seq < head.seq:
        entries = await ctx.store.head_entries(cursor.seq, _PAGE)
        if not entries or entries[0].seq != cursor.seq + 1:
            break
        for entry in entries:
            if entry.seq > head.seq or entry.seq != cursor.seq + 1:
                break
            moves = _moves(entry)
            for at in range(cursor.step, len(moves)):
                reverted, ref = moves[at]
                key, height = TipsetKey(ref.key), ref.height
                if reverted and (below := await find_parent(ctx.index, key)) is not None:
                    height, key = below.height, below.key
                if at + 1 < len(moves):
                    cursor = Cursor(entry.seq - 1, at + 1, height, key)
                else:
                    cursor = Cursor(entry.seq, 0, height, key)
                await ctx.checkpoint()
                yield Step(reverted, TipsetKey(ref.key), cursor)
            cursor = replace(cursor, seq=entry.seq, step=0)
    if cursor.seq < head.seq or cursor.step == BY_ANCESTRY:
        async for step in _steps_by_ancestry(ctx, cursor, head):
            yield step


async def _steps_by_ancestry(ctx: Context, cursor: Cursor, head: Head) -> AsyncIterator[Step]:
    index, target = ctx.index, head.tipset
    height, key = cursor.height, cursor.key
    ancestry = ancestry_of(ctx)
    while not await ancestry.is_ancestor(key, height, target):
        below = await find_parent(index, key)
        if below is None:
            return
        reverted = key
        height, key = below.height, below.key
        await ctx.checkpoint()
        yield Step(True, reverted, Cursor(head.seq, BY_ANCESTRY, height, key))
    while height < target.height:
        # null rounds may make a part empty
        top = min(height + _PAGE, target.height)
        for place in await ancestry.tipsets_between(target, height + 1, top):
            await ctx.checkpoint()
            done = place.key == target.key
            yield Step(False, place.key, Cursor(head.seq, 0 if done else BY_ANCESTRY, place.height, place.key))
        height = top


async def context_at_entry(ctx: Context, entry: HeadEntry) -> Context:
    """A view of the chain whose head is the one after an entry; its work has a time budget of its own.

    For what is pushed head change by head change, long after the call. Errors: Missing.
    """
    view = context_at(ctx, Head(entry.seq, entry, await ctx.index.tipset(TipsetKey(entry.head.key))))
    view.deadline = None
    return view


def context_at(ctx: Context, head: Head) -> Context:
    """A view of the chain at another head, within the same time budget."""
    view = Context(ctx.services, version=ctx.version, permissions=ctx.permissions)
    view.pinned = head
    view.time_budget_seconds, view.deadline = ctx.time_budget_seconds, ctx.deadline
    return view
