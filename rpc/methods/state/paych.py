"""Payment channels, as their actors show them."""

from __future__ import annotations

from typing import Any

from chain.actors.load import WrongKind
from chain.address import Address
from chain.errors import ActorNotFound
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.errors import MethodError
from rpc.lookup.actor_states import states_at
from rpc.registry import Cache, Cost, method

#: Lotus' PCHOutbound: the account that is named pays
_OUTBOUND = 2


@method("Filecoin.PaychStatus", cost=Cost.STATE, cache=Cache.HEAD)
async def paych_status(ctx: Context, address: Address) -> dict[str, Any]:
    """The account that pays into a channel.

    Lotus answers from a list of the channels that its own wallet takes part in, by their robust addresses. A
    follower has no wallet: it takes every channel in the head's state for tracked, and for seen from the paying
    side, as the node sees it that made the channel. Errors: channel not tracked.
    """
    if not address or address.is_id:
        raise MethodError("channel not tracked")
    _, states = await states_at(ctx, TipsetKey())
    try:
        channel = await states.load(address, "paych")
    except (ActorNotFound, WrongKind) as error:
        raise MethodError("channel not tracked") from error
    return {"ControlAddr": await states.tree.account_key(channel.state["From"]), "Direction": _OUTBOUND}
