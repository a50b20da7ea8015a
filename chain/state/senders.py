"""Who sent a message, as an actor: needed only in tipsets where a sender is given by ID."""

from __future__ import annotations

from blockstore.cid import Cid
from chain.address import Address
from chain.ipld.objects import ObjectReader
from chain.state.state_tree import StateTree
from chain.tipset_messages import LookUpId


def ids_in(reader: ObjectReader) -> LookUpId:
    """The look-up of an ID address in a state; it keeps the tree it last read, and what it has found."""
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
