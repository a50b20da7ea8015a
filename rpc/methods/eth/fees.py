"""Fees, what every node says of itself, and what only a full node can do: execute, take transactions.

Sources: Lotus `node/impl/eth/gas.go`, `basic.go`, `chain/store/basefee.go`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from chain.eth.transaction import effective_premium
from chain.message import Message
from chain.tipset import Tipset, TipsetKey
from chain.tipset_messages import block_messages
from rpc import eth_json
from rpc.context import Context
from rpc.errors import MethodError
from rpc.json_wire import go_float
from rpc.lookup.eth.block_parameter import PENDING, Block, BlockParam, by_text, named, select
from rpc.lookup.eth.executed_tipset import Post, executed, post_of, receipts_of
from rpc.lookup.forward import forward
from rpc.lookup.gas_premium import MIN_PREMIUM, estimate_premium, with_noise
from rpc.lookup.network_upgrades import fork_heights
from rpc.methods.eth.block import EVERY
from rpc.params import EthBytes, EthUint64, RawParams, json_kind, param_of, raw_list
from rpc.registry import Cost, method

#: the most blocks, and the most percentiles, of one fee history
MAX_BLOCKS: Final = 1024
MAX_PERCENTILES: Final = 100

_MIN_BASE_FEE: Final = 100
_GAS_TARGET: Final = eth_json.BLOCK_GAS_LIMIT // 2
_TARGET_INDEX: Final = eth_json.BLOCK_GAS_LIMIT * 80 // 100 - 1
_MAX_CHANGE: Final = 8
_BREEZE_EPOCHS: Final = 120
#: tipsets of a fee history that are read at once
_TOGETHER: Final = 16

_COUNT: Final = param_of("count", EthUint64)
_BLOCK: Final = param_of("block", BlockParam)


# --- base fee ------------------------------------------------------------------------------------------


def _toward_zero(number: int, by: int) -> int:
    quotient = abs(number) // by
    return quotient if number >= 0 else -quotient


def base_fee_by_gas(base_fee: int, gas_limits: int, blocks: int, packed: bool) -> int:
    """The next base fee by how full the blocks are. `packed`: before Smoke, a block counted as full at 4/5."""
    if packed:
        delta = _toward_zero(5 * gas_limits, 4 * blocks) - _GAS_TARGET
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
        for some in await block_messages(ctx.objects, block):
            for one in some:
                message = one.message
                offers.setdefault((message.from_, message.nonce) if by_premium else one.cid, message)
    if by_premium:
        return base_fee_by_premiums(
            base_fee, [(effective_premium(one, base_fee), one.gas_limit) for one in offers.values()]
        )
    limits = sum(one.gas_limit for one in offers.values())
    return base_fee_by_gas(base_fee, limits, len(tipset.blocks), tipset.height <= forks["UpgradeSmokeHeight"])


@method("Filecoin.EthBaseFee", aliases=("eth_baseFee",), versions=EVERY)
async def eth_base_fee(ctx: Context) -> str:
    """attoFIL a gas unit that the next block will burn. Errors: NotHeld."""
    return hex(await next_base_fee(ctx, (await ctx.head()).tipset))


@method("Filecoin.EthGasPrice", aliases=("eth_gasPrice",), versions=EVERY, cost=Cost.SCAN)
async def eth_gas_price(ctx: Context) -> str:
    """The head's base fee and the premium that is suggested, attoFIL a gas unit. Errors: NotHeld."""
    premium = with_noise(await estimate_premium(ctx, 0, TipsetKey()))
    return hex((await ctx.head()).tipset.blocks[0].parent_base_fee + premium)


@method("Filecoin.EthMaxPriorityFeePerGas", aliases=("eth_maxPriorityFeePerGas",), versions=EVERY, cost=Cost.SCAN)
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


async def _fees(ctx: Context, tipset: Tipset, post: Post, percentiles: list[float] | None) -> tuple[int, list[int]]:
    """(gas used by a tipset's messages, the rewards). Errors: NotHeld."""
    if not percentiles:
        return sum(one.gas_used for one in await receipts_of(ctx, tipset, post)), []
    found = await executed(ctx, tipset, post)
    base_fee = tipset.blocks[0].parent_base_fee
    paid = [
        (effective_premium(one.message, base_fee), receipt.gas_used)
        for one, receipt in zip(found.messages, found.receipts, strict=True)
    ]
    return sum(gas for _, gas in paid), rewards(percentiles, paid)


