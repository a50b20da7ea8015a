"""Gas of a message and what it should pay. Source: Lotus `node/impl/gasutils`, `node/impl/full/gas.go`.

A node adds noise of half a percent to premiums so that messages spread; so does this.
"""

from __future__ import annotations

from typing import Annotated, Any

from chain.address import Address
from chain.tipset import TipsetKey
from rpc import lotus_json
from rpc.context import Context
from rpc.execution import gas
from rpc.execution.call import NodePanics
from rpc.execution.message_param import MessageParam
from rpc.execution.or_forward import execute_or_forward
from rpc.executor import Executor
from rpc.json_wire import key_json
from rpc.lookup.gas_premium import estimate_premium, with_noise
from rpc.lookup.tipsets import read_tipset
from rpc.params import BigInt, Exactly, Int64, Uint64, field_of, mismatch, param_of
from rpc.registry import Cache, Cost, method

_AMOUNT = param_of("amount", BigInt).decode
_BOOL = Exactly("bool", bool, False).decode


class _SpecDecoder:
    go = "*api.MessageSendSpec"

    def decode(self, value: Any) -> tuple[int, bool]:
        """(MaxFee in attoFIL, MaximizeFeeCap). Errors: ValueError."""
        if value is None:
            return 0, False
        if not isinstance(value, dict):
            raise mismatch(value, "api.MessageSendSpec")
        fields = {name.lower(): item for name, item in value.items()}
        with field_of("MessageSendSpec", "MaxFee"):
            fee = 0 if fields.get("maxfee") is None else _AMOUNT(fields["maxfee"])
        with field_of("MessageSendSpec", "MaximizeFeeCap"):
            return fee, _BOOL(fields.get("maximizefeecap"))


SendSpec = Annotated[tuple[int, bool], _SpecDecoder()]


@method("Filecoin.GasEstimateGasPremium", cost=Cost.SCAN, cache=Cache.NEVER)
async def gas_estimate_gas_premium(
    ctx: Context, within: Uint64, sender: Address, gas_limit: Int64, key: TipsetKey
) -> str:
    """The premium, in attoFIL per gas unit, that gets a message included within so many blocks. Errors: NotHeld."""
    return str(with_noise(await estimate_premium(ctx, within, key)))


@method("Filecoin.GasEstimateFeeCap", cost=Cost.CHAIN, cache=Cache.HEAD)
async def gas_estimate_fee_cap(ctx: Context, message: MessageParam, blocks: Int64, key: TipsetKey) -> str:
    """attoFIL a gas unit that still pays the base fee after it rose for so many blocks. Errors: NotHeld."""
    return str(gas.estimate_fee_cap(await read_tipset(ctx, key), message.gas_premium, blocks))


@method("Filecoin.GasEstimateGasLimit", cost=Cost.EXECUTE, answered="executed", cache=Cache.NEVER)
async def gas_estimate_gas_limit(ctx: Context, message: MessageParam, key: TipsetKey) -> Any:
    """The gas that a message uses at the head. Errors: OutOfGas, ExecutionReverted, MethodError, NeedsNode."""

    async def run(executor: Executor) -> int:
        tipset = await read_tipset(ctx, key)
        try:
            return await gas.estimate_gas_limit(ctx, executor, message, tipset)
        except NodePanics:
            raise NodePanics("Filecoin.GasEstimateGasLimit") from None

    params = [lotus_json.message(message), key_json(key)]
    return await execute_or_forward(ctx, run, "Filecoin.GasEstimateGasLimit", params, 1)


@method("Filecoin.GasEstimateMessageGas", cost=Cost.EXECUTE, answered="executed", cache=Cache.NEVER)
async def gas_estimate_message_gas(ctx: Context, message: MessageParam, spec: SendSpec, key: TipsetKey) -> Any:
    """The message with gas limit, premium and fee cap set where they are zero. Errors: as `GasEstimateGasLimit`."""

    async def run(executor: Executor) -> dict[str, Any]:
        max_fee, maximizes = spec
        tipset = await read_tipset(ctx, key)
        try:
            found = await gas.estimate_message_gas(ctx, executor, message, tipset, max_fee, maximizes)
        except NodePanics:
            raise NodePanics("Filecoin.GasEstimateMessageGas") from None
        return lotus_json.message(found)

    params = [lotus_json.message(message), {"MaxFee": str(spec[0]), "MaximizeFeeCap": spec[1]}, key_json(key)]
    return await execute_or_forward(ctx, run, "Filecoin.GasEstimateMessageGas", params, 2)
