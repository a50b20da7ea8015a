"""The stored form of head-log entries: CBOR, the same in every backend."""

from __future__ import annotations

from typing import Any

import cbor2

from blockstore.errors import StoreError
from blockstore.store import HeadEntry, TipsetRef


def seq_key(seq: int) -> bytes:
    """The row key of an entry: its sequence number, 8 bytes, big endian."""
    return seq.to_bytes(8, "big")


def encode_entry(entry: HeadEntry) -> bytes:
    """The stored form."""
    return cbor2.dumps(
        [
            entry.seq,
            entry.term,
            [[ref.height, ref.key] for ref in entry.reverts],
            [[ref.height, ref.key] for ref in entry.applies],
            [entry.head.height, entry.head.key],
            entry.f3,
            entry.visible_at,
        ]
    )


def decode_entry(value: bytes) -> HeadEntry:
    """Errors: StoreError, for a row that is no entry."""
    try:
        seq, term, reverts, applies, head, f3, visible_at = cbor2.loads(value)
        return HeadEntry(
            seq=seq,
            term=term,
            reverts=_refs(reverts),
            applies=_refs(applies),
            head=TipsetRef(*head),
            f3=f3,
            visible_at=visible_at,
        )
    except (ValueError, TypeError, cbor2.CBORDecodeError) as error:
        raise StoreError(f"a row of the head log is damaged: {error}") from None


def _refs(rows: list[Any]) -> tuple[TipsetRef, ...]:
    return tuple(TipsetRef(height, key) for height, key in rows)
