"""Messages executed beside the chain, and tipsets executed again. Source: Lotus `node/impl/full/state.go`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from blockstore.cid import Cid
from chain.errors import ChainError, NotHeld
from chain.tipset import Tipset, TipsetKey
from rpc import lotus_json
from rpc.context import Context
from rpc.errors import MethodError, error_prefix
from rpc.execution.call import BLOCK_GAS, Prior, call
from rpc.execution.invocation_json import invocation_json
from rpc.execution.message_param import MessageParam
from rpc.execution.or_forward import execute_or_forward
from rpc.execution.replay import compute, replay
from rpc.executor import Executor
from rpc.json_wire import key_json
from rpc.lookup.message_search import NO_LIMIT, Epochs, Found, Miss, search
from rpc.lookup.tipset_execution import EVENTS_SINCE, crosses_migration
from rpc.lookup.tipsets import load_tipset, read_tipset
from rpc.registry import Cache, Cost, method


@method("Filecoin.StateCall", cost=Cost.EXECUTE, answered="executed", cache=Cache.NEVER)
async def state_call(ctx: Context, message: MessageParam, key: TipsetKey) -> Any:
    """What a message would do on a tipset's parent state, after that tipset's messages of the same sender.

    It pays no gas. Errors: MethodError (no such sender), NotHeld, NeedsNode.
    """

    async def run(executor: Executor) -> dict[str, Any]:
        tipset = await read_tipset(ctx, key)
        while tipset.height > 0:
            parent = await load_tipset(ctx, tipset.parents)
            if crosses_migration(ctx.network, parent.height, tipset.height + 1) is None:
                break
            tipset = parent
        asked = message if message.gas_limit else replace(message, gas_limit=BLOCK_GAS)
        done = await call(ctx, executor, asked, tipset, prior=Prior.SAME_SENDER, checks_gas=False, tracing=True)
        has_events = ctx.network.version_at(tipset.height) >= EVENTS_SINCE
        return await invocation_json(ctx, done.message, done.applied, has_gas_cost=False, has_events=has_events)

    params = [lotus_json.message(message), key_json(key)]
    return await execute_or_forward(ctx, run, "Filecoin.StateCall", params, 1)


@method("Filecoin.StateReplay", cost=Cost.EXECUTE, answered="executed", cache=Cache.NEVER)
async def state_replay(ctx: Context, key: TipsetKey, cid: Cid) -> Any:
    """What a message of a tipset did, executed again. An empty key: the message is searched for.

    Errors: MethodError (not in the tipset), NotHeld, NeedsNode.
    """

    if not key and (ctx.node is not None or ctx.executor is not None):
        key, cid = await _execution(ctx, cid)

    async def run(executor: Executor) -> dict[str, Any]:
        if not key:
            raise NotHeld(f"where message {cid} was executed")
        with error_prefix(f"loading specified tipset {key}"):
            tipset = await load_tipset(ctx, key)
        return await replay(ctx, executor, tipset, cid)

    params = [key_json(key), {"/": str(cid)} if cid else None]
    return await execute_or_forward(ctx, run, "Filecoin.StateReplay", params)


async def _execution(ctx: Context, message: Cid) -> tuple[TipsetKey, Cid]:
    """The tipset that includes a message, and the message executed; as given where that is not held here."""
    try:
        found = (await search(ctx, (await ctx.head()).tipset, message, NO_LIMIT, True))[1]
    except NotHeld:
        return TipsetKey(), message
    except ChainError as error:
        raise MethodError(f"searching for msg {message}: {error}") from error
    if isinstance(found, Found):
        return found.tipset.parents, found.cid
    if found is Miss.BEYOND_HELD:
        return TipsetKey(), message
    raise MethodError(f"didn't find msg {message}")


@method("Filecoin.StateCompute", cost=Cost.EXECUTE, answered="executed", cache=Cache.NEVER)
async def state_compute(ctx: Context, height: Epochs, messages: list[MessageParam], key: TipsetKey) -> Any:
    """The state after a tipset and further messages, with the trace of every message. Errors: NotHeld, NeedsNode."""

    async def run(executor: Executor) -> dict[str, Any]:
        tipset: Tipset = await read_tipset(ctx, key)
        return await compute(ctx, executor, height, messages, tipset)

    params = [height, [lotus_json.message(one) for one in messages], key_json(key)]
    return await execute_or_forward(ctx, run, "Filecoin.StateCompute", params, 2)
