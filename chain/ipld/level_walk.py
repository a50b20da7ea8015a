"""Reading what is below some objects ahead of those who ask for it: level by level, a bounded part of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from itertools import islice

from blockstore.cid import Cid
from chain.ipld.hamt import read_nodes
from chain.ipld.objects import ObjectReader
from chain.ipld.tree_nodes import NodeCache, check_link


async def walk_levels(
    roots: Iterable[Cid], levels: int, most: int, read: Callable[[list[Cid]], Awaitable[Iterable[Cid]]]
) -> AsyncIterator[int]:
    """Read so many levels, of each at most `most` objects, the first ones first, none twice. Yields how many, level by
    level. `read`: reads some objects, and gives what is below them. Errors: those of `read`.
    """
    met: set[Cid] = set()
    level = roots
    for _ in range(levels):
        wanted = list(islice((cid for cid in dict.fromkeys(level) if cid not in met), most))
        if not wanted:
            return
        met.update(wanted)
        level = await read(wanted)
        yield len(wanted)


def read_upper_nodes(
    reader: ObjectReader,
    roots: Iterable[bytes],
    levels: int,
    most: int,
    bit_width: int = 5,
    cache: NodeCache | None = None,
) -> AsyncIterator[int]:
    """Read the nodes below the roots of some maps (`walk_levels`). One round trip a level for all maps.

    `cache`: for decoded nodes. Errors: BadObject, Missing.
    """

    async def read(wanted: list[Cid]) -> list[Cid]:
        nodes = await read_nodes(reader, wanted, bit_width, cache)
        return [check_link(pointer) for _, pointers in nodes for pointer in pointers if type(pointer) is bytes]

    return walk_levels(map(check_link, roots), levels, most, read)
