"""What an execution did, in the forms of other Ethereum nodes: geth's `debug_*`, Parity's `trace_call`.

Lotus has none of these. Forest has `trace_call` and `debug_traceTransaction`. Sources: go-ethereum `eth/tracers`;
Forest `src/rpc/methods/eth/trace`.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from chain.address import Address
from chain.errors import BadObject, BadRequest, NotHeld
from chain.eth.types import eth_address
from chain.index.coverage import covered, ranges_text
from chain.index.eth_rows import ETH_TXS_INDEX
from chain.message import Message, encode_message
from chain.tipset import Tipset
from rpc import eth_json
from rpc.context import Context
from rpc.errors import MethodError
from rpc.execution.answers import answer_once
from rpc.execution.eth_call import simulate
from rpc.execution.eth_message import EthCall, EthCallParam
from rpc.execution.or_forward import execute_or_forward
from rpc.execution.state_changes import called_actors, changes
from rpc.execution.state_json import parity_difference
from rpc.execution.tracers import NOOP, Traced, TraceOptions, tracer_answer, tracer_options
from rpc.execution.transaction_replay import replay_message
from rpc.executor import Executor
from rpc.json_wire import encoder
from rpc.lookup.actor_states import load_tree
from rpc.lookup.eth.block_parameter import (
    LATEST,
    BlockParam,
    BlockParameter,
    block_hash,
    node_block_parameter,
    select,
)
from rpc.lookup.eth.parity_traces import traces_of
from rpc.lookup.eth.transaction_tipset import transaction_tipset
from rpc.lookup.eth.transactions import find_message_cid, resolve_eth_address
from rpc.lookup.forward import forward
from rpc.lookup.message_search import Miss
from rpc.params import EthHash, RawParams, param_of, raw_list
from rpc.registry import EVERY_VERSION, Cache, Cost, method

_HASH: Final = param_of("txHash", EthHash)
_BLOCK: Final = param_of("block", BlockParam)
_CALL: Final = param_of("call", EthCallParam)
_OPTIONS: Final = param_of("options", TraceOptions)
_KINDS: Final = frozenset({"trace", "stateDiff"})


# --- of a transaction ----------------------------------------------------------------------------------


@method(
    "debug_traceTransaction",
    aliases=("Forest.EthDebugTraceTransaction",),
    versions=EVERY_VERSION,
    cost=Cost.EXECUTE,
    answered="executed",
    cache=Cache.NEVER,
)
async def debug_trace_transaction(ctx: Context, params: RawParams) -> Any:
    """What a transaction on chain did, executed again: (hash, {"tracer", "tracerConfig"}). Tracers: `callTracer`,
    `prestateTracer`, `flatCallTracer`, `noopTracer`.

    Errors: BadRequest (also the default tracer, which logs opcodes), NotHeld, NeedsNode.
    """
    given = raw_list(params, 1, 2)
    try:
        digest: bytes = _HASH.decode(given[0])
        raw: dict[str, Any] = _OPTIONS.decode(given[1] if len(given) == 2 else None)
    except ValueError as error:
        raise MethodError(f"decoding params: {error}") from None
    options = tracer_options(raw)
    tipset = await _on_chain(ctx, digest)
    asked = [eth_json.data(digest), raw]
    if tipset is None:
        return await forward(ctx, "debug_traceTransaction", asked)
    if options.tracer == NOOP:
        return {}
    executed_in = tipset

    async def make(executor: Executor) -> bytes:
        done = await replay_message(ctx, executor, executed_in, await find_message_cid(ctx, digest))
        message = done.one.message
        tree = await load_tree(ctx, done.after, executed_in.height)
        place = {
            "blockHash": eth_json.data(block_hash(executed_in)),
            "blockNumber": executed_in.height,
            "transactionHash": eth_json.data(digest),
            "transactionPosition": done.index,
        }
        caller = await resolve_eth_address(tree, Address(message.from_))
        traced = Traced(caller, message, done.applied, done.before, done.after, executed_in.height, place)
        return await tracer_answer(ctx, options, traced)

    async def run(executor: Executor) -> orjson.Fragment:
        key = b"debug" + executed_in.key + digest + options.key
        return orjson.Fragment(await answer_once(ctx, key, lambda: make(executor)))

    return await execute_or_forward(ctx, run, "debug_traceTransaction", asked)


async def _on_chain(ctx: Context, digest: bytes) -> Tipset | None:
    """The tipset that a transaction was executed in; None where a full node is to be asked.

    Errors: BadRequest, NotHeld.
    """
    tipset = await transaction_tipset(ctx, digest)
    if not isinstance(tipset, Miss):
        return tipset
    if tipset is Miss.BEYOND_HELD:
        if ctx.node is not None:
            return None
        ranges = ranges_text(await covered(ctx.store, ETH_TXS_INDEX))
        raise NotHeld(f"transaction {eth_json.data(digest)} (transactions are indexed for {ranges})")
    if ctx.node is not None and await forward(ctx, "Filecoin.EthGetTransactionByHash", [eth_json.data(digest)]):
        raise BadRequest("no trace for pending transactions")
    raise BadRequest("transaction not found")


# --- of a call -----------------------------------------------------------------------------------------


def _message(call: EthCall) -> Message:
    try:
        return call.message()
    except MethodError as error:
        raise MethodError(f"failed to convert ethcall to filecoin message: {error}") from None


@method("debug_traceCall", versions=EVERY_VERSION, cost=Cost.EXECUTE, answered="executed", cache=Cache.NEVER)
async def debug_trace_call(ctx: Context, params: RawParams) -> Any:
    """What a call would do after a block: (call, block, options as of `debug_traceTransaction`).

    The frame of a call that fails says so. Errors: BadRequest, NotHeld, NeedsNode.
    """
    given = raw_list(params, 2, 3)
    try:
        call: EthCall = _CALL.decode(given[0])
        block: BlockParameter = _BLOCK.decode(given[1])
        raw: dict[str, Any] = _OPTIONS.decode(given[2] if len(given) == 3 else None)
    except ValueError as error:
        raise MethodError(f"decoding params: {error}") from None
    options = tracer_options(raw)
    message = _message(call)
    tipset = await select(ctx, block)
    if options.tracer == NOOP:
        return {}

    async def make(executor: Executor) -> bytes:
        done = await simulate(ctx, executor, message, tipset)
        assert done.after is not None
        caller = eth_address(Address(message.from_))
        traced = Traced(caller, done.message, done.applied, done.before, done.after, tipset.height)
        return await tracer_answer(ctx, options, traced)

    async def run(executor: Executor) -> orjson.Fragment:
        key = b"debug call" + tipset.key + encode_message(message) + options.key
        return orjson.Fragment(await answer_once(ctx, key, lambda: make(executor)))

    asked = [call.to_json(), node_block_parameter(tipset), raw]
    return await execute_or_forward(ctx, run, "debug_traceCall", asked, at=tipset)


@method(
    "trace_call",
    aliases=("Forest.EthTraceCall",),
    versions=EVERY_VERSION,
    cost=Cost.EXECUTE,
    answered="executed",
    cache=Cache.NEVER,
)
async def trace_call(ctx: Context, params: RawParams) -> Any:
    """What a call would do after a block: (call, kinds, block; `latest` where none is given).

    Kinds: `trace` (its calls) and `stateDiff` (what it changes). Errors: as `debug_traceCall`.
    """
    given = raw_list(params, 2, 3)
    try:
        call: EthCall = _CALL.decode(given[0])
        block: BlockParameter = _BLOCK.decode(given[2] if len(given) == 3 and given[2] is not None else LATEST)
    except ValueError as error:
        raise MethodError(f"decoding params: {error}") from None
    kinds = _kinds(given[1])
    message = _message(call)
    tipset = await select(ctx, block)

    async def make(executor: Executor) -> bytes:
        done = await simulate(ctx, executor, message, tipset)
        assert done.after is not None
        try:
            traces = await traces_of(eth_address(Address(message.from_)), done.applied.trace, ctx.checkpoint)
        except BadObject as error:
            raise NotHeld(f"the calls of this message: {error}") from None
        difference = None
        if "stateDiff" in kinds:
            called = await called_actors(done.applied, ctx.checkpoint)
            difference = await parity_difference(changes(ctx, done.before, done.after, tipset.height, called))
        return encoder(ctx.network.address_prefix)(
            {
                "output": traces[0]["result"].get("output", "0x") if traces else "0x",
                "stateDiff": difference,
                "trace": traces if "trace" in kinds else [],
                "vmTrace": None,
            }
        )

    async def run(executor: Executor) -> orjson.Fragment:
        key = b"trace call" + tipset.key + encode_message(message) + repr(sorted(kinds)).encode()
        return orjson.Fragment(await answer_once(ctx, key, lambda: make(executor)))

    asked = [call.to_json(), sorted(kinds), node_block_parameter(tipset)]
    return await execute_or_forward(ctx, run, "trace_call", asked, at=tipset)


def _kinds(given: Any) -> frozenset[str]:
    """Errors: BadRequest."""
    if not isinstance(given, list) or not given or len(given) > 3:
        raise BadRequest('trace_call takes a list of kinds: "trace", "stateDiff"')
    for kind in given:
        if kind == "vmTrace":
            raise BadRequest("vmTrace cannot be had: Filecoin's virtual machine does not show single instructions")
        if kind not in _KINDS:
            raise BadRequest(f"unknown kind of trace {str(kind)[:40]!r}: there are trace and stateDiff")
    return frozenset(given)