@method("Filecoin.EthFeeHistory", aliases=("eth_feeHistory",), versions=EVERY, cost=Cost.SCAN)
async def eth_fee_history(ctx: Context, params: RawParams) -> Any:
    """Base fees, gas used and rewards of the blocks up to one: (count up to 1,024, newest block, percentiles).

    Errors: what is wrong with the parameters; NotHeld; `pending` needs a full node.
    """
    asked = _asked(params)
    newest = tipset = await by_text(ctx, asked.newest, strict=False)
    post = await post_of(ctx, tipset)
    if post is None and asked.count and tipset.height:
        return await forward(ctx, "Filecoin.EthFeeHistory", params)
    wanted: list[tuple[Tipset, Post]] = []
    while len(wanted) < asked.count and tipset.height > 0 and post is not None:
        wanted.append((tipset, post))
        post = Post(tipset.parent_state_root, tipset.parent_message_receipts)
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
        answer["reward"] = [[hex(one) for one in some] for _, some in reversed(fees)]
    return answer


# --- the node ------------------------------------------------------------------------------------------


@method("Filecoin.EthAccounts", aliases=("eth_accounts",), versions=EVERY, cost=Cost.FREE, answered="local")
async def eth_accounts(ctx: Context) -> list[str]:
    """Always empty: no accounts are managed."""
    return []


@method("Filecoin.EthProtocolVersion", aliases=("eth_protocolVersion",), versions=EVERY, cost=Cost.FREE)
async def eth_protocol_version(ctx: Context) -> str:
    """The network version at the head."""
    return hex(ctx.network.version_at((await ctx.head()).tipset.height))


@method("Filecoin.EthSyncing", aliases=("eth_syncing",), versions=EVERY, cost=Cost.EXECUTE, answered="forwarded")
async def eth_syncing(ctx: Context) -> Any:
    """How far the full node behind is with syncing; false without one: what is served is whole up to the head."""
    return False if ctx.node is None else await forward(ctx, "Filecoin.EthSyncing", [])


# --- what executes -------------------------------------------------------------------------------------


async def _pinned(ctx: Context, value: Any) -> Any:
    """A block parameter as the hash of the tipset that it means here. Errors: BadRequest, NullRound, NotFound."""
    block: Block = _BLOCK.decode(value)
    return named(await select(ctx, block))


@method("Filecoin.EthCall", aliases=("eth_call",), versions=EVERY, cost=Cost.EXECUTE, answered="forwarded")
async def eth_call(ctx: Context, call: Any, block: BlockParam) -> Any:
    """What a call returns after a block, executed by a full node. Errors: BadRequest, NeedsNode, the node's own
    (3 with the revert's bytes)."""
    return await forward(ctx, "Filecoin.EthCall", [call, named(await select(ctx, block))])


@method(
    "Filecoin.EthEstimateGas", aliases=("eth_estimateGas",), versions=EVERY, cost=Cost.EXECUTE, answered="forwarded"
)
async def eth_estimate_gas(ctx: Context, params: RawParams) -> Any:
    """The gas that a call takes, executed by a full node after a block or at the head. Errors: as `EthCall`."""
    given = raw_list(params, 1, 2)
    try:
        block = await _pinned(ctx, PENDING if len(given) == 1 or given[1] is None else given[1])
    except ValueError as error:
        raise MethodError(f"decoding params: {error}") from None
    return await forward(ctx, "Filecoin.EthEstimateGas", [given[0], block])


#: by name and alias: what is passed on as it came
_PASSED: Final = (
    ("Filecoin.EthSendRawTransaction", "eth_sendRawTransaction"),
    ("Filecoin.EthSendRawTransactionUntrusted", None),
)


def _passing(name: str) -> Callable[..., Awaitable[Any]]:
    async def handler(ctx: Context, transaction: EthBytes) -> Any:
        return await forward(ctx, name, [eth_json.data(transaction)])

    handler.__name__ = name.rpartition(".")[2]
    handler.__doc__ = "Answered by a full node. Errors: NeedsNode, and the node's own."
    return handler


for _name, _alias in _PASSED:
    method(
        _name,
        aliases=() if _alias is None else (_alias,),
        versions=EVERY,
        cost=Cost.EXECUTE,
        answered="forwarded",
    )(_passing(_name))
