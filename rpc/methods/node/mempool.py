"""The mempool of the full node behind, and what can be told without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from chain.address import Address
from rpc.context import Context
from rpc.errors import NeedsNode
from rpc.lookup.forward import forward
from rpc.lookup.next_nonce import next_nonce
from rpc.registry import Cache, Cost, method


@method("Filecoin.MpoolGetNonce", cost=Cost.EXECUTE, answered="forwarded", cache=Cache.NEVER)
async def mpool_get_nonce(ctx: Context, address: Address) -> Any:
    """The nonce of an account's next message: the full node's answer, which counts pending messages.

    Without a node, the nonce after the head's messages, where the head can be executed.
    Errors: NeedsNode, ActorNotFound.
    """
    if ctx.node is not None or ctx.executor is None:
        return await forward(ctx, "Filecoin.MpoolGetNonce", [address.text(ctx.network.address_prefix)])
    return await next_nonce(ctx, address)


@method("Filecoin.MpoolSub", cost=Cost.FREE, answered="forwarded", channel=True, cache=Cache.NEVER)
async def mpool_sub(ctx: Context) -> AsyncIterator[dict[str, Any]]:
    """What comes into the full node's mempool and leaves it. The follower asks one node, once for all its clients.

    The channel closes for a client that reads too slowly. Errors: NeedsNode.
    """
    mempool = ctx.services.mempool
    if mempool is None:
        raise NeedsNode("Filecoin.MpoolSub")
    async for update in mempool.updates():
        yield update
