"""The ancestry that all requests of a process share."""

from __future__ import annotations

from chain.consensus.ancestry import Ancestry
from rpc.context import Context


def ancestry_of(ctx: Context) -> Ancestry:
    """The process's `Ancestry`."""
    found: Ancestry | None = ctx.caches.get("ancestry")
    if found is None:
        found = ctx.caches["ancestry"] = Ancestry(ctx.index)
    return found
