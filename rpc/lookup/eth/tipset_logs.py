"""The events of one tipset, read from its receipts, and the logs that Ethereum clients see of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from blockstore.cid import RAW
from blockstore.errors import Missing
from chain.eth.types import BLOOM_LENGTH, EthAddressError, bloom_bits, eth_address, log_of
from chain.index.event_index import hash_or_none
from chain.index.event_rows import IndexedEvent
from chain.message import EventEntry
from chain.state.tipset_events import TipsetEvent, load_events_after
from chain.tipset import Tipset
from rpc.context import Context
from rpc.eth_json import Log, Place
from rpc.lookup.actor_states import node_cache
from rpc.lookup.decoded_cache import decoded_cache, keep
from rpc.lookup.eth.block_parameter import is_canonical
from rpc.lookup.eth.executed_tipset import Executed, PostRoots, load_executed, load_receipts
from rpc.lookup.long_answers import PacedReader
from rpc.missing_objects import not_held

#: bytes that a decoded event takes beside its values
_OVERHEAD: Final = 600
#: events that are looked at between two checkpoints
_RUN: Final = 64
#: events that are counted, or get their message, between two checkpoints
_SIZED: Final = 2048


async def load_events(ctx: Context, tipset: Tipset, post: PostRoots) -> Sequence[TipsetEvent]:
    """All events of a tipset, numbered through. Round trips: one a level of receipts and of all events together.

    Errors: NotHeld.
    """
    cache = decoded_cache(ctx, "eth_events")
    kept = cache.get(tipset.key)
    if kept is not None:
        return kept[0]  # type: ignore[no-any-return]
    receipts = await load_receipts(ctx, tipset, post)
    try:
        found = await load_events_after(PacedReader(ctx), receipts, post.state, node_cache(ctx), ctx.checkpoint)
    except Missing as error:
        raise not_held(
            ctx.objects, error, f"the events of the tipset at epoch {tipset.height}", ctx.index.known_kept.text()
        ) from None
    size = _OVERHEAD
    for at, event in enumerate(found):
        if not at % _SIZED:
            await ctx.checkpoint()
        size += _OVERHEAD + sum(150 + len(entry.value) for entry in event.entries)
    keep(cache, tipset.key, found, size)
    return found


async def load_indexed_events(ctx: Context, tipset: Tipset, post: PostRoots) -> list[IndexedEvent]:
    """All events of a tipset with the messages that caused them, read from it alone. Errors: NotHeld, BadObject."""
    events = await load_events(ctx, tipset, post)
    if not events:
        return []
    found = await load_executed(ctx, tipset, post)
    chain_id = ctx.network.eth_chain_id
    hashes: dict[int, bytes | None] = {}
    for at in {event.message for event in events}:
        await ctx.checkpoint()
        hashes[at] = hash_or_none(found.messages[at], chain_id)
    cids = {at: found.messages[at].cid for at in hashes}
    indexed: list[IndexedEvent] = []
    for at in range(0, len(events), _SIZED):
        await ctx.checkpoint()
        indexed += [
            IndexedEvent(event, cids[event.message], hashes[event.message]) for event in events[at : at + _SIZED]
        ]
    return indexed


async def tipset_bloom(ctx: Context, events: Iterable[TipsetEvent]) -> bytes:
    """The bloom filter of a block."""
    items: set[bytes] = set()
    for number, event in enumerate(events):
        if not number % _RUN:
            await ctx.checkpoint()
        shown = log_of(event.entries)
        if shown is None:
            continue
        try:
            items.add(eth_address(event.address))
        except EthAddressError:
            continue
        items.update(shown[1])
    bits = 0
    for number, item in enumerate(items):
        if not number % _RUN:
            await ctx.checkpoint()
        bits |= bloom_bits(item)
    return bits.to_bytes(BLOOM_LENGTH, "big")


def raw_entries(event: TipsetEvent) -> tuple[EventEntry, ...]:
    """Those entries that are plain bytes: all that a look-up without topics is shown of an event."""
    return tuple(entry for entry in event.entries if entry.codec == RAW)


def to_log(
    event: TipsetEvent, entries: Sequence[EventEntry], place: Place, tx_hash: bytes, removed: bool
) -> Log | None:
    """The log that an event is shown as, or None. Errors: EthAddressError (of the emitter)."""
    shown = log_of(entries)
    if shown is None:
        return None
    return Log(eth_address(event.address), *shown, event.index, place, tx_hash, removed)


async def load_logs_by_message(ctx: Context, found: Executed, hashes: Mapping[int, bytes]) -> dict[int, list[Log]]:
    """The logs of a tipset by the index of their message, of the messages whose transaction hashes are given.

    Errors: NotHeld.
    """
    if not any(found.receipts[at].events_root for at in hashes):
        return {}
    removed = not await is_canonical(ctx, found.tipset)
    logs: dict[int, list[Log]] = {}
    for number, event in enumerate(await load_events(ctx, found.tipset, found.post)):
        if not number % _RUN:
            await ctx.checkpoint()
        digest = hashes.get(event.message)
        entries = () if digest is None else raw_entries(event)
        if digest is None or not entries:
            continue
        one = to_log(event, entries, found.place(event.message), digest, removed)
        if one is not None:
            logs.setdefault(event.message, []).append(one)
    return logs
