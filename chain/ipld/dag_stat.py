"""The number and size of the objects under an object: a walk over its links, each object once.

Sector commitments are no objects: the walk skips them. Source: Lotus `ChainStatObj`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from blockstore.cid import DAG_CBOR, RAW, Cid
from chain.checkpoint import Checkpoint, no_checkpoint
from chain.errors import BadObject, BadRequest
from chain.ipld.dag_cbor import links
from chain.ipld.objects import ObjectReader

#: the most objects that one request walks; mainnet's state tree has a hundred times more
MAX_OBJECTS: Final = 1_000_000

_BATCH: Final = 256
#: objects that are looked at between two checkpoints
_RUN: Final = 8
#: parts of the set of objects that were met, and how many of them are freed in one turn of the loop
_SHARDS: Final = 1024
_FREED: Final = 8
#: piece and replica commitments (fil-commitment-unsealed, -sealed)
_COMMITMENTS: Final = (0xF101, 0xF102)


class _Seen:
    """Which objects a walk has met, by CIDs as plain bytes: Python's cycle collector looks at each `Cid` that is kept.

    Many small sets: to let a set of a million grow takes 50 ms, to free it 200 ms.
    """

    __slots__ = ("_shards", "count")

    def __init__(self) -> None:
        self._shards: list[set[bytes]] = [set() for _ in range(_SHARDS)]
        self.count = 0

    def add(self, cid: bytes) -> bool:
        """Whether this is the first time."""
        shard = self._shards[int.from_bytes(cid[-2:], "big") % _SHARDS]
        if cid in shard:
            return False
        shard.add(cid)
        self.count += 1
        return True

    def free(self) -> None:
        """Forget them all, some at each turn of the loop."""
        del self._shards[-_FREED:]
        if self._shards:
            asyncio.get_running_loop().call_soon(self.free)


async def stat_dag(
    reader: ObjectReader,
    root: Cid,
    base: Cid | None = None,
    limit: int = MAX_OBJECTS,
    checkpoint: Checkpoint = no_checkpoint,
) -> tuple[int, int]:
    """(number of objects, bytes) under `root`, with `root` itself, without the objects under `base`.

    Errors: Missing; BadObject (an unknown codec); BadRequest (more than `limit` objects); those of `checkpoint`.
    """
    seen = _Seen()
    try:
        if base is not None:
            await _walk(reader, base, seen, limit, checkpoint)
        return await _walk(reader, root, seen, limit, checkpoint)
    finally:
        seen.free()


async def _walk(reader: ObjectReader, root: Cid, seen: _Seen, limit: int, checkpoint: Checkpoint) -> tuple[int, int]:
    count = size = 0
    waiting = deque([bytes(root)] if seen.add(bytes(root)) else [])
    while waiting:
        batch = [Cid(waiting.popleft()) for _ in range(min(_BATCH, len(waiting)))]
        asked = [cid for cid in batch if cid.codec not in _COMMITMENTS]
        for cid, data in zip(asked, await reader.get_many(asked), strict=True):
            count += 1
            size += len(data)
            if cid.codec == RAW:
                continue
            if cid.codec != DAG_CBOR:
                raise BadObject(f"no decoder registered for multicodec code {cid.codec} (0x{cid.codec:x})")
            if not count % _RUN:
                await checkpoint()
            waiting.extend(link for link in map(bytes, links(data)) if seen.add(link))
        if seen.count > limit:
            raise BadRequest(f"more than {limit} objects under {root}")
    return count, size
