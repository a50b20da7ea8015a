"""How much is under an object: a walk over its links, each object once.

Source: Lotus `ChainStatObj`; sector commitments are no objects and are not followed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from blockstore.cid import DAG_CBOR, RAW, Cid
from chain.errors import BadObject, BadRequest
from chain.ipld.dag_cbor import links
from chain.ipld.objects import ObjectReader

#: a state tree of mainnet has a hundred times more: nobody walks that in one request
MAX_OBJECTS: Final = 1_000_000

_BATCH: Final = 256
#: piece and replica commitments (fil-commitment-unsealed, -sealed)
_COMMITMENTS: Final = (0xF101, 0xF102)


async def stat_below(
    reader: ObjectReader, root: Cid, base: Cid | None = None, limit: int = MAX_OBJECTS
) -> tuple[int, int]:
    """(objects, bytes) from `root` down, `root` counted, without what is reached from `base`.

    Errors: Missing; BadObject (a codec that holds no known links); BadRequest, over `limit` objects.
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
            raise BadRequest(f"more than {limit} objects are under {root}")
        # a store in this process answers without waiting: others must have their turn
        await asyncio.sleep(0)
    return count, size
