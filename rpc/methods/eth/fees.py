"""Gas prices, base fees and fee history.

Source: Lotus `node/impl/eth/gas.go`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from chain.eth.transaction import effective_premium
from chain.tipset import Tipset, TipsetKey
from rpc import eth_json
from rpc.context import Context
from rpc.errors import MethodError
from rpc.json_wire import go_float
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


def rewards(percentiles: Sequence[float], paid: Sequence[tuple[int, int]]) -> list[int]:
    """The premium at each percentile of the gas used; `paid` are (premium, gas used) of a block's messages."""
    if not paid:
        return [MIN_PREMIUM] * len(percentiles)
    ordered = sorted(paid, key=lambda one: one[0])
    total = sum(gas for _, gas in ordered)
    found: list[int] = []
    at = used = 0
    for percentile in percentiles:
        threshold = int(total * percentile / 100)
        while used < threshold and at < len(ordered) - 1:
            used += ordered[at][1]
            at += 1
        found.append(ordered[at][0])
    return found


async def _fees(
    ctx: Context, tipset: Tipset, post: PostRoots, percentiles: list[float] | None
) -> tuple[int, list[int]]:
    """(gas used by a tipset's messages, the rewards). Errors: NotHeld."""
    if not percentiles:
        return sum(one.gas_used for one in await load_receipts(ctx, tipset, post)), []
    found = await load_executed(ctx, tipset, post)
    base_fee = tipset.blocks[0].parent_base_fee
    paid: list[tuple[int, int]] = []
    for number, (one, receipt) in enumerate(zip(found.messages, found.receipts, strict=True)):
        if not number % _RUN:
            await ctx.checkpoint()
        paid.append((effective_premium(one.message, base_fee), receipt.gas_used))
    return sum(gas for _, gas in paid), rewards(percentiles, paid)


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
    fees: list[tuple[int, list[int]]] = []
    for at in range(0, len(wanted), _TOGETHER):
        some = wanted[at : at + _TOGETHER]
        fees += await asyncio.gather(*(_fees(ctx, one, after, asked.percentiles) for one, after in some))
    base_fees = [newest, *(one for one, _ in wanted)]
    answer = {
        "oldestBlock": hex(wanted[-1][0].height if wanted else 1),
        "baseFeePerGas": [hex(one.blocks[0].parent_base_fee) for one in reversed(base_fees)],
        "gasUsedRatio": [
            orjson.Fragment(go_float(used / (eth_json.BLOCK_GAS_LIMIT * len(one.blocks))))
            for (one, _), (used, _) in zip(reversed(wanted), reversed(fees), strict=True)
        ],
    }
    if asked.percentiles is not None:
        shown: list[list[str]] = []
        for _, some_rewards in reversed(fees):
            await ctx.checkpoint()
            shown.append([hex(one) for one in some_rewards])
        answer["reward"] = shown
    return answer
