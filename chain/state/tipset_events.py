"""The events of a tipset: numbered through, each with the message that caused it and its emitter's address.

Source: Lotus `chain/index/events.go` (order, addresses), FIP-0049.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from blockstore.cid import Cid
from chain.address import Address, from_id
from chain.ipld.amt import Amt
from chain.ipld.objects import ObjectReader
from chain.ipld.tree_nodes import NodeCache
from chain.message import EventEntry, Receipt, event_of, receipt_of
from chain.state.state_tree import StateTree, decode_actor

#: of the AMT (version 3) that a receipt's events are in
EVENTS_BIT_WIDTH: Final = 5
#: the bits of an entry's flags that say it can be searched for: by its key, by its value
INDEXED: Final = 1 | 2


@dataclass(frozen=True, slots=True)
class TipsetEvent:
    """An event: its number in the tipset, its message's, and the emitter's ID and f410 (or ID) address."""

    index: int
    message: int
    emitter: int
    address: Address
    entries: tuple[EventEntry, ...]


async def receipts_under(reader: ObjectReader, root: bytes) -> list[Receipt]:
    """The receipts under the root that a header names. Errors: Missing, BadObject."""
    return [receipt_of(value) async for _, value in Amt(reader, root, 0).items()]


async def tipset_events(reader: ObjectReader, receipts: Sequence[Receipt], tree: StateTree) -> list[TipsetEvent]:
    """All events of a tipset with these receipts; `tree` holds the actors after it.

    Round trips: one for the roots of all messages' events, one for each level below them, one a level for all
    emitters. Errors: Missing, BadObject.
    """
    roots = [(at, one.events_root) for at, one in enumerate(receipts) if one.events_root is not None]
    if not roots:
        return []
    await reader.get_many([root for _, root in roots])
    emitted: list[tuple[int, int, tuple[EventEntry, ...]]] = []
    for at, root in roots:
        async for pair in Amt(reader, root, 3, EVENTS_BIT_WIDTH).items():
            event = event_of(pair[1])
            emitted.append((at, event.emitter, event.entries))
    addresses = await _addresses(tree, list(dict.fromkeys(emitter for _, emitter, _ in emitted)))
    return [
        TipsetEvent(index, at, emitter, addresses[emitter], entries)
        for index, (at, emitter, entries) in enumerate(emitted)
    ]


async def _addresses(tree: StateTree, emitters: Sequence[int]) -> dict[int, Address]:
    """The delegated address of each actor that has one, the ID of every other."""
    ids = [from_id(emitter) for emitter in emitters]
    found: list[Any] = await tree.actors.get_many(ids)
    out: dict[int, Address] = {}
    for emitter, address, value in zip(emitters, ids, found, strict=True):
        delegated = None if value is None else decode_actor(value, tree.version).delegated
        out[emitter] = address if delegated is None else delegated
    return out


async def events_after(
    reader: ObjectReader, receipts: Sequence[Receipt], state: Cid, cache: NodeCache | None = None
) -> list[TipsetEvent]:
    """As `tipset_events`, by the root of the state after the tipset. Errors: Missing, BadObject."""
    if not any(one.events_root for one in receipts):
        return []
    return await tipset_events(reader, receipts, await StateTree.load(reader, state, cache))
