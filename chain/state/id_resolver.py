"""Resolves sender addresses to actor IDs. Needed only for tipsets in which a sender is an ID address."""

from __future__ import annotations

from blockstore.cid import Cid
from chain.address import Address
from chain.ipld.objects import ObjectReader
from chain.state.state_tree import StateTree
from chain.tipset_messages import ResolveId


def id_resolver(reader: ObjectReader) -> ResolveId:
    """A `ResolveId` over `reader`. It caches the last state tree and every address that it resolved."""
    last: StateTree | None = None
    found: dict[tuple[bytes, bytes], bytes] = {}

    async def look_up(state_root: Cid, address: bytes) -> bytes:
        nonlocal last
        if address[:1] == b"\0":
            return address
        known = found.get((state_root, address))
        if known is None:
            if last is None or last.root != state_root:
                last = await StateTree.load(reader, state_root)
            known = found[state_root, address] = bytes(await last.lookup_id(Address(address)))
        return known

    return look_up
