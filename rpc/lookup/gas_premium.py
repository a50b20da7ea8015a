"""Estimates gas premiums from the messages on chain. Source: Lotus `node/impl/gasutils`.

As in Lotus, noise of half a percent keeps messages apart.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from chain.tipset import TipsetKey
from rpc.context import Context
from rpc.lookup.tipset_inclusion import included_in
from rpc.lookup.tipsets import load_tipset, read_tipset

#: attoFIL per gas unit: the lowest suggestion
MIN_PREMIUM: Final = 100_000
BLOCK_GAS_TARGET: Final = 5_000_000_000
#: the largest number of blocks of an estimate
_MOST_BLOCKS: Final = 128
_PRECISION: Final = 32


def median_premium(prices: Sequence[tuple[int, int]], blocks: int) -> int:
    """The premium that 52.5 % of the gas of `blocks` blocks paid at least; `prices` are (premium, gas limit)."""
    left = BLOCK_GAS_TARGET * blocks // 2 + BLOCK_GAS_TARGET * blocks // 40
    last = before = 0
    for premium, limit in sorted(prices, reverse=True):
        last, before = premium, last
        left -= limit
        if left < 0:
            break
    return (last + before) // 2 if before else last


def with_noise(premium: int) -> int:
    """The premium, give or take half a percent."""
    noise = 1 + random.gauss(0, 0.005)
    return premium * (int(noise * (1 << _PRECISION)) + 1) >> _PRECISION


async def estimate_premium(ctx: Context, within: int, key: TipsetKey) -> int:
    """The premium, in attoFIL per gas unit, for inclusion within so many blocks, without noise. Errors: NotHeld."""
    within = min(max(within, 1), _MOST_BLOCKS)
    prices: list[tuple[int, int]] = []
    blocks = 0
    tipset = await read_tipset(ctx, key)
    for _ in range(2 * within):
        if tipset.height == 0:
            break
        tipset = await load_tipset(ctx, tipset.parents)
        blocks += len(tipset.blocks)
        for one in await included_in(ctx, tipset):
            prices.append((one.message.gas_premium, one.message.gas_limit))
    premium = median_premium(prices, blocks)
    if premium < MIN_PREMIUM:
        return {1: 2 * MIN_PREMIUM, 2: MIN_PREMIUM * 3 // 2}.get(within, MIN_PREMIUM)
    return premium
