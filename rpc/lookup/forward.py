"""Calls that the full node behind this follower answers."""

from __future__ import annotations

from typing import Any, Final

import orjson

from blockstore.errors import StoreError
from blockstore.store import RECORDED
from chain.errors import ChainError
from chain.index.recorded_answers import F3_CERTIFICATE
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.errors import NeedsNode
from rpc.json_wire import key_json
from rpc.params import ABSENT, param_of

_KEY: Final = param_of("tipset key", TipsetKey)
#: recorded answers that serve without a node
_RECORDED: Final = {"Filecoin.F3GetLatestCertificate": F3_CERTIFICATE}


async def forward(
    ctx: Context, name: str, params: Any, key: int | None = None, *, at: Tipset | None = None, at_head: bool = True
) -> Any:
    """A full node's answer to a call, pinned to the request's head. The answer is shared: do not change it.

    `key`: the position of a tipset key; the head's replaces an empty one. Only a node is asked that holds the tipset
    of the answer: `at`, else the one that the key names, else the head (`at_head` False: any node).
    Errors: NeedsNode, Unavailable, and the node's own.
    """
    if ctx.node is None:
        kept = _RECORDED.get(name)
        if kept is not None:
            recorded = await ctx.store.row(RECORDED, (await ctx.head()).tipset.key.cid, kept)
            if recorded is not None:
                return orjson.loads(recorded)
        raise NeedsNode(name)
    given = params if isinstance(params, list) else [] if params is None or params is ABSENT else [params]
    if key is not None and key < len(given) and given[key]:
        at, at_head = await _named(ctx, given[key]), False
    elif at_head and at is None:
        at = (await ctx.head()).tipset
        if key is not None and key < len(given):
            given = [*given[:key], key_json(at.key), *given[key + 1 :]]
    return await ctx.node.call(name, given, at)


async def _named(ctx: Context, links: Any) -> Tipset | None:
    """The tipset whose key a client has named; None where it is none that is held here: the node says what is wrong."""
    try:
        return await ctx.index.tipset(_KEY.decode(links))
    except (ValueError, ChainError, StoreError):
        return None
