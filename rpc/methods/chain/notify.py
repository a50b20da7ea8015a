"""`ChainNotify`, and `ChainNotifyFrom`, which a client can resume.

A frame is one whole head change, reverts before applies; nobody sees the middle of one. The first frame of
`ChainNotify` is the head at that moment, as `current`. Source: Lotus `ChainStore.SubHeadChanges`.

`ChainNotifyFrom` is this project's own: its frames carry the head log's sequence number, and a client that
comes back with the last one it saw gets everything after it, or an error where the log no longer reaches so
far back. 0 starts at the head.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from blockstore.store import HeadEntry
from chain.errors import BadRequest, NotHeld
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.lookup.shared_values import Shown, heard
from rpc.lotus_json import APPLY, CURRENT, REVERT, json_cache
from rpc.params import Uint64
from rpc.registry import Cache, Cost, method
from rpc.services import head_entries


async def head_changes(ctx: Context, entry: HeadEntry) -> list[dict[str, Any]]:
    """One head-log entry as a frame. Errors: Missing."""
    cache = json_cache(ctx)
    index = ctx.index
    return [
        cache.head_change(kind, await index.tipset(TipsetKey(ref.key)))
        for kind, refs in ((REVERT, entry.reverts), (APPLY, entry.applies))
        for ref in refs
    ]


@method("Filecoin.ChainNotify", cost=Cost.FREE, channel=True, cache=Cache.NEVER)
async def chain_notify(ctx: Context) -> AsyncIterator[list[dict[str, Any]]]:
    """The head at once, then every head change. The channel closes for a client that reads too slowly."""
    head = await ctx.services.head_source.current()
    yield [json_cache(ctx).head_change(CURRENT, head.tipset)]
    async for value in heard(ctx, "ChainNotify", _changes, head.seq):
        yield value


async def _changes(ctx: Context, after: int) -> AsyncIterator[Shown]:
    async with head_entries(ctx.services.head_source, after) as entries:
        async for entry in entries:
            yield Shown(entry.seq, [await head_changes(ctx, entry)])


@method("Filecoin.ChainNotifyFrom", cost=Cost.FREE, channel=True, cache=Cache.NEVER)
async def chain_notify_from(ctx: Context, seq: Uint64) -> AsyncIterator[dict[str, Any]]:
    """Every head change after sequence number `seq`, as `{"Seq", "Changes"}`; 0 begins with the head.

    Errors: BadRequest (a number not reached yet), NotHeld (the log begins later).
    """
    source = ctx.services.head_source
    head = await source.current()
    if seq == 0:
        seq = head.seq
        yield {"Seq": seq, "Changes": [json_cache(ctx).head_change(CURRENT, head.tipset)]}
    if seq > head.seq:
        raise BadRequest(f"head change {seq} is not reached: the newest is {head.seq}")
    expected = seq + 1
    async with head_entries(source, seq) as entries:
        async for entry in entries:
            if entry.seq != expected:
                raise NotHeld(f"head changes {expected} to {entry.seq - 1}: the log begins at {entry.seq}")
            expected += 1
            yield {"Seq": entry.seq, "Changes": await head_changes(ctx, entry)}
