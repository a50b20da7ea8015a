"""What only a full node can do: execute calls, estimate gas, take transactions.

Source: Lotus `node/impl/eth/gas.go`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from chain.message import encode_message
from rpc import eth_json
from rpc.context import Context
from rpc.errors import MethodError
from rpc.execution.answers import answer_once
from rpc.execution.eth_call import estimate_eth_gas, eth_call_result
from rpc.execution.eth_message import EthCall, EthCallParam
from rpc.execution.or_forward import execute_or_forward
from rpc.executor import Executor
from rpc.lookup.eth.block_parameter import (
    BlockParam,
    node_block_parameter,
    select,
)
from rpc.lookup.forward import forward
from rpc.params import EthBytes, RawParams, param_of, raw_list
from rpc.registry import EVERY_VERSION, Cache, Cost, method

_BLOCK: Final = param_of("block", BlockParam)
_CALL: Final = param_of("call", EthCallParam)
#: by name and alias: what is passed on as it came
_FORWARDED: Final = (
    ("Filecoin.EthSendRawTransaction", "eth_sendRawTransaction"),
    ("Filecoin.EthSendRawTransactionUntrusted", None),
)


@method(
    "Filecoin.EthCall",
    aliases=("eth_call",),
    versions=EVERY_VERSION,
    cost=Cost.EXECUTE,
    answered="executed",
    cache=Cache.HEAD,
)
async def eth_call(ctx: Context, call: EthCallParam, block: BlockParam) -> Any:
    """What a call returns after a block. Errors: BadRequest, NeedsNode, ExecutionReverted (with the revert's bytes)."""
    try:
        message = call.message()
    except MethodError as error:
        raise MethodError(f"failed to convert ethcall to filecoin message: {error}") from None
    tipset = await select(ctx, block)

    async def run(executor: Executor) -> str:
        key = b"call" + tipset.key + encode_message(message)
        return eth_json.data(await answer_once(ctx, key, lambda: eth_call_result(ctx, executor, message, tipset)))

    return await execute_or_forward(
        ctx, run, "Filecoin.EthCall", [call.to_json(), node_block_parameter(tipset)], at=tipset
    )


@method(
    "Filecoin.EthEstimateGas",
    aliases=("eth_estimateGas",),
    versions=EVERY_VERSION,
    cost=Cost.EXECUTE,
    answered="executed",
    cache=Cache.NEVER,
)
async def eth_estimate_gas(ctx: Context, params: RawParams) -> Any:
    """The gas limit that a call needs at the head. Errors: as `EthCall`."""
    given = raw_list(params, 1, 2)
    try:
        block = None if len(given) == 1 or given[1] is None else _BLOCK.decode(given[1])
        call: EthCall = _CALL.decode(given[0])
    except ValueError as error:
        raise MethodError(f"decoding params: {error}") from None
    message = call.message()
    tipset = (await ctx.head()).tipset if block is None else await select(ctx, block)

    async def run(executor: Executor) -> str:
        # estimated at the head, whatever the block
        key = b"gas" + (await ctx.head()).tipset.key + tipset.key + encode_message(message)
        return hex(await answer_once(ctx, key, lambda: estimate_eth_gas(ctx, executor, message, tipset)))

    asked = [call.to_json(), node_block_parameter(tipset)]
    return await execute_or_forward(ctx, run, "Filecoin.EthEstimateGas", asked, at=tipset)


def _forward_transaction(name: str) -> Callable[..., Awaitable[Any]]:
    async def handler(ctx: Context, transaction: EthBytes) -> Any:
        return await forward(ctx, name, [eth_json.data(transaction)], at_head=False)

    handler.__name__ = name.rpartition(".")[2]
    handler.__doc__ = "Answered by a full node. Errors: NeedsNode, and the node's own."
    return handler


for _name, _alias in _FORWARDED:
    method(
        _name,
        aliases=() if _alias is None else (_alias,),
        versions=EVERY_VERSION,
        cost=Cost.EXECUTE,
        answered="forwarded",
        cache=Cache.NEVER,
    )(_forward_transaction(_name))
