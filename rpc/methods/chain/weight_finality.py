"""`ChainTipSetWeight` and `ChainGetFinalizedTipSet`.

Sources: Lotus `chain/consensus/filcns/weight.go`, `node/impl/full/chain.go`, `chain/actors/policy`.
"""

from __future__ import annotations

from typing import Any, Final

from chain.actors.load import POWER
from chain.errors import NotFound
from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.errors import MethodError, error_prefix
from rpc.lookup.actor_states import states_of
from rpc.lookup.finality import CHAIN_FINALITY, f3_finalized
from rpc.lookup.tipsets import read_tipset, tipset_at
from rpc.lotus_json import json_cache
from rpc.registry import Cache, Cost, method

_BLOCKS_PER_EPOCH: Final = 5
_RATIO_NUMERATOR: Final = 1
_RATIO_DENOMINATOR: Final = 2


async def weight(ctx: Context, tipset: Tipset) -> int:
    """The weight of the chain that ends with `tipset`. Errors: MethodError, Missing, ActorNotFound."""
    states = await states_of(ctx, tipset)
    with error_prefix("failed to load power actor state"):
        power = await states.load(POWER, "power")
    total: int = power.state["TotalQualityAdjPower"]
    if total <= 0:
        raise MethodError("All power in the net is gone. You network might be disconnected, or the net is dead!")
    log2 = total.bit_length() - 1
    wins = sum(block.election_proof[0] for block in tipset.blocks if block.election_proof is not None)
    by_wins: int = (log2 * _RATIO_NUMERATOR << 8) * wins // (_BLOCKS_PER_EPOCH * _RATIO_DENOMINATOR)
    return tipset.parent_weight + (log2 << 8) + by_wins


@method("Filecoin.ChainTipSetWeight", cost=Cost.STATE, cache=Cache.TIPSET)
async def chain_tipset_weight(ctx: Context, key: TipsetKey) -> str:
    """The weight of the chain that ends with a tipset. Errors: NotFound; a state that is not held."""
    try:
        tipset = await read_tipset(ctx, key)
    except NotFound as error:
        raise NotFound(f"loading tipset {key}: {error}") from None
    return str(await weight(ctx, tipset))


@method("Filecoin.ChainGetFinalizedTipSet", answered="decoded", cache=Cache.HEAD)
async def chain_get_finalized_tipset(ctx: Context) -> dict[str, Any]:
    """The newest final tipset: that of F3 if it is recorded and newer, else the one 900 epochs back.

    Errors: BadRequest (a chain shorter than that), NotHeld.
    """
    head = (await ctx.head()).tipset
    epoch = head.height - CHAIN_FINALITY
    found = await f3_finalized(ctx, epoch)
    if found is None:
        found = await tipset_at(ctx, epoch, head)
    return json_cache(ctx).tipset(found)  # type: ignore[return-value]
