"""api.InvocResult: a message, its receipt, what it cost, and its trace. Source: Lotus `chain/stmgr/utils.go`."""

from __future__ import annotations

from typing import Any

from blockstore.cid import Cid
from chain.message import Message, Receipt
from rpc import lotus_json
from rpc.context import Context
from rpc.execution.revert import failure_text
from rpc.executor import Applied
from rpc.json_wire import encoder
from rpc.lookup.execution_trace import trace_json


async def invocation_json(
    ctx: Context, message: Message, applied: Applied, *, has_gas_cost: bool, has_events: bool, cid: Cid | None = None
) -> dict[str, Any]:
    """`cid`: the message's own on chain where that is a signed one. `Duration` is 0: no client may rely on it."""
    receipt = Receipt(1 if has_events else 0, applied.exit_code, applied.return_, applied.gas_used, applied.events_root)
    return {
        "MsgCid": message.cid if cid is None else cid,
        "Msg": lotus_json.message(message),
        "MsgRct": lotus_json.receipt(receipt),
        "GasCost": _gas_cost(message, applied if has_gas_cost else None),
        "ExecutionTrace": await trace_json(applied.trace, encoder(ctx.network.address_prefix), ctx.checkpoint),
        "Error": failure_text(applied),
        "Duration": 0,
    }


def _gas_cost(message: Message, applied: Applied | None) -> dict[str, Any]:
    """api.MsgGasCost; implicit messages have none."""
    if applied is None:
        names = ("GasUsed", "BaseFeeBurn", "OverEstimationBurn", "MinerPenalty", "MinerTip", "Refund", "TotalCost")
        return {"Message": None, **dict.fromkeys(names, "0")}
    return {
        "Message": message.cid,
        "GasUsed": str(applied.gas_used),
        "BaseFeeBurn": str(applied.base_fee_burn),
        "OverEstimationBurn": str(applied.over_estimation_burn),
        "MinerPenalty": str(applied.penalty),
        "MinerTip": str(applied.miner_tip),
        "Refund": str(applied.refund),
        "TotalCost": str(message.gas_fee_cap * message.gas_limit - applied.refund),
    }
