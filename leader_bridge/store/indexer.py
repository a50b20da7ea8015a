"""The index rows of one tipset: what the bridge writes when it applies one, and an import in its final pass.

Rows depend on headers and message CIDs alone, so writing them twice changes nothing, and rows of a fork
that lost stay: a reader chooses among them by the ancestry of the head that it has pinned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from blockstore.cid import Cid
from blockstore.store import MESSAGES, Batch
from chain.index.chain_index import HELD_EVENTS, HELD_RECEIPTS, HELD_STATE, INDEXED_EVENTS, TipsetRow, index_rows
from chain.index.event_index import index_events
from chain.ipld.objects import ObjectReader
from chain.network import NetworkRecord
from chain.tipset import Tipset

#: what of a tipset must be held for its parent's events to be indexed
EVENTS_NEED: Final = HELD_STATE | HELD_RECEIPTS | HELD_EVENTS

#: One block's message CIDs as its message-meta lists them: (BLS messages, secp256k1 and delegated ones).
BlockMessages = tuple[Sequence[Cid], Sequence[Cid]]


def message_key(height: int, tipset_cid: bytes) -> bytes:
    """The row key of one inclusion in a message CID's partition: height (8 bytes, big endian), tipset."""
    return height.to_bytes(8, "big") + tipset_cid


def included_messages(messages: Sequence[BlockMessages]) -> Iterable[Cid]:
    """Every message CID of a tipset once, in block order, BLS before the signed ones."""
    seen: set[Cid] = set()
    for bls, signed in messages:
        for cid in (*bls, *signed):
            if cid not in seen:
                seen.add(cid)
                yield cid


def index_tipset(
    batch: Batch,
    tipset: Tipset,
    parent: TipsetRow | None,
    messages: Sequence[BlockMessages] | None,
    held: int,
) -> TipsetRow:
    """Add the rows of `tipset` to `batch`: TIPSETS, HEIGHTS, MESSAGES; its own row. POST rows: see `post_rows`.

    `parent` is the row of the parent tipset where it is known (None at the bottom of what is held);
    `messages` what each block lists, in block order, or None where the messages are not held (no MESSAGES
    rows then); `held` the flags of `chain.index.chain_index` that say what of the tipset is stored. The caller writes
    the batch after everything that `held` promises is durable.
    """
    row = index_rows(batch, tipset, parent, held, has_post=False)
    if messages is not None:
        index_messages(batch, tipset, messages)
    return row


def index_messages(batch: Batch, tipset: Tipset, messages: Sequence[BlockMessages]) -> None:
    """Add the MESSAGES rows of `tipset`, whose blocks list `messages`, to `batch`."""
    key = message_key(tipset.height, tipset.key.cid)
    for cid in included_messages(messages):
        batch.put(MESSAGES, bytes(cid), key, b"")


def signed_messages(tipsets: Iterable[Sequence[BlockMessages]]) -> Iterable[Cid]:
    """The CIDs of all messages of secp256k1 and delegated keys that the blocks of some tipsets list."""
    return (cid for blocks in tipsets for _, signed in blocks for cid in signed)


def can_index_events(held: int, *, needs_state: bool = True) -> bool:
    """Whether, by the flags of a tipset's row, its parent's events are still to be indexed and can be.

    Not `needs_state`: what is needed of the state is fetched beforehand.
    """
    needed = EVENTS_NEED if needs_state else EVENTS_NEED & ~HELD_STATE
    return held & needed == needed and not held & INDEXED_EVENTS


async def index_parents_events(
    batch: Batch, reader: ObjectReader, pairs: Iterable[tuple[Tipset, Tipset]], network: NetworkRecord
) -> tuple[list[Tipset], list[tuple[int, int]]]:
    """Add the event rows of tipsets, each with a child of it, to `batch`.

    Returns the children whose parents were indexed, and the epochs that are now covered. Errors: StoreError.
    """
    done: list[Tipset] = []
    epochs: list[tuple[int, int]] = []
    for tipset, child in pairs:
        if await index_events(batch, reader, tipset, child, network):
            done.append(child)
            epochs.append((tipset.height, child.height - 1))
    return done, epochs
