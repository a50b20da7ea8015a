"""The sender of a message, resolved to its ID address."""

from __future__ import annotations

from chain.state.id_resolver import id_resolver
from chain.tipset_messages import ResolveId
from rpc.context import Context


def id_of(ctx: Context) -> ResolveId:
    """The look-up of an ID address in a state."""
    return id_resolver(ctx.objects)
