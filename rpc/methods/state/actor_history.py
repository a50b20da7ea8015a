"""Two methods that nodes do not have: when an actor came to be, and in which epochs its state changed."""

from __future__ import annotations

from typing import Any, Final

from chain.address import Address
from chain.errors import BadRequest
from rpc.context import Context
from rpc.errors import LimitExceeded, limit_data
from rpc.lookup.actor_history import changed_at, created_at
from rpc.lookup.actor_states import in_prefix
from rpc.lookup.tipsets import tipset_at
from rpc.registry import Cache, Cost, method

#: the most epochs of one question: a day
MAX_EPOCHS: Final = 2880


@method("Filecoin.FollowerActorCreatedAt", cost=Cost.SCAN, cache=Cache.HEAD)
async def follower_actor_created_at(ctx: Context, address: Address) -> dict[str, Any]:
    """The first tipset at which an actor exists, seen from the head; its messages' parent tipset made the actor.

    `ID` is the actor's ID address. An actor that was deleted later is found, too. Errors: ActorNotFound, NotHeld ("not
    held: state of epoch X …; held from epoch Y": the actor is as old as that, or older).
    """
    found = await created_at(ctx, (await ctx.head()).tipset, address)
    tipset = found.tipset
    return {"ID": in_prefix(ctx, found.address), "Height": tipset.height, "TipSet": list(tipset.key.cids)}


@method("Filecoin.FollowerStateChangedAt", cost=Cost.SCAN, cache=Cache.HEAD)
async def follower_state_changed_at(ctx: Context, address: Address, since: int, until: int) -> list[int]:
    """The epochs above `since`, up to `until`, at which an actor's head is another than one tipset before; rising.

    At most 2,880 epochs a question. The epochs are those of the tipsets for which `StateGetActor` answers another
    `Head`, or begins or ceases to find the actor. Every state is compared: a change that was undone is found, too.
    Errors: ActorNotFound (a robust address that no actor had by then), BadRequest, LimitExceeded, NotHeld ("not held:
    state of epoch X; held from epoch Y").
    """
    head = (await ctx.head()).tipset
    if since > until:
        raise BadRequest(f"the range ends at epoch {until}, before it begins at epoch {since}")
    if until - since > MAX_EPOCHS:
        text = f"a range of {until - since} epochs; at most {MAX_EPOCHS} can be asked for at once"
        raise LimitExceeded(text, limit_data("epoch_range", MAX_EPOCHS, until - since))
    top = await tipset_at(ctx, until, head)
    return await changed_at(ctx, await tipset_at(ctx, since, top), top, address)
