"""The upper nodes of maps, read before anybody asks for a key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from itertools import islice

from chain.ipld.hamt import read_nodes
from chain.ipld.objects import ObjectReader
from chain.ipld.tree_nodes import NodeCache, check_link


async def read_upper_nodes(
    reader: ObjectReader,
    roots: Iterable[bytes],
    levels: int,
    most: int,
    bit_width: int = 5,
    cache: NodeCache | None = None,
) -> AsyncIterator[int]:
    """Read the nodes below some roots: of each of so many levels at most `most`, those of the first roots first.

    One round trip a level for all; a subtree that several maps share is read once. Yields how many nodes, level by
    level. `cache`: for decoded nodes. Errors: BadObject, Missing.
    """
    met: set[bytes] = set()
    level = [check_link(root) for root in roots]
    for _ in range(levels):
        wanted = list(islice((cid for cid in dict.fromkeys(level) if cid not in met), most))
        if not wanted:
            return
        met.update(wanted)
        nodes = await read_nodes(reader, wanted, bit_width, cache)
        yield len(nodes)
        level = [check_link(pointer) for _, pointers in nodes for pointer in pointers if type(pointer) is bytes]
