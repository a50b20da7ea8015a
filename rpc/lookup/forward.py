"""Calls that the full node behind this follower answers."""

from __future__ import annotations

from typing import Any, Final

import orjson

from blockstore.store import RECORDED
from chain.index.recorded_answers import F3_CERTIFICATE
from rpc.context import Context
from rpc.errors import NeedsNode
from rpc.params import ABSENT

#: recorded answers that serve without a node
_RECORDED: Final = {"Filecoin.F3GetLatestCertificate": F3_CERTIFICATE}


async def forward(ctx: Context, name: str, params: Any, key: int | None = None) -> Any:
    """The full node's answer to a call, pinned to the request's head. Errors: NeedsNode, and the node's own."""
    if ctx.node is None:
        kept = _RECORDED.get(name)
        if kept is not None:
            recorded = await ctx.store.row(RECORDED, (await ctx.head()).tipset.key.cid, kept)
            if recorded is not None:
                return orjson.loads(recorded)
        raise NeedsNode(name)
    given = params if isinstance(params, list) else [] if params is None or params is ABSENT else [params]
    if key is not None and key < len(given) and not given[key]:
        head = (await ctx.head()).tipset
        given = [*given[:key], [{"/": str(cid)} for cid in head.key.cids], *given[key + 1 :]]
    return await ctx.node.call(name, given)
