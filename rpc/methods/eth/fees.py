"""Gas prices, base fees and fee history.

Source: Lotus `node/impl/eth/gas.go`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from chain.tipset import Tipset, TipsetKey
from rpc import eth_json
from rpc.context import Context
from rpc.errors import MethodError
from rpc.json_wire import go_float
from rpc.lookup.ahead.recent_questions import Question, note_question
from rpc.lookup.eth.base_fee import next_base_fee
from rpc.lookup.eth.block_parameter import (
    select_text,
)
from rpc.lookup.eth.executed_tipset import PostRoots, find_post_roots
from rpc.lookup.eth.paid_fees import all_paid
from rpc.lookup.forward import forward
from rpc.lookup.gas_premium import estimate_premium, with_noise
from rpc.params import EthUint64, RawParams, json_kind, param_of, raw_list
from rpc.registry import EVERY_VERSION, Cache, Cost, method

#: the most blocks, and the most percentiles, of one fee history
MAX_BLOCKS: Final = 1024
MAX_PERCENTILES: Final = 100

_COUNT: Final = param_of("count", EthUint64)


# --- base fee ------------------------------------------------------------------------------------------


@method("Filecoin.EthBaseFee", aliases=("eth_baseFee",), versions=EVERY_VERSION, cache=Cache.HEAD)
async def eth_base_fee(ctx: Context) -> str:
    """attoFIL a gas unit that the next block will burn. Errors: NotHeld."""
    return hex(await next_base_fee(ctx, (await ctx.head()).tipset))


@method("Filecoin.EthGasPrice", aliases=("eth_gasPrice",), versions=EVERY_VERSION, cost=Cost.SCAN, cache=Cache.NEVER)
async def eth_gas_price(ctx: Context) -> str:
    """The head's base fee and the premium that is suggested, attoFIL a gas unit. Errors: NotHeld."""
    premium = with_noise(await estimate_premium(ctx, 0, TipsetKey()))
    return hex((await ctx.head()).tipset.blocks[0].parent_base_fee + premium)


@method(
    "Filecoin.EthMaxPriorityFeePerGas",
    aliases=("eth_maxPriorityFeePerGas",),
    versions=EVERY_VERSION,
    cost=Cost.SCAN,
    cache=Cache.NEVER,
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


@method("Filecoin.EthFeeHistory", aliases=("eth_feeHistory",), versions=EVERY_VERSION, cost=Cost.SCAN, cache=Cache.HEAD)
async def eth_fee_history(ctx: Context, params: RawParams) -> Any:
    """Base fees, gas used and rewards of the blocks up to one: (count up to 1,024, newest block, percentiles).

    Errors: what is wrong with the parameters; NotHeld; `pending` needs a full node.
    """
    asked = _asked(params)
    note_question(ctx, Question.FEES)
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
    fees = await all_paid(ctx, wanted, has_rewards=bool(asked.percentiles))
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
