"""Tipsets executed again: `StateReplay`, `StateCompute`. Sources: Lotus `chain/stmgr/{execute,utils}.go`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blockstore.cid import Cid
from chain.message import Message, decode_message, encode_message
from chain.tipset import Tipset
from rpc.context import Context
from rpc.errors import MethodError
from rpc.execution.call import gas_cap
from rpc.execution.invocation_json import invocation_json
from rpc.executor import Executor, Step
from rpc.lookup.self_check import execute_checked
from rpc.lookup.tipset_execution import EVENTS_SINCE, place_at, refuse_migration


async def replay(ctx: Context, executor: Executor, tipset: Tipset, cid: Cid) -> dict[str, Any]:
    """api.InvocResult of a message of a tipset. Errors: MethodError, NotHeld, Unavailable."""
    done = await execute_checked(ctx, executor, tipset, tracing=True)
    has_events = ctx.network.version_at(tipset.height) >= EVENTS_SINCE
    for one, applied in done.messages:
        if one.cid == cid:
            return await invocation_json(ctx, one.message, applied, has_gas_cost=True, has_events=has_events, cid=cid)
    raise MethodError("given message not found in tipset")


async def compute(
    ctx: Context, executor: Executor, height: int, messages: Sequence[Message], tipset: Tipset
) -> dict[str, Any]:
    """api.ComputeStateOutput: a tipset's state, messages applied on top, and all traces."""
    done = await execute_checked(ctx, executor, tipset, tracing=True)
    has_events = ctx.network.version_at(tipset.height) >= EVENTS_SINCE
    trace = []
    for step, applied in done.steps:
        message = decode_message(step.message)
        cid = step.cid or message.cid
        trace.append(
            await invocation_json(ctx, message, applied, has_gas_cost=not step.implicit, has_events=has_events, cid=cid)
        )
    root = done.root
    if messages:
        refuse_migration(ctx.network, tipset.height, height)
        place = place_at(ctx, tipset, root, height, tipset.min_timestamp, tracing=True)
        cap = gas_cap(ctx)
        steps = [Step(raw := encode_message(one), len(raw), gas_cap=cap) for one in messages]
        run = await executor.run(place, steps, keep_state=True)
        assert run.root is not None
        root = run.root
        trace += [
            await invocation_json(ctx, one, applied, has_gas_cost=True, has_events=has_events)
            for one, applied in zip(messages, run.applied, strict=True)
        ]
    return {"Root": root, "Trace": trace}
