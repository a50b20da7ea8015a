"""`StateListMessages`: messages by sender and recipient, newest first. Source: Lotus `node/impl/full/state.go`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from blockstore.cid import Cid
from chain.address import Address, parse
from chain.errors import ActorNotFound, BadRequest
from chain.message import Message
from chain.tipset import TipsetKey
from chain.tipset_messages import load_tipset_messages
from rpc.context import Context
from rpc.lookup.actor_states import load_tree
from rpc.lookup.senders import id_of
from rpc.lookup.tipsets import load_tipset, read_tipset
from rpc.params import mismatch
from rpc.registry import Cache, Cost, method

#: the most epochs of one request. Lotus has no limit; its gateway allows a day
LOOKBACK: Final = 2880


@dataclass(frozen=True, slots=True)
class Match:
    """The sender and recipient of a message. An empty address matches all."""

    to: Address
    from_: Address

    def takes(self, message: Message) -> bool:
        """Whether the message matches. Addresses are compared as they were given, by ID or by key."""
        return (not self.from_ or message.from_ == self.from_) and (not self.to or message.to == self.to)


class _MatchParam:
    go = "*api.MessageMatch"

    def decode(self, value: Any) -> Match:
        if value is None:
            return Match(Address(), Address())
        if not isinstance(value, dict):
            raise mismatch(value, "api.MessageMatch")
        fields = {"to": Address(), "from": Address()}
        for key, item in value.items():
            name = key.lower()
            if name not in fields or item is None:
                continue
            if not isinstance(item, str):
                raise mismatch(item, "string")
            fields[name] = parse(item) if item else Address()
        return Match(fields["to"], fields["from"])


@method("Filecoin.StateListMessages", cost=Cost.SCAN, cache=Cache.TIPSET)
async def state_list_messages(
    ctx: Context, match: Annotated[Match, _MatchParam()], key: TipsetKey, to_height: int
) -> list[Cid] | None:
    """CIDs of the messages that match, newest tipset first, down to an epoch.

    Errors: BadRequest (neither sender nor recipient, or more epochs than `LOOKBACK`), NotHeld.
    """
    tipset = await read_tipset(ctx, key)
    if not match.to and not match.from_:
        raise BadRequest("must specify at least To or From in message filter")
    tree = await load_tree(ctx, tipset.parent_state_root, tipset.height, walks=True)
    try:
        await tree.lookup_id(match.to or match.from_)
    except ActorNotFound:
        return None
    if tipset.height - max(to_height, 0) > LOOKBACK:
        raise BadRequest(f"lookback of {tipset.height - max(to_height, 0)} epochs is more than {LOOKBACK}")
    found: list[Cid] = []
    while tipset.height >= to_height:
        await ctx.checkpoint()
        for one in await load_tipset_messages(ctx.objects, tipset, ctx.network, id_of(ctx), ctx.checkpoint):
            if match.takes(one.message):
                found.append(one.cid)
        if tipset.height == 0:
            break
        tipset = await load_tipset(ctx, tipset.parents)
    return found or None
