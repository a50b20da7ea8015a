"""`ChainValidateIndex`: compares the index rows of an epoch with its objects.

Lotus compares counts of what its database holds with the chain and then the roots of the events; here the rows are
those of TIPSETS, HEIGHTS, MESSAGES, and the events'. Its words where it has some. Source: Lotus `chain/index/api.go`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blockstore.cid import Cid
from blockstore.errors import Missing
from blockstore.store import COVERAGE, EVENTS, HEIGHTS, MESSAGES
from chain.errors import BadObject, BadRequest, ChainError, NotHeld
from chain.index.chain_index import height_row
from chain.index.coverage import MESSAGES_INDEX, contains, covered, ranges_text
from chain.index.event_rows import (
    EVENTS_INDEX,
    IndexedEvent,
    at_key,
    chunk_row,
    decode_group,
    decode_mark,
    groups_in,
    mark_partition,
)
from chain.ipld.amt import amt_build
from chain.message import EventEntry
from chain.state.tipset_events import EVENTS_BIT_WIDTH
from chain.tipset import EMPTY_KEY, Tipset, TipsetKey
from rpc.context import Context
from rpc.errors import MethodError
from rpc.lookup.eth.block_parameter import block_hash
from rpc.lookup.eth.executed_tipset import Executed, PostRoots, load_executed
from rpc.lookup.eth.tipset_logs import load_events
from rpc.registry import V0, V1, Cache, Cost, method

_PERMISSION = "write"


class Corrupt(ChainError):
    """An index row that is missing or contradicts the chain."""


def _validation(
    epoch: int, key: TipsetKey = EMPTY_KEY, messages: int = 0, events: int = 0, entries: int = 0
) -> dict[str, Any]:
    return {
        "TipSetKey": key,
        "Height": epoch,
        "IndexedMessagesCount": messages,
        "IndexedEventsCount": events,
        "IndexedEventEntriesCount": entries,
        "Backfilled": False,
        "IsNullRound": not key,
    }


@method("Filecoin.ChainValidateIndex", versions=V0 | V1, cost=Cost.SCAN, answered="indexed", cache=Cache.NEVER)
async def chain_validate_index(ctx: Context, epoch: int, backfill: bool) -> dict[str, Any]:
    """What the index holds of an epoch's tipset, once it agrees with the chain's objects.

    With `backfill` (permission `write`, which a node wants even without it) nothing is changed either: only a bridge
    writes rows, and makes them as it fills what lacks. Errors: BadRequest (not below the head), what does not agree,
    NotHeld (the objects).
    """
    if backfill and _PERMISSION not in ctx.permissions:
        raise MethodError(f"missing permission to invoke 'ChainValidateIndex' (need '{_PERMISSION}')")
    head = (await ctx.head()).tipset
    if epoch >= head.height:
        raise BadRequest(
            f"cannot validate index at epoch {epoch}, "
            f"can only validate at an epoch less than chain head epoch {head.height}"
        )
    if epoch < 0:
        raise BadRequest(f"failed to get tipset at height {epoch}: height {epoch} is negative")
    await _check_covered(ctx, MESSAGES_INDEX, epoch)
    tipset = await ctx.index.at_height(head, epoch)
    if tipset.height != epoch:
        # rows of a lost fork stay in the index: only the head's chain tells a null round
        return _validation(epoch)
    try:
        return await _validated(ctx, head, tipset)
    except Corrupt as error:
        if backfill:
            raise MethodError(f"{error}; a follower cannot backfill: the bridge that writes the store does") from error
        raise


async def _check_covered(ctx: Context, index: bytes, epoch: int) -> None:
    """Errors: NotHeld, where the store has no rows of an epoch: there is nothing to compare, whatever a node holds."""
    ranges = await covered(ctx.store, index)
    if not contains(ranges, epoch):
        raise NotHeld(f"the index at height {epoch}: the store's index of {index.decode()} has {ranges_text(ranges)}")


async def _validated(ctx: Context, head: Tipset, tipset: Tipset) -> dict[str, Any]:
    """Errors: Corrupt, NotHeld."""
    epoch = tipset.height
    partition, prefix = height_row(epoch)
    by_height = await ctx.store.row(HEIGHTS, partition, prefix + tipset.key.cid)
    if await ctx.index.row(tipset.key, fresh=True) is None or by_height != tipset.key:
        raise Corrupt(f"missing tipset at height {epoch} in the chain index, set backfill flag to true to fix")
    child = await ctx.index.at_height(head, epoch + 1, previous=False)
    try:
        found = await load_executed(ctx, tipset, PostRoots(child.parent_state_root, child.parent_message_receipts))
        events = await _checked_events(ctx, found)
        messages = await _checked_messages(ctx, found)
    except Corrupt as error:
        raise Corrupt(f"failed to verify indexed data at height {epoch}: {error}") from error
    except (NotHeld, Missing) as error:
        raise NotHeld(f"what the index at height {epoch} is to be compared with: {error}") from error
    return _validation(epoch, tipset.key, messages, len(events), sum(len(one.event.entries) for one in events))


async def _checked_messages(ctx: Context, found: Executed) -> int:
    """The number of messages of a tipset that have a row. Errors: Corrupt."""
    epoch = found.tipset.height
    key = epoch.to_bytes(8, "big") + found.tipset.key.cid
    rows = await ctx.store.rows(MESSAGES, [(bytes(one.cid), key) for one in found.messages])
    indexed = sum(row is not None for row in rows)
    if indexed != len(rows):
        raise Corrupt(f"message count mismatch for height {epoch}: chainstore has {len(rows)}, index has {indexed}")
    return indexed


async def _indexed_events(ctx: Context, tipset: Tipset) -> list[IndexedEvent]:
    """The events of a tipset from their rows, in order. Errors: Corrupt."""
    height, digest = tipset.height, block_hash(tipset)
    key = at_key(height, digest)
    mark = await ctx.store.row(COVERAGE, mark_partition(height), key)
    if mark is None:
        await _check_covered(ctx, EVENTS_INDEX, height)
        return []
    try:
        _, count = decode_mark(mark)
        chunks = await ctx.store.rows(EVENTS, [chunk_row(height, digest, number) for number in range(count)])
        events = [
            event
            for chunk in chunks
            if chunk is not None
            for place in range(groups_in(chunk))
            for event in decode_group(chunk, place)
        ]
    except BadObject as error:
        raise Corrupt(f"index corruption: {error}") from None
    return sorted(events, key=lambda one: one.event.index)


async def _checked_events(ctx: Context, found: Executed) -> list[IndexedEvent]:
    """The indexed events of a tipset, compared with its receipts. Errors: Corrupt, NotHeld."""
    epoch = found.tipset.height
    indexed = await _indexed_events(ctx, found.tipset)
    held = await load_events(ctx, found.tipset, found.post)
    if len(held) != len(indexed):
        raise Corrupt(f"event count mismatch for height {epoch}: chainstore has {len(held)}, index has {len(indexed)}")
    by_message: dict[int, list[tuple[int, Sequence[EventEntry]]]] = {}
    for one in indexed:
        by_message.setdefault(one.event.message, []).append((one.event.emitter, one.event.entries))
    for at, (message, receipt) in enumerate(zip(found.messages, found.receipts, strict=True)):
        events = by_message.pop(at, [])
        if receipt.events_root is None:
            if events:
                raise Corrupt(
                    f"index corruption: events found in index for message {message.cid} at height {epoch}, "
                    "but message receipt has no events root"
                )
            continue
        if not events:
            raise Corrupt(
                f"index corruption: no events found in index for message {message.cid} at height {epoch}, "
                f"but message receipt has events root {receipt.events_root}"
            )
        root = await _root(events)
        if root != receipt.events_root:
            raise Corrupt(
                f"index corruption: events AMT root mismatch for message {message.cid} at height {epoch}. "
                f"Index root: {root}, Receipt root: {receipt.events_root}"
            )
    return indexed


async def _root(events: Sequence[tuple[int, Sequence[EventEntry]]]) -> Cid:
    """The root of the AMT of events that a receipt links to."""
    values = [[emitter, [[one.flags, one.key, one.codec, one.value] for one in entries]] for emitter, entries in events]
    return await amt_build(lambda cid, raw: None, values, 3, EVENTS_BIT_WIDTH)
