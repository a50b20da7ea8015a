"""Who sent a message, as an actor: needed only in tipsets where a sender is given by ID."""

from __future__ import annotations

from blockstore.cid import Cid
from chain.address import Address
from chain.state_tree import StateTree
from chain.tipset_messages import LookUpId
from rpc.context import Context


def id_of(ctx: Context) -> LookUpId:
    """The look-up of an ID address in a state, over the store of a request."""

    async def look_up(state_root: Cid, address: bytes) -> bytes:
        return bytes(await (await StateTree.load(ctx.objects, state_root)).lookup_id(Address(address)))

    return look_up
