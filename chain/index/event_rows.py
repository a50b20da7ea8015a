"""Rows by which events are found without reading the tipsets of a range: what they hold, and where what occurs.

All are keyed by epoch and block hash (the digest of the tipset key's CID), so forks never disturb each other: a
reader takes those of the tipsets on its own head's chain. Of one tipset there are

* in EVENTS, its events in *groups* of one emitter; a row is a *chunk* of groups, so that a row stays small
  however many events there are, and what is wanted of a tipset is read without the rest;
* in EVENT_POSTINGS, a row for each emitter, and each indexed (key, codec, value): the groups that have it;
* in COVERAGE its *mark*: how many events there are. A tipset without a mark is not indexed. A store writes rows
  of COVERAGE behind the others of their batch, so a mark never stands alone.

A partition of EVENTS is 16 epochs, one of EVENT_POSTINGS a day of one emitter or value: with 20,000 events an
epoch, far more than gas pays for, they stay below 100 MB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from blockstore.cid import Cid
from blockstore.store import COVERAGE, EVENT_POSTINGS, EVENTS, Batch
from chain.address import Address
from chain.errors import BadObject
from chain.ipld.dag_cbor import decode, encode
from chain.message import EventEntry
from chain.state.tipset_events import INDEXED, TipsetEvent

#: what COVERAGE calls the epochs whose tipsets all have marks
EVENTS_INDEX: Final = b"events"
#: epochs a partition
EVENTS_BUCKET: Final = 16
POSTINGS_BUCKET: Final = 2880

#: bytes, and groups, of a chunk; more events of one emitter than fit are several groups
CHUNK_BYTES: Final = 32 << 10
CHUNK_GROUPS: Final = 64
_MOST_CHUNKS: Final = 1 << 16
_REF: Final = 3

_MARKS: Final = b"events"
_EMITTER: Final = b"A"
_VALUE: Final = b"V"


@dataclass(frozen=True, slots=True)
class IndexedEvent:
    """An event as its rows tell it: `cid` is its message's, `tx_hash` that message's Ethereum hash (None: it
    has none)."""

    event: TipsetEvent
    cid: Cid
    tx_hash: bytes | None


#: (chunk, place in the chunk) of a group
Ref = tuple[int, int]
#: a posting list's partition without its day
Term = bytes


def at_key(height: int, block_hash: bytes) -> bytes:
    """The row key of a tipset in a posting list."""
    return height.to_bytes(8, "big") + block_hash


def chunk_row(height: int, block_hash: bytes, chunk: int) -> tuple[bytes, bytes]:
    """(partition, key) of a chunk in EVENTS."""
    return (height // EVENTS_BUCKET).to_bytes(8, "big"), at_key(height, block_hash) + chunk.to_bytes(2, "big")


def posting_partition(term: Term, height: int) -> bytes:
    """The partition of a posting list in which an epoch is."""
    return (height // POSTINGS_BUCKET).to_bytes(4, "big") + term


def mark_partition(height: int) -> bytes:
    """The partition of COVERAGE in which the marks of an epoch's tipsets are; their keys are `at_key`."""
    return _MARKS + (height // POSTINGS_BUCKET).to_bytes(4, "big")


def emitter_term(address: bytes) -> Term:
    """The term of an emitter: its f410 address, or its ID address where it has none."""
    return _EMITTER + address


def value_term(key: str, codec: int, value: bytes) -> Term:
    """The term of an indexed entry. Values may be long, so it is a digest: whoever reads compares the events."""
    text = key.encode()
    digest = hashlib.blake2b(b"%d,%d," % (len(text), codec) + text + value, digest_size=20)
    return _VALUE + digest.digest()


# --- writing -------------------------------------------------------------------------------------------


def put_events(batch: Batch, height: int, block_hash: bytes, events: Sequence[IndexedEvent]) -> None:
    """Add the rows of one tipset's events, and its mark, to `batch`. Errors: BadObject (over 2 GB of events)."""
    postings: dict[Term, list[Ref]] = {}
    chunks: list[list[bytes]] = [[]]
    size = 0
    for group in _groups(events):
        data = _encode_group(group)
        if chunks[-1] and (size + len(data) > CHUNK_BYTES or len(chunks[-1]) >= CHUNK_GROUPS):
            chunks.append([])
            size = 0
        ref = (len(chunks) - 1, len(chunks[-1]))
        chunks[-1].append(data)
        size += len(data)
        for term in terms_of(group):
            postings.setdefault(term, []).append(ref)
    if len(chunks) > _MOST_CHUNKS:
        raise BadObject(f"the events of epoch {height} take {len(chunks)} rows")
    key = at_key(height, block_hash)
    if events:
        for number, groups in enumerate(chunks):
            batch.put(EVENTS, *chunk_row(height, block_hash, number), _encode_chunk(groups))
    for term, refs in postings.items():
        value = b"".join(chunk.to_bytes(2, "big") + bytes((place,)) for chunk, place in refs)
        batch.put(EVENT_POSTINGS, posting_partition(term, height), key, value)
    mark = encode([len(events), len(chunks) if events else 0])
    batch.put(COVERAGE, mark_partition(height), key, mark)


def _groups(events: Sequence[IndexedEvent]) -> Iterator[list[IndexedEvent]]:
    """The events of each emitter, in parts that are no larger than a chunk (or a single event)."""
    by_emitter: dict[int, list[IndexedEvent]] = {}
    for one in events:
        by_emitter.setdefault(one.event.emitter, []).append(one)
    for some in by_emitter.values():
        start = size = 0
        for at, one in enumerate(some):
            length = 128 + sum(16 + len(entry.key) + len(entry.value) for entry in one.event.entries)
            if at > start and size + length > CHUNK_BYTES:
                yield some[start:at]
                start, size = at, 0
            size += length
        yield some[start:]


def terms_of(group: Sequence[IndexedEvent]) -> Iterable[Term]:
    """The terms whose posting lists name a group."""
    terms: dict[Term, None] = {emitter_term(group[0].event.address): None}
    for one in group:
        for entry in one.event.entries:
            if entry.flags & INDEXED:
                terms[value_term(entry.key, entry.codec, entry.value)] = None
    return terms


def _encode_group(group: Sequence[IndexedEvent]) -> bytes:
    first = group[0].event
    return encode(
        [
            first.emitter,
            bytes(first.address),
            [
                [
                    one.event.index,
                    one.event.message,
                    bytes(one.cid),
                    one.tx_hash,
                    [[entry.flags, entry.key, entry.codec, entry.value] for entry in one.event.entries],
                ]
                for one in group
            ],
        ]
    )


def _encode_chunk(groups: Sequence[bytes]) -> bytes:
    ends: list[bytes] = []
    end = 0
    for group in groups:
        end += len(group)
        ends.append(end.to_bytes(4, "big"))
    return bytes((len(groups),)) + b"".join(ends) + b"".join(groups)


# --- reading -------------------------------------------------------------------------------------------


def decode_mark(value: bytes) -> tuple[int, int]:
    """(events, chunks) of a tipset. Errors: BadObject."""
    try:
        events, chunks = decode(value)
        return int(events), int(chunks)
    except (TypeError, ValueError) as error:
        raise BadObject(f"not the mark of a tipset's events: {error}") from None


def decode_refs(value: bytes) -> list[Ref]:
    """The groups that a row of a posting list names, rising. Errors: BadObject."""
    if len(value) % _REF:
        raise BadObject("not a row of a posting list")
    return [(value[at] << 8 | value[at + 1], value[at + 2]) for at in range(0, len(value), _REF)]


def groups_in(chunk: bytes) -> int:
    """How many groups a chunk holds."""
    return chunk[0] if chunk else 0


def decode_group(chunk: bytes, place: int) -> list[IndexedEvent]:
    """One group of a chunk, its events in their order. Errors: BadObject."""
    count = groups_in(chunk)
    if place >= count:
        raise BadObject("a chunk of events has not so many groups")
    body = 1 + 4 * count
    start = int.from_bytes(chunk[4 * place - 3 : 4 * place + 1], "big") if place else 0
    end = int.from_bytes(chunk[4 * place + 1 : 4 * place + 5], "big")
    try:
        emitter, address, events = decode(chunk[body + start : body + end])
        return [
            IndexedEvent(
                TipsetEvent(index, message, emitter, Address(address), tuple(EventEntry(*entry) for entry in entries)),
                Cid(cid),
                tx_hash,
            )
            for index, message, cid, tx_hash, entries in events
        ]
    except (TypeError, ValueError) as error:
        raise BadObject(f"not a group of events: {error}") from None
