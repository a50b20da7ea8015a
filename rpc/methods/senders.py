"""Who sent a message, as an actor: needed only in tipsets where a sender is given by ID."""

from __future__ import annotations

from blockstore.cid import Cid
from chain.address import from_id
from chain.dagcbor import decode
from chain.errors import ActorNotFound, BadObject
from chain.hamt import Hamt
from chain.objects import ObjectReader
from chain.tipset_messages import LookUpId
from rpc.context import Context

_INIT_ACTOR = b"\0\1"


async def look_up_id(reader: ObjectReader, state_root: Cid, address: bytes) -> bytes:
    """The ID address of an actor in a state, as bytes. Errors: ActorNotFound, Missing, BadObject."""
    if address[:1] == b"\0":
        return address
    root = decode(await reader.get(state_root))
    # a state root is [version, actors, info]; before actors version 2 it is the actors' HAMT itself
    wrapped = isinstance(root, list) and len(root) == 3 and isinstance(root[0], int)
    actors = await Hamt.load(reader, Cid(root[1]) if wrapped else state_root, bit_width=5)
    actor = await actors.get(_INIT_ACTOR)
    if actor is None:
        raise BadObject(f"state {state_root} has no init actor")
    init = decode(await reader.get(actor[1]))
    found = await (await Hamt.load(reader, Cid(init[0]), bit_width=5)).get(address)
    if found is None:
        raise ActorNotFound("failed to resolve sender: actor not found")
    return bytes(from_id(found))


def id_of(ctx: Context) -> LookUpId:
    """The look-up over the store of a request."""

    async def look_up(state_root: Cid, address: bytes) -> bytes:
        return await look_up_id(ctx.objects, state_root, address)

    return look_up
