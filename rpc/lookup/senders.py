"""Who sent a message, over the store of a request."""

from __future__ import annotations

from chain.state.senders import ids_in
from chain.tipset_messages import LookUpId
from rpc.context import Context


def id_of(ctx: Context) -> LookUpId:
    """The look-up of an ID address in a state."""
    return ids_in(ctx.objects)
