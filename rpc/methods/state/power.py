"""Claims of power, circulating supply, pledges, deposits and collateral."""

from __future__ import annotations

from typing import Annotated, Any

from chain.actors.adt import array_get, map_get
from chain.actors.economy import (
    TOTAL_FIL,
    Economy,
    Supply,
    circulating_supply,
    deal_collateral,
    economy_of,
    initial_pledge,
    precommit_deposit,
    qa_power,
    qa_power_max,
)
from chain.actors.leaves import BadJson
from chain.actors.load import MARKET, POWER, REWARD, Loaded, States
from chain.actors.schema import type_of
from chain.actors.supply import all_circulating
from chain.actors.versions import FIRST_VERSION
from chain.address import Address
from chain.errors import ChainError
from chain.ipld.hamt import Hamt
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.errors import MethodError, error_prefix
from rpc.lookup.actor_states import node_cache, states_at, states_of
from rpc.lookup.long_answers import PacedReader, list_of
from rpc.params import Integer, Uint64
from rpc.registry import Cache, Cost, method

#: bytes of a sector by proof type, in the order in which proof types are numbered
_SECTOR_SIZES = (2 << 10, 8 << 20, 512 << 20, 32 << 30, 64 << 30)
_SEAL_PROOFS = 20
_POST_PROOFS = range(5, 15)
#: with so many miners above the least power, only they produce blocks
_ENOUGH_MINERS = 4

SectorSize = Annotated[int, Integer("abi.SectorSize", 0, (1 << 64) - 1)]
PieceSize = Annotated[int, Integer("abi.PaddedPieceSize", 0, (1 << 64) - 1)]


class _PreCommit:
    """A SectorPreCommitInfo parameter."""

    go = "miner.SectorPreCommitInfo"

    def decode(self, value: Any) -> dict[str, Any]:
        """Errors: ValueError."""
        kind = type_of("miner", "SectorPreCommitInfo", FIRST_VERSION)
        try:
            found: dict[str, Any] = kind.load(value, kind.zero())
        except BadJson as error:
            raise ValueError(str(error)) from None
        return found


PreCommit = Annotated[dict[str, Any], _PreCommit()]


def sector_size(proof: int) -> int:
    """Bytes of a sector sealed with this proof. Errors: MethodError."""
    if not 0 <= proof < _SEAL_PROOFS:
        raise MethodError(f"failed to resolve sector size for seal proof: unsupported proof type: {proof}")
    return _SECTOR_SIZES[proof % len(_SECTOR_SIZES)]


def _claim(raw: int, quality_adjusted: int) -> dict[str, str]:
    return {"RawBytePower": str(raw), "QualityAdjPower": str(quality_adjusted)}


