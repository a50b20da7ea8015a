"""The number and size of the objects under an object: a walk over its links, each object once.

Sector commitments are no objects: the walk skips them. Source: Lotus `ChainStatObj`.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from blockstore.cid import DAG_CBOR, RAW, Cid
from chain.errors import BadObject, BadRequest
from chain.ipld.dag_cbor import links
from chain.ipld.objects import ObjectReader

#: the most objects that one request walks; mainnet's state tree has a hundred times more
MAX_OBJECTS: Final = 1_000_000

_BATCH: Final = 256
#: piece and replica commitments (fil-commitment-unsealed, -sealed)
_COMMITMENTS: Final = (0xF101, 0xF102)


async def stat_dag(
    reader: ObjectReader, root: Cid, base: Cid | None = None, limit: int = MAX_OBJECTS
) -> tuple[int, int]:
    """(number of objects, bytes) under `root`, with `root` itself, without the objects under `base`.

    Between two reads of up to 256 objects it does not let other work go on: that is the reader's part.

    Errors: Missing; BadObject (an unknown codec); BadRequest (more than `limit` objects).
    """
    seen: set[Cid] = set()
    if base is not None:
        await _walk(reader, base, seen, limit)
    return await _walk(reader, root, seen, limit)


async def _walk(reader: ObjectReader, root: Cid, seen: set[Cid], limit: int) -> tuple[int, int]:
    count = size = 0
    waiting = deque([root] if root not in seen else [])
    seen.add(root)
    while waiting:
        batch = [waiting.popleft() for _ in range(min(_BATCH, len(waiting)))]
        asked = [cid for cid in batch if cid.codec not in _COMMITMENTS]
        for cid, data in zip(asked, await reader.get_many(asked), strict=True):
            count += 1
            size += len(data)
            if cid.codec == RAW:
                continue
            if cid.codec != DAG_CBOR:
                raise BadObject(f"no decoder registered for multicodec code {cid.codec} (0x{cid.codec:x})")
            for link in links(data):
                if link not in seen:
                    seen.add(link)
                    waiting.append(link)
        if len(seen) > limit:
            raise BadRequest(f"more than {limit} objects under {root}")
    return count, size
