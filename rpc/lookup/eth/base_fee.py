"""The base fee of the next tipset. Source: Lotus `chain/store/basefee.go`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from chain.eth.transaction import effective_premium
from chain.message import Message
from chain.tipset import Tipset
from chain.tipset_messages import load_block_messages
from rpc import eth_json
from rpc.context import Context
from rpc.lookup.network_upgrades import fork_heights

_MIN_BASE_FEE: Final = 100
_GAS_TARGET: Final = eth_json.BLOCK_GAS_LIMIT // 2
_TARGET_INDEX: Final = eth_json.BLOCK_GAS_LIMIT * 80 // 100 - 1
_MAX_CHANGE: Final = 8
_BREEZE_EPOCHS: Final = 120


def _divide_toward_zero(number: int, by: int) -> int:
    quotient = abs(number) // by
    return quotient if number >= 0 else -quotient


def base_fee_by_gas(base_fee: int, gas_limits: int, blocks: int, packed: bool) -> int:
    """The next base fee by how full the blocks are. `packed`: before Smoke, a block counted as full at 4/5."""
    if packed:
        delta = _divide_toward_zero(5 * gas_limits, 4 * blocks) - _GAS_TARGET
    else:
        delta = gas_limits // blocks - _GAS_TARGET
    delta = max(-_GAS_TARGET, min(_GAS_TARGET, delta))
    # big.Div is Euclidean: it rounds down for these divisors
    return max(_MIN_BASE_FEE, base_fee + base_fee * delta // _GAS_TARGET // _MAX_CHANGE)


def base_fee_by_premiums(base_fee: int, offers: Iterable[tuple[int, int]]) -> int:
    """The next base fee by what is offered above it: (premium, gas limit) of each message."""
    left = _TARGET_INDEX
    percentile = 0
    for premium, limit in sorted(offers, reverse=True):
        if left < limit:
            percentile = premium
            break
        left -= limit
    change = (base_fee + _MAX_CHANGE - 1) // _MAX_CHANGE
    return max(_MIN_BASE_FEE, base_fee + min(change, percentile - change))


async def next_base_fee(ctx: Context, tipset: Tipset) -> int:
    """The base fee of a tipset's children. Errors: NotHeld."""
    forks = fork_heights(ctx.network)
    breeze = forks["UpgradeBreezeHeight"]
    if 0 <= breeze < tipset.height < breeze + _BREEZE_EPOCHS:
        return _MIN_BASE_FEE
    base_fee = tipset.blocks[0].parent_base_fee
    by_premium = tipset.height >= forks["UpgradeFireHorseHeight"]
    offers: dict[bytes | tuple[bytes, int], Message] = {}
    for block in tipset.blocks:
        await ctx.checkpoint()
        for some in await load_block_messages(ctx.objects, block, ctx.checkpoint):
            for one in some:
                message = one.message
                offers.setdefault((message.from_, message.nonce) if by_premium else one.cid, message)
    if by_premium:
        return base_fee_by_premiums(
            base_fee, [(effective_premium(one, base_fee), one.gas_limit) for one in offers.values()]
        )
    limits = sum(one.gas_limit for one in offers.values())
    return base_fee_by_gas(base_fee, limits, len(tipset.blocks), tipset.height <= forks["UpgradeSmokeHeight"])