@method("Filecoin.StateMinerPower", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_miner_power(ctx: Context, address: Address, tipset_key: TipsetKey) -> dict[str, Any]:
    """A miner's power, the network's, and whether the miner may produce blocks.

    The address is looked up as it is given: only an ID address finds a claim, as in Lotus.
    """
    _, states = await states_at(ctx, tipset_key)
    with error_prefix("(get sset) failed to load power actor state"):
        actor = await states.actor(POWER)
    power = await states.state_of(actor, "power")
    state = power.state
    total = _claim(state["TotalRawBytePower"], state["TotalQualityAdjPower"])
    claim = None
    if address:
        kind = type_of("power", "Claim", power.version)
        claim = await map_get(ctx.objects, state["Claims"], bytes(address), kind, cache=node_cache(ctx))
    if claim is None:
        return {"MinerPower": _claim(0, 0), "TotalPower": total, "HasMinPower": False}
    return {
        "MinerPower": _claim(claim["RawBytePower"], claim["QualityAdjPower"]),
        "TotalPower": total,
        "HasMinPower": _may_mine(claim, state, economy_of(actor.code)),
    }


@method("Filecoin.StateListMiners", cost=Cost.HEAVY, cache=Cache.TIPSET)
async def state_list_miners(ctx: Context, tipset_key: TipsetKey) -> list[Any] | None:
    """All miners with a claim, in the order of the power actor's map. null for none."""
    _, states = await states_at(ctx, tipset_key)
    power = await _loaded(states, POWER, "power")
    claims = await Hamt.load(PacedReader(ctx), power.state["Claims"])
    prefix = ctx.network.address_prefix
    return await list_of(ctx, claims.parts(), lambda pair: Address.checked(pair[0]).text(prefix)) or None


def _may_mine(claim: dict[str, Any], state: dict[str, Any], economy: Economy) -> bool:
    proof, raw = claim["WindowPoStProofType"], claim["RawBytePower"]
    if proof not in _POST_PROOFS:
        raise MethodError(f"could not get miner min power from proof type: unsupported proof type: {proof}")
    if raw >= economy.least_power:
        return True
    if state["MinerAboveMinPowerCount"] >= _ENOUGH_MINERS:
        return False
    return bool(raw > 0)


async def _supply(ctx: Context, tipset: Tipset, states: States) -> Supply:
    async def genesis_pledge() -> int:
        first = await states_of(ctx, await ctx.index.genesis())
        pledge: int = (await first.load(POWER, "power")).state["TotalPledgeCollateral"]
        return pledge

    return await circulating_supply(states, tipset.height, genesis_pledge)


@method("Filecoin.StateVMCirculatingSupplyInternal", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_vm_circulating_supply_internal(ctx: Context, tipset_key: TipsetKey) -> dict[str, str]:
    """The circulating supply that pledges are computed from, and its parts."""
    tipset, states = await states_at(ctx, tipset_key)
    return (await _supply(ctx, tipset, states)).to_json()


@method("Filecoin.StateCirculatingSupply", cost=Cost.HEAVY, cache=Cache.TIPSET)
async def state_circulating_supply(ctx: Context, tipset_key: TipsetKey) -> str:
    """The attoFIL in circulation, as a sum over all actors."""
    tipset, states = await states_at(ctx, tipset_key, walks=True)
    version = ctx.network.version_at(tipset.height - 1)
    return str(await all_circulating(states, tipset.height - 1, version, ctx.checkpoint))


@method("Filecoin.StateDealProviderCollateralBounds", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_deal_provider_collateral_bounds(
    ctx: Context, size: PieceSize, verified: bool, tipset_key: TipsetKey
) -> dict[str, str]:
    """The least (with 10 % added) and the most attoFIL that a provider may lock for a deal."""
    tipset, states = await states_at(ctx, tipset_key)
    power = await _loaded(states, POWER, "power")
    reward = await _loaded(states, REWARD, "reward")
    with error_prefix("getting total circulating supply"):
        supply = await _supply(ctx, tipset, states)
    least = deal_collateral(size, power, reward, supply.circulating)
    return {"Min": str(least * 110 // 100), "Max": str(TOTAL_FIL)}


async def _loaded(states: States, address: Address, kind: str) -> Loaded:
    with error_prefix(f"failed to load {kind} actor"):
        actor = await states.actor(address)
    with error_prefix(f"failed to load {kind} actor state"):
        return await states.state_of(actor, kind)


async def _inputs(states: States) -> tuple[Loaded, Loaded]:
    """(reward, power), with the error texts of the pledge methods."""
    found = []
    for address, kind in ((REWARD, "reward"), (POWER, "power")):
        with error_prefix(f"loading {kind} actor"):
            actor = await states.actor(address)
        with error_prefix(f"loading {kind} actor state"):
            found.append(await states.state_of(actor, kind))
    return found[0], found[1]


async def _pledge(ctx: Context, tipset: Tipset, states: States, weight: int) -> int:
    reward, power = await _inputs(states)
    with error_prefix("getting circulating supply"):
        supply = await _supply(ctx, tipset, states)
    return initial_pledge(reward, power, weight, supply.circulating, tipset.height)


async def _sector_weight(ctx: Context, states: States, address: Address, info: dict[str, Any], height: int) -> int:
    """Quality-adjusted bytes of a sector with the deals that it names."""
    size = sector_size(info["SealProof"])
    with error_prefix("loading market actor"):
        actor = await states.actor(MARKET)
    with error_prefix("loading market actor state"):
        market = await states.state_of(actor, "market")
    with error_prefix("verifying deals for activation"):
        weight = await _verified_weight(ctx, market, address, info, height)
    duration = info["Expiration"] - height
    if not duration:
        raise MethodError("division by zero")
    return qa_power(size, duration, weight)


async def _verified_weight(ctx: Context, market: Loaded, address: Address, info: dict[str, Any], height: int) -> int:
    kind = type_of("market", "DealProposal", market.version)
    total = 0
    seen: set[int] = set()
    for deal in info["DealIDs"]:
        if deal in seen:
            raise ChainError(f"deal ID {deal} present multiple times")
        seen.add(deal)
        found = await array_get(ctx.objects, market.state["Proposals"], deal, kind, 5)
        if found is None:
            raise ChainError(f"no such deal {deal}")
        if found["Provider"] != address:
            raise ChainError(f"cannot activate deal {deal}: proposal has provider {found['Provider']}")
        if height > found["StartEpoch"]:
            raise ChainError(f"cannot activate deal {deal}: proposal start epoch has already elapsed")
        if found["EndEpoch"] > info["Expiration"]:
            raise ChainError(f"cannot activate deal {deal}: proposal expiration exceeds the sector's")
        if found["VerifiedDeal"]:
            total += (info["Expiration"] - height) * found["PieceSize"]
    return total


@method("Filecoin.StateMinerPreCommitDepositForPower", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_miner_pre_commit_deposit_for_power(
    ctx: Context, address: Address, info: PreCommit, tipset_key: TipsetKey
) -> str:
    """attoFIL to deposit for a pre-commit, with 10 % added."""
    _, states = await states_at(ctx, tipset_key)
    reward, power = await _inputs(states)
    # deals counted before network version 17, whose actors are not decoded
    weight = qa_power_max(sector_size(info["SealProof"]))
    deposit = precommit_deposit(reward, power.state["ThisEpochQAPowerSmoothed"], weight)
    return str(deposit * 110 // 100)


@method("Filecoin.StateMinerInitialPledgeCollateral", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_miner_initial_pledge_collateral(
    ctx: Context, address: Address, info: PreCommit, tipset_key: TipsetKey
) -> str:
    """attoFIL to pledge for a sector, with 10 % added."""
    tipset, states = await states_at(ctx, tipset_key)
    weight = await _sector_weight(ctx, states, address, info, tipset.height)
    return str(await _pledge(ctx, tipset, states, weight) * 110 // 100)


@method("Filecoin.StateMinerInitialPledgeForSector", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_miner_initial_pledge_for_sector(
    ctx: Context, duration: int, size: SectorSize, verified_size: Uint64, tipset_key: TipsetKey
) -> str:
    """attoFIL to pledge for a sector of `size` bytes, `verified_size` of them verified, with 10 % added."""
    if duration <= 0:
        raise MethodError("sector duration must greater than 0")
    if not size:
        raise MethodError("sector size must be non-zero")
    if verified_size > size:
        raise MethodError("verified size must be less than or equal to sector size")
    tipset, states = await states_at(ctx, tipset_key)
    weight = qa_power(size, duration, verified_size * duration)
    return str(await _pledge(ctx, tipset, states, weight) * 110 // 100)


@method("Filecoin.StateMinerCreationDeposit", cost=Cost.STATE, cache=Cache.TIPSET)
async def state_miner_creation_deposit(ctx: Context, tipset_key: TipsetKey) -> str:
    """The attoFIL to deposit for a new miner. 0 before network version 27."""
    tipset, states = await states_at(ctx, tipset_key)
    if states.network_version < 27:
        return "0"
    economy = economy_of((await states.actor(POWER)).code)
    return str(await _pledge(ctx, tipset, states, economy.named_power // 10))
