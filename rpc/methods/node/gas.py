"""`GasEstimateGasPremium`. Source: Lotus `node/impl/gasutils`."""

from __future__ import annotations

from chain.address import Address
from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.lookup.gas_premium import estimate_premium, with_noise
from rpc.params import Int64, Uint64
from rpc.registry import Cost, method


@method("Filecoin.GasEstimateGasPremium", cost=Cost.SCAN)
async def gas_estimate_gas_premium(
    ctx: Context, within: Uint64, sender: Address, gas_limit: Int64, key: TipsetKey
) -> str:
    """The premium, in attoFIL per gas unit, that gets a message included within so many blocks. Errors: NotHeld."""
    return str(with_noise(await estimate_premium(ctx, within, key)))
