"""What every node tells of itself and of its network.

Sources: Lotus `node/impl/common`, `node/impl/full/state.go`, `node/impl/eth/basic.go`, `api/version.go`,
`build/buildconstants`.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any, Final

import orjson

from blockstore.store import META
from chain.index.recorded_answers import NETWORK_PARAMS
from chain.known_networks import MAINNET
from chain.network import NetworkRecord
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.errors import MethodError
from rpc.openrpc import document
from rpc.params import ABSENT, json_kind
from rpc.registry import REGISTRY, V0, V1, V2, Cost, method

#: API versions as Lotus packs them: major << 16 | minor << 8 | patch
_API_VERSIONS: Final = {0: 1 << 16 | 5 << 8, 1: 2 << 16 | 3 << 8, 2: 2 << 16 | 3 << 8}

#: In Lotus' order: the network version that an upgrade begins; for those that change none, mainnet's height.
_FORKS: Final[tuple[tuple[str, int | None, int], ...]] = (
    ("UpgradeSmokeHeight", 2, 0),
    ("UpgradeBreezeHeight", 1, 0),
    ("UpgradeIgnitionHeight", 3, 0),
    ("UpgradeLiftoffHeight", None, 148888),
    ("UpgradeAssemblyHeight", 4, 0),
    ("UpgradeRefuelHeight", None, 130800),
    ("UpgradeTapeHeight", 5, 0),
    ("UpgradeKumquatHeight", 6, 0),
    ("BreezeGasTampingDuration", None, 120),
    ("UpgradeCalicoHeight", 7, 0),
    ("UpgradePersianHeight", 8, 0),
    ("UpgradeOrangeHeight", 9, 0),
    ("UpgradeClausHeight", None, 343200),
    ("UpgradeTrustHeight", 10, 0),
    ("UpgradeNorwegianHeight", 11, 0),
    ("UpgradeTurboHeight", 12, 0),
    ("UpgradeHyperdriveHeight", 13, 0),
    ("UpgradeChocolateHeight", 14, 0),
    ("UpgradeOhSnapHeight", 15, 0),
    ("UpgradeSkyrHeight", 16, 0),
    ("UpgradeSharkHeight", 17, 0),
    ("UpgradeHyggeHeight", 18, 0),
    ("UpgradeLightningHeight", 19, 0),
    ("UpgradeThunderHeight", 20, 0),
    ("UpgradeWatermelonHeight", 21, 0),
    ("UpgradeDragonHeight", 22, 0),
    ("UpgradePhoenixHeight", None, 3855480),
    ("UpgradeWaffleHeight", 23, 0),
    ("UpgradeTuktukHeight", 24, 0),
    ("UpgradeTeepHeight", 25, 0),
    ("UpgradeTockHeight", 26, 0),
    ("UpgradeGoldenWeekHeight", 27, 0),
    ("UpgradeFireHorseHeight", 28, 0),
    ("UpgradeXxHeight", 29, 0),
)
#: the network of Lotus' integration tests
_TEST_KIT: Final = "testing"
#: what Lotus sets for an upgrade that is not planned yet
_NEVER: Final = 9_999_999_999


@cache
def software_version() -> str:
    """The installed version of this software."""
    try:
        return installed_version("lotus-follower")
    except PackageNotFoundError:
        return "0.0.0"


def raw_list(params: Any, least: int, most: int) -> list[Any]:
    """The parameters of a method that decodes them itself, `least` of them or `most`. Errors: MethodError."""
    if params is ABSENT:
        raise MethodError("decoding params: unexpected end of JSON input")
    if params is not None and not isinstance(params, list):
        kind = json_kind(params)
        raise MethodError(f"decoding params: json: cannot unmarshal {kind} into Go value of type []json.RawMessage")
    given = params or []
    if len(given) not in (least, most):
        raise MethodError(f"decoding params: expected {least} or {most} params, got {len(given)}")
    return given


@method("Filecoin.Version", versions=V0 | V1, cost=Cost.FREE, answered="local")
async def version(ctx: Context) -> dict[str, Any]:
    """The software, the API version (packed as 0xMMmmpp), the seconds between two epochs."""
    return {
        "Version": software_version(),
        "APIVersion": _API_VERSIONS[ctx.version],
        "BlockDelay": ctx.network.block_delay,
        "Agent": ctx.services.agent,
    }


@method("Filecoin.StateNetworkName", cost=Cost.FREE, answered="local")
async def state_network_name(ctx: Context) -> str:
    """The name of the network, e.g. "mainnet"."""
    return ctx.network.name


@method("Filecoin.StateNetworkVersion", cost=Cost.FREE)
async def state_network_version(ctx: Context, key: TipsetKey) -> int:
    """The network version at a tipset's epoch. Errors: Missing."""
    return ctx.network.version_at((await ctx.tipset(key)).height)


def fork_heights(network: NetworkRecord) -> dict[str, int]:
    """Lotus' `ForkUpgradeParams` as far as the upgrade schedule tells them.

    An upgrade that the network began with is at -1. Those that change no network version stand in no
    schedule: mainnet's are known; elsewhere they are given as there from the start.

    A node of Lotus' own test kit (network "testing") is built with mainnet's constants, and tells them whatever
    schedule it runs; only Assembly is marked as past (`itests/kit/ensemble.go`).
    """
    kit = network.name == _TEST_KIT
    schedule = MAINNET if kit else network
    heights: dict[str, int] = {}
    for name, wanted, on_mainnet in _FORKS:
        if wanted is None:
            heights[name] = on_mainnet if schedule.name == MAINNET.name else -1
            continue
        reached = [height for height, begins in schedule.upgrades if begins >= wanted]
        heights[name] = min(reached) if reached else _NEVER
    heights["BreezeGasTampingDuration"] = 120
    if kit:
        heights["UpgradeAssemblyHeight"] = -1
    return heights


@method("Filecoin.StateGetNetworkParams", cost=Cost.CHAIN, answered="recorded")
async def state_get_network_params(ctx: Context) -> dict[str, Any]:
    """The network's parameters: as the node told them, else as the network's record has them.

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


@method("Filecoin.NetVersion", aliases=("net_version",), versions=V0 | V1 | V2, cost=Cost.FREE, answered="local")
async def net_version(ctx: Context) -> str:
    """The Ethereum chain id, in decimal."""
    return str(ctx.network.eth_chain_id)


@method("Filecoin.EthChainId", aliases=("eth_chainId",), versions=V0 | V1 | V2, cost=Cost.FREE, answered="local")
async def eth_chain_id(ctx: Context) -> str:
    """The Ethereum chain id, 0x-hex."""
    return hex(ctx.network.eth_chain_id)


@method(
    "Filecoin.NetListening",
    aliases=("net_listening",),
    versions=V0 | V1 | V2,
    cost=Cost.FREE,
    answered="local",
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
)
async def web3_client_version(ctx: Context) -> str:
    """The software and its version."""
    return f"{ctx.services.agent}/{software_version()}"


@method(
    "Filecoin.Discover",
    aliases=("rpc.discover",),
    versions=V0 | V1 | V2,
    cost=Cost.FREE,
    answered="local",
)
async def discover(ctx: Context) -> dict[str, Any]:
    """The OpenRPC document of the methods served under the path that was called."""
    return document(REGISTRY, (V0, V1, V2)[ctx.version], software_version())
