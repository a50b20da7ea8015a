"""What a node says of itself: accounts, protocol version, sync state. Source: Lotus `node/impl/eth/basic.go`."""

from __future__ import annotations

from typing import Any

from rpc.context import Context
from rpc.lookup.forward import forward
from rpc.registry import EVERY_VERSION, Cache, Cost, method


@method(
    "Filecoin.EthAccounts",
    aliases=("eth_accounts",),
    versions=EVERY_VERSION,
    cost=Cost.FREE,
    answered="local",
    cache=Cache.IMMUTABLE,
)
async def eth_accounts(ctx: Context) -> list[str]:
    """Always empty: no accounts are managed."""
    return []


@method(
    "Filecoin.EthProtocolVersion",
    aliases=("eth_protocolVersion",),
    versions=EVERY_VERSION,
    cost=Cost.FREE,
    cache=Cache.HEAD,
)
async def eth_protocol_version(ctx: Context) -> str:
    """The network version at the head."""
    return hex(ctx.network.version_at((await ctx.head()).tipset.height))


@method(
    "Filecoin.EthSyncing",
    aliases=("eth_syncing",),
    versions=EVERY_VERSION,
    cost=Cost.EXECUTE,
    answered="forwarded",
    cache=Cache.NEVER,
)
async def eth_syncing(ctx: Context) -> Any:
    """How far the full node behind is with syncing; false without one: what is served is whole up to the head."""
    return False if ctx.node is None else await forward(ctx, "Filecoin.EthSyncing", [], at_head=False)
