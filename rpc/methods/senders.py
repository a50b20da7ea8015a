"""Who sent a message, as an actor: needed only in tipsets where a sender is given by ID."""

from __future__ import annotations

from blockstore.cid import Cid
from chain.address import Address
from chain.state_tree import StateTree
from chain.tipset_messages import LookUpId
from rpc.context import Context


def id_of(ctx: Context) -> LookUpId:
    """The look-up of an ID address in a state, over the store of a request; it keeps the tree it last read."""
    last: StateTree | None = None
    found: dict[tuple[bytes, bytes], bytes] = {}

    async def look_up(state_root: Cid, address: bytes) -> bytes:
        nonlocal last
        if address[:1] == b"\0":
            return address
        known = found.get((state_root, address))
        if known is None:
            if last is None or last.root != state_root:
                last = await StateTree.load(ctx.objects, state_root)
            known = found[state_root, address] = bytes(await last.lookup_id(Address(address)))
        return known

    return look_up
