"""The events of a tipset: numbered from 0, each with the index of its message and its emitter's address.

Source: Lotus `chain/index/events.go` (order, addresses), FIP-0049.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from blockstore.cid import Cid
from chain.address import Address, from_id
from chain.checkpoint import Checkpoint, no_checkpoint
from chain.ipld.amt import Amt
from chain.ipld.objects import ObjectReader
from chain.ipld.tree_nodes import NodeCache
from chain.message import EventEntry, Receipt, event_from_fields, receipt_from_fields
from chain.state.state_tree import StateTree, decode_actor

#: the bit width of the AMT (version 3) of a receipt's events
EVENTS_BIT_WIDTH: Final = 5
#: the bits of an entry's flags: its key is indexed, its value is indexed
INDEXED: Final = 1 | 2
#: receipts or events that are decoded between two checkpoints
_RUN: Final = 64
#: events that are made of what was decoded between two checkpoints
_MADE: Final = 2048


@dataclass(frozen=True, slots=True)
class TipsetEvent:
    """An event. `index`: its number in the tipset; `message`: its message's number; `emitter`: the actor ID;
    `address`: the emitter's delegated address, or its ID address if it has none."""

    index: int
    message: int
    emitter: int
    address: Address
    entries: tuple[EventEntry, ...]


async def read_receipts(reader: ObjectReader, root: bytes, checkpoint: Checkpoint = no_checkpoint) -> list[Receipt]:
    """The receipts of a tipset. `root`: from its child's header. Errors: Missing, BadObject."""
    found: list[Receipt] = []
    async for part in Amt(reader, root, 0).parts():
        for at, value in part:
            if not at % _RUN:
                await checkpoint()
            found.append(receipt_from_fields(value))
    return found


async def load_tipset_events(
    reader: ObjectReader, receipts: Sequence[Receipt], tree: StateTree, checkpoint: Checkpoint = no_checkpoint
) -> list[TipsetEvent]:
    """All events of a tipset with these receipts. `tree`: the state after the tipset.

    Takes one round trip for the event roots of all messages, one for each level below them, and one a level for the
    addresses of all emitters. Errors: Missing, BadObject.
    """
    roots = [(at, one.events_root) for at, one in enumerate(receipts) if one.events_root is not None]
    if not roots:
        return []
    await reader.get_many([root for _, root in roots])
    emitted: list[tuple[int, int, tuple[EventEntry, ...]]] = []
    for at, root in roots:
        await checkpoint()
        async for part in Amt(reader, root, 3, EVENTS_BIT_WIDTH).parts():
            for _, value in part:
                if not len(emitted) % _RUN:
                    await checkpoint()
                event = event_from_fields(value)
                emitted.append((at, event.emitter, event.entries))
    addresses = await _addresses(tree, list(dict.fromkeys(emitter for _, emitter, _ in emitted)))
    found: list[TipsetEvent] = []
    for index, (at, emitter, entries) in enumerate(emitted):
        if not index % _MADE:
            await checkpoint()
        found.append(TipsetEvent(index, at, emitter, addresses[emitter], entries))
    return found


async def _addresses(tree: StateTree, emitters: Sequence[int]) -> dict[int, Address]:
    """The delegated address of each actor, or its ID address if it has none."""
    ids = [from_id(emitter) for emitter in emitters]
    found: list[Any] = await tree.actors.get_many(ids)
    out: dict[int, Address] = {}
    for emitter, address, value in zip(emitters, ids, found, strict=True):
        delegated = None if value is None else decode_actor(value, tree.version).delegated
        out[emitter] = address if delegated is None else delegated
    return out


async def load_events_after(
    reader: ObjectReader,
    receipts: Sequence[Receipt],
    state: Cid,
    cache: NodeCache | None = None,
    checkpoint: Checkpoint = no_checkpoint,
) -> list[TipsetEvent]:
    """As `load_tipset_events`. `state`: the state root after the tipset. Errors: Missing, BadObject."""
    if not any(one.events_root for one in receipts):
        return []
    return await load_tipset_events(reader, receipts, await StateTree.load(reader, state, cache), checkpoint)
