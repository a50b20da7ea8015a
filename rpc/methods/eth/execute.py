"""What only a full node can do: execute calls, estimate gas, take transactions.

Source: Lotus `node/impl/eth/gas.go`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from rpc import eth_json
from rpc.context import Context
from rpc.errors import MethodError
from rpc.lookup.eth.block_parameter import (
    PENDING,
    BlockParam,
    BlockParameter,
    node_block_parameter,
    select,
)
from rpc.lookup.forward import forward
from rpc.params import EthBytes, RawParams, param_of, raw_list
from rpc.registry import EVERY_VERSION, Cost, method

_BLOCK: Final = param_of("block", BlockParam)
#: by name and alias: what is passed on as it came
_FORWARDED: Final = (
    ("Filecoin.EthSendRawTransaction", "eth_sendRawTransaction"),
    ("Filecoin.EthSendRawTransactionUntrusted", None),
)


async def _pinned(ctx: Context, value: Any) -> Any:
    """A block parameter as the hash of the tipset that it means here. Errors: BadRequest, NullRound, NotFound."""
    block: BlockParameter = _BLOCK.decode(value)
    return node_block_parameter(await select(ctx, block))


@method("Filecoin.EthCall", aliases=("eth_call",), versions=EVERY_VERSION, cost=Cost.EXECUTE, answered="forwarded")
async def eth_call(ctx: Context, call: Any, block: BlockParam) -> Any:
    """What a call returns after a block, executed by a full node. Errors: BadRequest, NeedsNode, the node's own
    (3 with the revert's bytes)."""
    return await forward(ctx, "Filecoin.EthCall", [call, node_block_parameter(await select(ctx, block))])


@method(
    "Filecoin.EthEstimateGas",
    aliases=("eth_estimateGas",),
    versions=EVERY_VERSION,
    cost=Cost.EXECUTE,
    answered="forwarded",
)
async def eth_estimate_gas(ctx: Context, params: RawParams) -> Any:
    """The gas that a call takes, executed by a full node after a block or at the head. Errors: as `EthCall`."""
    given = raw_list(params, 1, 2)
    try:
        block = await _pinned(ctx, PENDING if len(given) == 1 or given[1] is None else given[1])
    except ValueError as error:
        raise MethodError(f"decoding params: {error}") from None
    return await forward(ctx, "Filecoin.EthEstimateGas", [given[0], block])


def _forward_transaction(name: str) -> Callable[..., Awaitable[Any]]:
    async def handler(ctx: Context, transaction: EthBytes) -> Any:
        return await forward(ctx, name, [eth_json.data(transaction)])

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
    )(_forward_transaction(_name))
