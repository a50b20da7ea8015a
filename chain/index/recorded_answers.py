"""What only a full node knows, and the bridge keeps: where it is kept. Values are the node's JSON answers.

Large answers are compressed and cut into pieces, a row each, so that no row outgrows what a shared store likes.
The first row is written last and says how many there are: an answer is there whole, or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import lz4.block

from blockstore.store import RECORDED, Batch, Store

#: META row, partition b"": the node's whole answer to StateGetNetworkParams
NETWORK_PARAMS: Final = b"network_params"
#: RECORDED row under a tipset-key CID: the newest F3 certificate that the node had when it told that head
F3_CERTIFICATE: Final = b"F3GetLatestCertificate"
#: RECORDED rows under a tipset-key CID: the tipset's `trace_block` answer, in pieces
TRACES: Final = b"trace_block"
#: the coverage of traces
TRACES_INDEX: Final = b"traces"

#: bytes of a piece: a row of a Cassandra store should stay under 1 MB
PIECE: Final = 512 << 10
#: the most pieces of an answer
MAX_PIECES: Final = 1024
#: compressed bytes from which on an answer is decompressed in a thread
_LARGE: Final = 256 << 10


def piece_key(question: bytes, number: int) -> bytes:
    """The row key of a piece; the first has the question's own."""
    return question + number.to_bytes(2, "big") if number else question


def pieces_of(answer: bytes) -> list[bytes]:
    """An answer as row values, the first with their number before it (2 bytes). Errors: ValueError (too large)."""
    packed = lz4.block.compress(answer)
    count = max(1, -(-len(packed) // PIECE))
    if count > MAX_PIECES:
        raise ValueError(f"an answer of {len(answer)} bytes is too large to be kept")
    cut = [packed[at * PIECE : (at + 1) * PIECE] for at in range(count)]
    return [count.to_bytes(2, "big") + cut[0], *cut[1:]]


async def keep_answer(store: Store, tipset_cid: bytes, question: bytes, answer: bytes) -> None:
    """Store a large answer beside a tipset. Errors: ValueError (too large), StoreError."""
    pieces = pieces_of(answer)
    for number in range(len(pieces) - 1, -1, -1):
        batch = Batch()
        batch.put(RECORDED, tipset_cid, piece_key(question, number), pieces[number])
        await store.write(batch)


async def kept_answers(store: Store, tipset_cids: Sequence[bytes], question: bytes) -> list[bytes | None]:
    """The large answers beside some tipsets, in order: one burst, and a second one for what has several pieces."""
    firsts = await store.rows(RECORDED, [(cid, question) for cid in tipset_cids])
    more = [
        (cid, piece_key(question, number))
        for cid, first in zip(tipset_cids, firsts, strict=True)
        if first is not None
        for number in range(1, int.from_bytes(first[:2], "big"))
    ]
    rest = iter(await store.rows(RECORDED, more) if more else ())
    found: list[bytes | None] = []
    for first in firsts:
        if first is None:
            found.append(None)
            continue
        others = [next(rest) for _ in range(1, int.from_bytes(first[:2], "big"))]
        pieces = [first[2:], *(piece for piece in others if piece is not None)]
        # the bridge may be removing it just now
        found.append(await _decompressed(b"".join(pieces)) if len(pieces) == len(others) + 1 else None)
    return found


async def _decompressed(packed: bytes) -> bytes:
    found: bytes = (
        lz4.block.decompress(packed) if len(packed) < _LARGE else await asyncio.to_thread(lz4.block.decompress, packed)
    )
    return found


async def drop_answers(store: Store, batch: Batch, tipset_cids: Sequence[bytes], question: bytes) -> int:
    """Add the removal of large answers beside some tipsets to a batch; how many there were."""
    firsts = await store.rows(RECORDED, [(cid, question) for cid in tipset_cids])
    dropped = 0
    for cid, first in zip(tipset_cids, firsts, strict=True):
        if first is not None:
            dropped += 1
            for number in range(int.from_bytes(first[:2], "big")):
                batch.delete(RECORDED, cid, piece_key(question, number))
    return dropped
