"""Estimates gas premiums from the messages on chain. Source: Lotus `node/impl/gasutils`.

As in Lotus, noise of half a percent keeps messages apart.
"""

from __future__ import annotations

import heapq
import random
from typing import Final

from cachetools import LRUCache

from chain.tipset import Tipset, TipsetKey
from rpc.context import Context
from rpc.lookup.ahead.recent_questions import Question, note_question
from rpc.lookup.decoded_cache import decoded_cache, keep
from rpc.lookup.tipset_inclusion import included_in
from rpc.lookup.tipsets import load_tipset, read_tipset

#: attoFIL per gas unit: the lowest suggestion
MIN_PREMIUM: Final = 100_000
BLOCK_GAS_TARGET: Final = 5_000_000_000
#: the largest number of blocks of an estimate
_MOST_BLOCKS: Final = 128
_PRECISION: Final = 32
#: estimates that are kept, by tipset and number of blocks
_KEPT: Final = 256
#: memory that a message's premium and gas limit take
_PRICE_BYTES: Final = 140
#: messages that are looked at between two checkpoints
_RUN: Final = 64
_QUESTIONS: Final = {1: Question.PREMIUM, 10: Question.PREMIUM_SOON}


class MedianPremium:
    """The premium that 52.5 % of the gas of `blocks` blocks paid at least, of premiums added from the highest on."""

    __slots__ = ("_before", "_last", "_left")

    def __init__(self, blocks: int) -> None:
        self._left = BLOCK_GAS_TARGET * blocks // 2 + BLOCK_GAS_TARGET * blocks // 40
        self._last = self._before = 0

    def add(self, premium: int, limit: int) -> bool:
        """The next one, with its gas limit. Whether there were enough."""
        self._last, self._before = premium, self._last
        self._left -= limit
        return self._left < 0

    @property
    def premium(self) -> int:
        """attoFIL per gas unit; 0 for no messages."""
        return (self._last + self._before) // 2 if self._before else self._last


def with_noise(premium: int) -> int:
    """The premium, give or take half a percent."""
    noise = 1 + random.gauss(0, 0.005)
    return premium * (int(noise * (1 << _PRECISION)) + 1) >> _PRECISION


async def estimate_premium(ctx: Context, within: int, key: TipsetKey) -> int:
    """The premium, in attoFIL per gas unit, for inclusion within so many blocks, without noise. Errors: NotHeld."""
    within = min(max(within, 1), _MOST_BLOCKS)
    if within in _QUESTIONS:
        note_question(ctx, _QUESTIONS[within])
    tipset = await read_tipset(ctx, key)
    kept: LRUCache[tuple[TipsetKey, int], int] | None = ctx.caches.get("gas_premiums")
    if kept is None:
        kept = ctx.caches["gas_premiums"] = LRUCache(_KEPT)
    premium = kept.get((tipset.key, within))
    if premium is None:
        premium = kept[tipset.key, within] = await _premium(ctx, within, tipset)
    if premium < MIN_PREMIUM:
        return {1: 2 * MIN_PREMIUM, 2: MIN_PREMIUM * 3 // 2}.get(within, MIN_PREMIUM)
    return premium


async def _premium(ctx: Context, within: int, tipset: Tipset) -> int:
    """The median over the tipsets below one. Errors: NotHeld."""
    prices: list[list[tuple[int, int]]] = []
    blocks = 0
    for _ in range(2 * within):
        if tipset.height == 0:
            break
        await ctx.checkpoint()
        tipset = await load_tipset(ctx, tipset.parents)
        blocks += len(tipset.blocks)
        prices.append(await _prices(ctx, tipset))
    median = MedianPremium(blocks)
    for at, (premium, limit) in enumerate(heapq.merge(*prices, reverse=True)):
        if median.add(premium, limit):
            break
        if not at % _RUN:
            await ctx.checkpoint()
    return median.premium


async def _prices(ctx: Context, tipset: Tipset) -> list[tuple[int, int]]:
    """(premium, gas limit) of the messages of a tipset, falling, kept. Errors: NotHeld."""
    cache = decoded_cache(ctx, "gas_prices")
    known = cache.get(tipset.key)
    if known is not None:
        found: list[tuple[int, int]] = known[0]
        return found
    included = await included_in(ctx, tipset)
    found = sorted(((one.message.gas_premium, one.message.gas_limit) for one in included), reverse=True)
    keep(cache, tipset.key, found, _PRICE_BYTES * (len(found) + 2))
    return found
