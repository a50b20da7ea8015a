"""Gas prices, base fees and fee history.

Source: Lotus `node/impl/eth/gas.go`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, cast

import orjson

from chain.eth.transaction import effective_premium
from chain.tipset import Tipset, TipsetKey
from rpc import eth_json
from rpc.context import Context
from rpc.errors import MethodError
from rpc.json_wire import go_float
from rpc.lookup.decoded_cache import decoded_cache, keep
from rpc.lookup.eth.base_fee import next_base_fee
from rpc.lookup.eth.block_parameter import (
    select_text,
)
from rpc.lookup.eth.executed_tipset import PostRoots, find_post_roots, load_executed, load_receipts
from rpc.lookup.forward import forward
from rpc.lookup.gas_premium import MIN_PREMIUM, estimate_premium, with_noise
from rpc.params import EthUint64, RawParams, json_kind, param_of, raw_list
from rpc.registry import EVERY_VERSION, Cost, method

#: the most blocks, and the most percentiles, of one fee history
MAX_BLOCKS: Final = 1024
MAX_PERCENTILES: Final = 100

#: tipsets of a fee history that are read at once
_TOGETHER: Final = 16
#: bytes of memory that a tipset's fees take, and more for each message
_PAID_BYTES: Final = 600
_MESSAGE_BYTES: Final = 100
#: messages that are looked at between two checkpoints
_RUN: Final = 64

_COUNT: Final = param_of("count", EthUint64)


# --- base fee ------------------------------------------------------------------------------------------


@method("Filecoin.EthBaseFee", aliases=("eth_baseFee",), versions=EVERY_VERSION)
async def eth_base_fee(ctx: Context) -> str:
    """attoFIL a gas unit that the next block will burn. Errors: NotHeld."""
    return hex(await next_base_fee(ctx, (await ctx.head()).tipset))


@method("Filecoin.EthGasPrice", aliases=("eth_gasPrice",), versions=EVERY_VERSION, cost=Cost.SCAN)
async def eth_gas_price(ctx: Context) -> str:
    """The head's base fee and the premium that is suggested, attoFIL a gas unit. Errors: NotHeld."""
    premium = with_noise(await estimate_premium(ctx, 0, TipsetKey()))
    return hex((await ctx.head()).tipset.blocks[0].parent_base_fee + premium)


@method(
    "Filecoin.EthMaxPriorityFeePerGas", aliases=("eth_maxPriorityFeePerGas",), versions=EVERY_VERSION, cost=Cost.SCAN
)
async def eth_max_priority_fee_per_gas(ctx: Context) -> str:
    """The premium that is suggested, attoFIL a gas unit, with the noise of half a percent. Errors: NotHeld."""
    return hex(with_noise(await estimate_premium(ctx, 0, TipsetKey())))


# --- fee history ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    count: int
    newest: str
    #: None where the client wants no rewards at all
    percentiles: list[float] | None


def _asked(params: Any) -> _Asked:
    """Errors: MethodError."""
    params = raw_list(params, 2, 3)
    percentiles = params[2] if len(params) == 3 else None
    if percentiles is not None and not isinstance(percentiles, list):
        kind = json_kind(percentiles)
        raise MethodError(f"decoding params: json: cannot unmarshal {kind} into Go value of type []float64")
    for value in percentiles or ():
        if value is not None and json_kind(value) != "number":
            kind = json_kind(value)
            raise MethodError(f"decoding params: json: cannot unmarshal {kind} into Go value of type float64")
    newest = params[1]
    if newest is not None and not isinstance(newest, str):
        kind = json_kind(newest)
        raise MethodError(f"decoding params: json: cannot unmarshal {kind} into Go value of type string")
    try:
        count = _COUNT.decode(params[0])
    except ValueError as error:
        raise MethodError(f"decoding params: {error}") from None
    if count > MAX_BLOCKS:
        raise MethodError("block count should be smaller than 1024")
    if percentiles is None:
        return _Asked(count, newest or "", None)
    if len(percentiles) > MAX_PERCENTILES:
        raise MethodError("length of the reward percentile array cannot be greater than 100")
    values = [float(value or 0) for value in percentiles]
    for at, value in enumerate(values):
        if not 0 <= value <= 100:
            raise MethodError(f"invalid reward percentile: {value:f} should be between 0 and 100")
        if at and value < values[at - 1]:
            raise MethodError(f"invalid reward percentile: {value:f} should be larger than {values[at - 1]:f}")
    return _Asked(count, newest or "", values)


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


async def _all_paid(ctx: Context, tipsets: Sequence[tuple[Tipset, PostRoots]], *, has_rewards: bool) -> list[Paid]:
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


@method("Filecoin.EthFeeHistory", aliases=("eth_feeHistory",), versions=EVERY_VERSION, cost=Cost.SCAN)
async def eth_fee_history(ctx: Context, params: RawParams) -> Any:
    """Base fees, gas used and rewards of the blocks up to one: (count up to 1,024, newest block, percentiles).

    Errors: what is wrong with the parameters; NotHeld; `pending` needs a full node.
    """
    asked = _asked(params)
    newest = tipset = await select_text(ctx, asked.newest, strict=False)
    post = await find_post_roots(ctx, tipset)
    if post is None and asked.count and tipset.height:
        return await forward(ctx, "Filecoin.EthFeeHistory", params)
    wanted: list[tuple[Tipset, PostRoots]] = []
    while len(wanted) < asked.count and tipset.height > 0 and post is not None:
        wanted.append((tipset, post))
        post = PostRoots(tipset.parent_state_root, tipset.parent_message_receipts)
        await ctx.checkpoint()
        tipset = await ctx.index.parent(tipset)
    fees = await _all_paid(ctx, wanted, has_rewards=bool(asked.percentiles))
    base_fees = [newest, *(one for one, _ in wanted)]
    answer = {
        "oldestBlock": hex(wanted[-1][0].height if wanted else 1),
        "baseFeePerGas": [hex(one.blocks[0].parent_base_fee) for one in reversed(base_fees)],
        "gasUsedRatio": [
            orjson.Fragment(go_float(paid.gas / (eth_json.BLOCK_GAS_LIMIT * len(one.blocks))))
            for (one, _), paid in zip(reversed(wanted), reversed(fees), strict=True)
        ],
    }
    if asked.percentiles is not None:
        shown: list[list[str]] = []
        for paid in reversed(fees):
            await ctx.checkpoint()
            shown.append([hex(one) for one in paid.rewards(asked.percentiles)])
        answer["reward"] = shown
    return answer
