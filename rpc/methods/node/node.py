"""Versions, the network and its parameters.

Sources: Lotus `node/impl/common`, `node/impl/full/state.go`, `node/impl/eth/basic.go`, `api/version.go`,
`build/buildconstants`.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from blockstore.store import META
from chain.index.recorded_answers import NETWORK_PARAMS
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.lookup.network_upgrades import fork_heights
from rpc.openrpc import document
from rpc.registry import REGISTRY, V0, V1, V2, Cache, Cost, method
from rpc.release import software_version

#: API versions as Lotus packs them: major << 16 | minor << 8 | patch
_API_VERSIONS: Final = {0: 1 << 16 | 5 << 8, 1: 2 << 16 | 3 << 8, 2: 2 << 16 | 3 << 8}


@method("Filecoin.Version", versions=V0 | V1, cost=Cost.FREE, answered="local", cache=Cache.IMMUTABLE)
async def version(ctx: Context) -> dict[str, Any]:
    """The software, the API version (packed as 0xMMmmpp), the seconds between two epochs."""
    return {
        "Version": software_version(),
        "APIVersion": _API_VERSIONS[ctx.version],
        "BlockDelay": ctx.network.block_delay,
        "Agent": ctx.services.agent,
    }


@method("Filecoin.StateNetworkName", cost=Cost.FREE, answered="local", cache=Cache.IMMUTABLE)
async def state_network_name(ctx: Context) -> str:
    """The name of the network, e.g. "mainnet"."""
    return ctx.network.name


@method("Filecoin.StateNetworkVersion", cost=Cost.FREE, cache=Cache.TIPSET)
async def state_network_version(ctx: Context, key: TipsetKey) -> int:
    """The network version at a tipset's epoch. Errors: Missing."""
    return ctx.network.version_at((await ctx.tipset(key)).height)


@method("Filecoin.StateGetNetworkParams", cost=Cost.CHAIN, answered="recorded", cache=Cache.HEAD)
async def state_get_network_params(ctx: Context) -> dict[str, Any]:
    """The network's parameters: from the node if they are recorded, else from the network record.

    Errors: NotHeld (the genesis block).
    """
    told = await ctx.store.row(META, b"", NETWORK_PARAMS)
    if told is not None:
        params: dict[str, Any] = orjson.loads(told)
        return params
    network = ctx.network
    genesis = await ctx.index.genesis()
    calibnet = network.name == "calibrationnet"
    return {
        "NetworkName": network.name,
        "BlockDelaySecs": network.block_delay,
        "ConsensusMinerMinPower": str(32 << 30 if calibnet else 10 << 40),
        "PreCommitChallengeDelay": 150,
        "ForkUpgradeParams": fork_heights(network),
        "Eip155ChainID": network.eth_chain_id,
        "GenesisTimestamp": genesis.blocks[0].timestamp,
    }


@method(
    "Filecoin.NetVersion",
    aliases=("net_version",),
    versions=V0 | V1 | V2,
    cost=Cost.FREE,
    answered="local",
    cache=Cache.IMMUTABLE,
)
async def net_version(ctx: Context) -> str:
    """The Ethereum chain id, in decimal."""
    return str(ctx.network.eth_chain_id)


@method(
    "Filecoin.EthChainId",
    aliases=("eth_chainId",),
    versions=V0 | V1 | V2,
    cost=Cost.FREE,
    answered="local",
    cache=Cache.IMMUTABLE,
)
async def eth_chain_id(ctx: Context) -> str:
    """The Ethereum chain id, 0x-hex."""
    return hex(ctx.network.eth_chain_id)


@method(
    "Filecoin.NetListening",
    aliases=("net_listening",),
    versions=V0 | V1 | V2,
    cost=Cost.FREE,
    answered="local",
    cache=Cache.IMMUTABLE,
)
async def net_listening(ctx: Context) -> bool:
    """Always true."""
    return True


@method(
    "Filecoin.Web3ClientVersion",
    aliases=("web3_clientVersion",),
    versions=V0 | V1 | V2,
    cost=Cost.FREE,
    answered="local",
    cache=Cache.IMMUTABLE,
)
async def web3_client_version(ctx: Context) -> str:
    """The software and its version."""
    agent = ctx.services.agent
    return agent if "/" in agent else f"{agent}/{software_version()}"


@method(
    "Filecoin.Discover",
    aliases=("rpc.discover",),
    versions=V0 | V1 | V2,
    cost=Cost.FREE,
    answered="local",
    cache=Cache.IMMUTABLE,
)
async def discover(ctx: Context) -> dict[str, Any]:
    """The OpenRPC document of the methods served under the path that was called."""
    return document(REGISTRY, (V0, V1, V2)[ctx.version], software_version())
