"""What the messages of a tipset paid, kept: fee histories ask for the same tipsets again and again.

Source: Lotus `node/impl/eth/gas.go`, `utils.go`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, cast

from chain.eth.transaction import effective_premium
from chain.tipset import Tipset
from rpc.context import Context
from rpc.lookup.decoded_cache import decoded_cache, keep
from rpc.lookup.eth.executed_tipset import PostRoots, load_executed, load_receipts
from rpc.lookup.gas_premium import MIN_PREMIUM

#: tipsets that are read at once
_TOGETHER: Final = 16
#: bytes of memory that a tipset's fees take, and more for each message
_PAID_BYTES: Final = 600
_MESSAGE_BYTES: Final = 100
#: messages that are looked at between two checkpoints
_RUN: Final = 64


@dataclass(frozen=True, slots=True)
class Paid:
    """The gas that a tipset's messages used in all; their premiums, rising; the gas of those before each of them.

    `premiums` is None where nobody has asked for rewards yet.
    """

    gas: int
    premiums: tuple[int, ...] | None
    before: tuple[int, ...] = ()

    @classmethod
    def of(cls, paid: Sequence[tuple[int, int]]) -> Paid:
        """`paid`: (premium, gas used) of each message."""
        ordered = sorted(paid, key=lambda one: one[0])
        sums = tuple(accumulate((gas for _, gas in ordered), initial=0))
        return cls(sums[-1], tuple(premium for premium, _ in ordered), sums[:-1])

    def rewards(self, percentiles: Sequence[float]) -> list[int]:
        """The premium at each percentile of the gas used."""
        if not self.premiums:
            return [MIN_PREMIUM] * len(percentiles)
        last = len(self.premiums) - 1
        thresholds = (int(self.gas * percentile / 100) for percentile in percentiles)
        return [self.premiums[min(bisect_left(self.before, threshold), last)] for threshold in thresholds]


async def all_paid(ctx: Context, tipsets: Sequence[tuple[Tipset, PostRoots]], *, has_rewards: bool) -> list[Paid]:
    """What the messages of each tipset paid. Errors: NotHeld."""
    cache = decoded_cache(ctx, "eth_paid")
    found: list[Paid | None] = []
    for tipset, _ in tipsets:
        kept = cache.get(tipset.key)
        is_enough = kept is not None and (kept[0].premiums is not None or not has_rewards)
        found.append(kept[0] if kept is not None and is_enough else None)
    unknown = [at for at, paid in enumerate(found) if paid is None]
    for first in range(0, len(unknown), _TOGETHER):
        some = unknown[first : first + _TOGETHER]
        read = await asyncio.gather(*(_read_paid(ctx, *tipsets[at], has_rewards=has_rewards) for at in some))
        for at, paid in zip(some, read, strict=True):
            found[at] = paid
            keep(cache, tipsets[at][0].key, paid, _PAID_BYTES + _MESSAGE_BYTES * len(paid.before))
    return cast("list[Paid]", found)


async def _read_paid(ctx: Context, tipset: Tipset, post: PostRoots, *, has_rewards: bool) -> Paid:
    if not has_rewards:
        return Paid(sum(one.gas_used for one in await load_receipts(ctx, tipset, post)), None)
    found = await load_executed(ctx, tipset, post)
    base_fee = tipset.blocks[0].parent_base_fee
    paid: list[tuple[int, int]] = []
    for number, (one, receipt) in enumerate(zip(found.messages, found.receipts, strict=True)):
        if not number % _RUN:
            await ctx.checkpoint()
        paid.append((effective_premium(one.message, base_fee), receipt.gas_used))
    return Paid.of(paid)
